"""Sentences of a report: the headline, and the model card (Mitchell et al. 2019)."""

from __future__ import annotations

from featx._internal import text
from featx.classifier import Evaluation
from featx.reporting.findings import Findings

FEW = 20  # pictures of a class, below which its figures say little
CLASSES_NAMED = 30
SMALL_CLASSES_NAMED = 10
NO_BREAK = "\u00a0"
NOT_STATED = "Nobody has stated this."
ROWS = {
    "test": "test pictures, which it had not seen",
    "unseen": "pictures that it was not trained on",
    "validation": "pictures that were held out when it was trained",
    "train": "pictures that it was trained on",
}


def headline(findings: Findings) -> list[str]:
    """Quality of the classifier in a few sentences."""
    e = findings.evaluation
    name, share = findings.majority
    right = round(e.accuracy * e.rows)
    low, high = e.ci95
    doubt = "" if low > share else "; that it does better may be luck"
    lines = [
        f"Of {e.rows:,} {ROWS[e.split]}, it names {right:,} rightly: {percentage(e.accuracy)}.",
        f"From so many pictures one can tell that in the long run it would be right for {percentage(low)} to "
        f"{percentage(high)} of such pictures (95 % interval).",
        f"Always answering “{name}” would be right for {percentage(share)} of them{doubt}.",
    ]
    if e.seen_in_training:
        lines.append(f"It was trained on {e.seen_in_training:,} of these pictures: the figures flatter.")
    elif e.split == "validation":
        lines.append(
            "These pictures may have chosen its settings, or when training stopped; then they flatter it a little."
        )
    return lines


def card_of(findings: Findings) -> list[tuple[str, list[str]]]:
    """Questions of a model card, answered by facts; what no file says is said to be unstated."""
    e = findings.evaluation
    names = _listed(e.class_names, CLASSES_NAMED)
    return [
        ("What it does", [f"It names one of {len(e.class_names)} classes for a picture, with a probability: {names}."]),
        ("Intended use, and who may use it", [NOT_STATED]),
        (
            "Training data",
            [*findings.provenance.training, f"Where the pictures come from, and their licence: {NOT_STATED.lower()}"],
        ),
        ("Data measured on", _measured_on(findings)),
        ("Metrics", _metrics(e)),
        ("Limits", _limits(findings)),
        ("People who appear in the pictures, fairness, and harm", [NOT_STATED]),
        ("Authors, contact, licence of the model", [NOT_STATED]),
    ]


def _measured_on(findings: Findings) -> list[str]:
    e = findings.evaluation
    lines = [f"{e.rows:,} {ROWS[e.split]}, of the data set {findings.dataset}."]
    if e.quarantined:
        lines.append(f"{e.quarantined:,} files of the data set could not be read as pictures, and count nowhere.")
    if e.left_out:
        lines.append(f"{e.left_out:,} labelled pictures were left out, because it was trained on them.")
    return lines


def _metrics(e: Evaluation) -> list[str]:
    low, high = e.ci95
    return [
        f"Accuracy {percentage(e.accuracy)}, 95 % interval {percentage(low)} to {percentage(high)} (Wilson 1927).",
        f"Log loss {e.log_loss:.4f}; expected calibration error {e.calibration_error:.3f} (Guo et al. 2017).",
    ]


def _limits(findings: Findings) -> list[str]:
    e = findings.evaluation
    lines = ["It always answers with one of its classes, also for a picture of something else."]
    few = [figures.name for figures in findings.classes if figures.support < FEW]
    if few:
        names = _listed(few, SMALL_CLASSES_NAMED)
        lines.append(f"Fewer than {FEW} pictures were measured of {names}: figures of a single class are rough.")
    measured = [figures for figures in findings.classes if figures.support]
    worst = min(measured, key=lambda figures: figures.recall)
    lines.append(
        f"It knows {worst.name} least: {percentage(worst.recall)} of its {worst.support} pictures are named rightly."
    )
    if e.split in ("test", "unseen") and (findings.held_out or 0) > e.ci95[1]:
        lines.append(
            f"Of pictures held out from the training data it named {percentage(findings.held_out or 0)} rightly, more "
            "than here. Perhaps that data holds near copies of one scene, or the pictures measured are of another kind."
        )
    surplus = sum(b.count * (b.confidence - b.accuracy) for b in findings.bins) / e.rows
    if e.calibration_error > 0.05:
        lines.append(
            f"Its probabilities are off by {percentage(e.calibration_error)} on average, mostly too "
            f"{'high' if surplus > 0 else 'low'}; “featx fit --calibrate” may mend that."
        )
    return lines


def _listed(names: list[str], most: int) -> str:
    """First names of a list, and how many more there are."""
    return ", ".join(names[:most]) + (f", and {len(names) - most} more" if len(names) > most else "")


def percentage(share: float) -> str:
    """Share as a percentage, which no line break tears apart."""
    return text.percent(share, NO_BREAK)
