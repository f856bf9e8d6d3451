"""The classifier: spec of the trunk + head + class names, fitted, measured, used on pictures, kept in a folder."""

from featx.classifier.classifier import Classifier, Measured, Prediction, head_name
from featx.classifier.evaluation import Evaluation, fit_temperature
from featx.classifier.fitting import assembled, fit
from featx.classifier.folder import refuse_foreign

__all__ = [
    "Classifier",
    "Evaluation",
    "Measured",
    "Prediction",
    "assembled",
    "fit",
    "fit_temperature",
    "head_name",
    "refuse_foreign",
]
