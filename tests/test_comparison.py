"""The comparison of frozen heads with fine-tuning: on the same rows, never the test rows, and what it concludes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import featx
from featx.errors import TrainingError
from featx.finetuning.comparison import Comparison, Method, _concluded

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


@pytest.mark.parametrize("given", [{"repeats": 1}, {"heads": []}, {"validation": 0.0}])
def test_what_cannot_be_compared_is_said(make_dataset: Make, given: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="two repeats or more"):
        featx.compare(make_dataset(), cache_dir=tmp_path, **given)
