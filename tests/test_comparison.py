"""The comparison of frozen heads with fine-tuning: on the same rows, never the test rows, and what it concludes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import featx
from featx.errors import SettingError
from featx.finetuning import comparison as comparison_module
from featx.finetuning.comparison import Comparison, Method, _concluded
from featx.heads import make_head
from featx.tail import TailHead

Make = Callable[..., Path]


def method(name: str, right: list[float], seconds: float = 1.0) -> Method:
    shares = {f"picture {n}": share for n, share in enumerate(right)}
    mean = float(np.mean(right))
    return Method(name, mean, (0.0, 1.0), [mean], 1 - mean, seconds, 0.0, shares)


def test_it_is_measured_on_the_same_rows_and_never_on_the_test_rows(
    make_dataset: Make, tiny_backbone: str, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"backbone": tiny_backbone, "preprocess": "rescale", "heads": ["logreg", "mlp"]}
    make_dataset(classes=2, each=20, split="train")
    dataset = make_dataset(classes=2, each=4, split="test", first=50)
    found = featx.compare(dataset, cache_dir=tmp_path / "a", epochs=2, **options)
    assert {m.name for m in found.methods} == {"logreg", "mlp", "tail"}
    assert len({frozenset(m.right) for m in found.methods}) == 1
    features = featx.load_features(next((tmp_path / "a").glob("*.h5")))
    tested = set(features.ids[features.splits == "test"].tolist())
    assert not any(tested & set(m.right) for m in found.methods)
    assert all(len(m.accuracies) == found.repeats == 3 for m in found.methods)
    other = make_dataset(classes=2, each=8, split="test", first=70)
    again = featx.compare(other, cache_dir=tmp_path / "b", epochs=2, **options)
    assert [(m.name, m.accuracies) for m in again.methods] == [(m.name, m.accuracies) for m in found.methods]


def test_end_to_end_is_measured_if_asked_for(make_dataset: Make, tiny_backbone: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"backbone": tiny_backbone, "preprocess": "rescale", "heads": ["ridge"], "repeats": 2}
    found = featx.compare(
        make_dataset(classes=2, each=10), cache_dir=tmp_path, epochs=1, end_to_end=True, unfreeze="last", **options
    )
    whole = next(m for m in found.methods if m.name == "end to end")
    assert found.end_to_end_seconds == whole.seconds
    assert "training end to end took" in found.recommendation


@pytest.mark.parametrize(
    ("head", "tail", "worth_it", "words"),
    [
        ([1, 0] * 50, [1, 1] * 50, True, "Fine-tuning is worth it (tail): 50.0 % with logreg"),
        ([1, 1] * 50, [1, 0] * 50, False, "Fine-tuning is not worth it: take logreg"),
        ([1] * 200, [1] * 200, False, "+0.0 points (95 % interval +0.0 to +0.0; 200 pictures, 3 draws)"),
        ([1, 0, 0, 1, 0], [1, 1, 0, 0, 1], None, "cannot tell"),
    ],
)
def test_what_it_concludes(head: list[float], tail: list[float], worth_it: bool | None, words: str) -> None:
    found: Comparison = _concluded([method("logreg", head), method("tail", tail, 90.0)], 5, 3, 7200.0, False)
    assert found.worth_it is worth_it
    assert words in found.recommendation
    assert "90.0 s" in found.recommendation and "would take about 2.0 h" in found.recommendation


def spied(monkeypatch: pytest.MonkeyPatch, name: str) -> list[Any]:
    """Gets all that a function of the comparison gives back."""
    given, real = [], getattr(comparison_module, name)

    def spy(*arguments: Any, **options: Any) -> Any:
        given.append(real(*arguments, **options))
        return given[-1]

    monkeypatch.setattr(comparison_module, name, spy)
    return given


def test_its_figures_are_those_of_each_training(
    make_dataset: Make, tiny_backbone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted, tuned, extracted = (spied(monkeypatch, name) for name in ("fit", "finetune", "extract"))
    options: dict[str, Any] = {"backbone": tiny_backbone, "preprocess": "rescale", "heads": ["logreg"], "epochs": 2}
    found = featx.compare(make_dataset(classes=3, each=12), cache_dir=tmp_path, random_state=5, **options)
    logreg, tail = (next(m for m in found.methods if m.name == name) for name in ("logreg", "tail"))
    assert len(fitted) == len(tuned) == 3 and len(extracted) == 1
    features = featx.load_features(extracted[0].features_path)
    accuracies, losses, hits = [], [], dict[str, list[bool]]()
    for seed, classifier in zip((5, 6, 7), fitted, strict=True):
        held_out = np.isin(features.ids, classifier.validation_ids)
        head = make_head("logreg", random_state=seed).fit(features.X(~held_out), features.y[~held_out])
        y, probabilities = features.y[held_out], head.predict_proba(features.X(held_out)).astype(np.float64)
        right = probabilities.argmax(axis=1) == y
        accuracies.append(right.mean())
        losses.append(-np.log(probabilities[np.arange(len(y)), y]).mean())
        for picture, hit in zip(features.ids[held_out], right, strict=True):
            hits.setdefault(picture, []).append(hit)
    assert len({*map(len, hits.values())}) > 1 and 0 < np.mean(accuracies) < 1, "else any mean would do"
    shares = {picture: np.mean(some) for picture, some in hits.items()}
    mean, error = np.mean([*shares.values()]), np.std([*shares.values()], ddof=1) / np.sqrt(len(shares))
    assert logreg.accuracies == pytest.approx(accuracies) and logreg.right == pytest.approx(shares)
    assert logreg.accuracy == pytest.approx(mean) and logreg.log_loss == pytest.approx(np.mean(losses), rel=1e-4)
    assert logreg.ci95 == pytest.approx((max(0, mean - 1.959964 * error), min(1, mean + 1.959964 * error)))
    assert tail.accuracies == pytest.approx([classifier.fitting.validation_accuracy for classifier in tuned])
    for method_, classifiers in ((logreg, fitted), (tail, tuned)):
        assert method_.seconds == np.median([classifier.fitting.seconds for classifier in classifiers])
    assert logreg.features_seconds == extracted[0].seconds
    assert tail.features_seconds == max(classifier.fitting.features_seconds for classifier in tuned)


def test_the_time_of_training_end_to_end_is_foretold_by_pictures_and_epochs(
    make_dataset: Make, tiny_backbone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From an epoch on 32 pictures that took 3.2 seconds: 20 pictures in 3 epochs take 6."""

    class Timed(TailHead):
        def fit(self, *arguments: Any, **options: Any) -> Any:
            super().fit(*arguments, **options)
            self.epoch_seconds_ = [100.0, 3.2]  # the first is slow: networks are compiled in it
            return self

    monkeypatch.setattr(comparison_module, "TailHead", Timed)
    options: dict[str, Any] = {"backbone": tiny_backbone, "preprocess": "rescale", "heads": ["ridge"], "repeats": 2}
    found = featx.compare(make_dataset(each=10), cache_dir=tmp_path, epochs=3, **options)
    assert found.end_to_end_seconds == pytest.approx(6.0)
    assert "training end to end would take about 6.0 s." in found.recommendation


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"repeats": 1}, "`repeats` must be at least 2, got 1"),
        ({"heads": []}, "`heads` must name one head at least"),
        ({"heads": ["ridge", "rigde"]}, "unknown `heads` 'rigde' (did you mean 'ridge'?); expected one of bn-mlp, "),
        ({"validation": 0.0}, "`validation` must be above 0 and below 1, got 0"),
        ({"validation": 1.0}, "`validation` must be above 0 and below 1, got 1"),
        ({"pooling": "sum"}, "unknown `pooling` 'sum'; expected one of none, avg, max"),
        ({"polling": "avg"}, "compare has no setting 'polling'; did you mean `pooling`?"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_what_cannot_be_compared_is_said_before_any_work(
    make_dataset: Make, given: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(SettingError) as caught:
        featx.compare(make_dataset(), cache_dir=tmp_path / "cache", **given)
    assert str(caught.value).startswith(message) and caught.value.setting == next(iter(given))
    assert not (tmp_path / "cache").exists()
