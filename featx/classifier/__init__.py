"""The classifier: spec of the trunk + head + class names, fitted, measured, used on pictures, kept in a folder."""

from featx.classifier.classifier import Classifier, head_name
from featx.classifier.evaluation import Bin, Evaluation, calibration_bins, fit_temperature
from featx.classifier.fitting import assembled, fit
from featx.classifier.folder import refuse_foreign
from featx.classifier.record import Fitting
from featx.classifier.results import Diagnosis, Measured, Prediction

__all__ = [
    "Bin",
    "Classifier",
    "Diagnosis",
    "Evaluation",
    "Fitting",
    "Measured",
    "Prediction",
    "assembled",
    "calibration_bins",
    "fit",
    "fit_temperature",
    "head_name",
    "refuse_foreign",
]
