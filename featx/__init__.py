"""featx: image classifiers from frozen features, trained in seconds.

The public names are loaded when first used, so that ``import featx`` is quick and loads no network library.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    __version__: str
    from featx._internal.memory import clear_memory as clear_memory
    from featx.backbones import BACKBONES as BACKBONES
    from featx.backbones import build_trunk as build_trunk
    from featx.backbones import list_layers as list_layers
    from featx.cache import CacheFolder as CacheFolder
    from featx.cache import Features as Features
    from featx.cache import load_features as load_features
    from featx.classifier import Classifier as Classifier
    from featx.classifier import Diagnosis as Diagnosis
    from featx.classifier import Evaluation as Evaluation
    from featx.classifier import Fitting as Fitting
    from featx.classifier import Prediction as Prediction
    from featx.classifier import fit as fit
    from featx.errors import FeatxError as FeatxError
    from featx.errors import SettingError as SettingError
    from featx.explanation import Explanation as Explanation
    from featx.explanation import explain as explain
    from featx.extraction import Extraction as Extraction
    from featx.extraction import ExtractionPlan as ExtractionPlan
    from featx.extraction import Recipe as Recipe
    from featx.extraction import extract as extract
    from featx.extraction import plan as plan
    from featx.extraction.transformer import FeatureExtractor as FeatureExtractor
    from featx.finetuning.comparison import Comparison as Comparison
    from featx.finetuning.comparison import compare as compare
    from featx.finetuning.finetune import finetune as finetune
    from featx.heads import BNMLPHead as BNMLPHead
    from featx.heads import KNNHead as KNNHead
    from featx.heads import LogisticHead as LogisticHead
    from featx.heads import MLPHead as MLPHead
    from featx.heads import RidgeHead as RidgeHead
    from featx.heads import SVMHead as SVMHead
    from featx.heads import make_head as make_head
    from featx.inspection import Inspection as Inspection
    from featx.inspection import inspect as inspect
    from featx.pictures import Views as Views
    from featx.pictures import list_dataset as list_dataset
    from featx.reporting import report as report
    from featx.selection.cross_validation import CrossValidation as CrossValidation
    from featx.selection.cross_validation import cross_validate as cross_validate
    from featx.selection.few_shot import Shots as Shots
    from featx.selection.few_shot import few_shot as few_shot
    from featx.selection.sweep import Sweep as Sweep
    from featx.selection.sweep import sweep as sweep
    from featx.serving import serve as serve

_PLACES = {
    "BACKBONES": "backbones",
    "BNMLPHead": "heads",
    "CacheFolder": "cache",
    "Classifier": "classifier",
    "Comparison": "finetuning.comparison",
    "CrossValidation": "selection.cross_validation",
    "Diagnosis": "classifier",
    "Evaluation": "classifier",
    "Explanation": "explanation",
    "Extraction": "extraction",
    "ExtractionPlan": "extraction",
    "FeatureExtractor": "extraction.transformer",
    "Features": "cache",
    "FeatxError": "errors",
    "Fitting": "classifier",
    "Inspection": "inspection",
    "KNNHead": "heads",
    "LogisticHead": "heads",
    "MLPHead": "heads",
    "Prediction": "classifier",
    "Recipe": "extraction",
    "RidgeHead": "heads",
    "SVMHead": "heads",
    "SettingError": "errors",
    "Shots": "selection.few_shot",
    "Sweep": "selection.sweep",
    "Views": "pictures",
    "build_trunk": "backbones",
    "clear_memory": "_internal.memory",
    "compare": "finetuning.comparison",
    "cross_validate": "selection.cross_validation",
    "explain": "explanation",
    "extract": "extraction",
    "few_shot": "selection.few_shot",
    "finetune": "finetuning.finetune",
    "fit": "classifier",
    "inspect": "inspection",
    "list_dataset": "pictures",
    "list_layers": "backbones",
    "load_features": "cache",
    "make_head": "heads",
    "plan": "extraction",
    "report": "reporting",
    "serve": "serving",
    "sweep": "selection.sweep",
}
__all__ = [*_PLACES, "__version__"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("featx._internal.version").featx_version()
    if name not in _PLACES:
        raise AttributeError(f"module 'featx' has no attribute {name!r}")
    return getattr(import_module(f"featx.{_PLACES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
