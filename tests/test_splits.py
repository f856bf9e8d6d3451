"""Splits: sides are disjoint and complete, copies of a picture stay together, and the draw is stratified."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featx.errors import SettingError, TrainingError
from featx.rows import Split, split_rows


def _columns(rows: list[tuple[str, int, str]]) -> tuple[Any, Any, Any]:
    ids, labels, splits = zip(*rows, strict=True)
    return np.array(ids, object), np.array(labels, np.int32), np.array(splits, object)


def _sides(split: Split) -> list[set[int]]:
    return [set(rows.tolist()) for rows in (split.train, split.validation, split.test, split.left_out)]


def _ids(ids: Any, rows: Any) -> set[str]:
    return set(ids[rows].tolist())


ROWS = st.lists(
    st.tuples(
        st.sampled_from([f"p{n}" for n in range(12)]),
        st.integers(-1, 2),
        st.sampled_from(["", "train", "validation", "test"]),
    ),
    min_size=1,
    max_size=40,
)
SHARES = st.sampled_from([0.0, 0.1, 0.2, 0.5, 0.9])


@given(ROWS, SHARES, st.integers(0, 3))
def test_sides_are_disjoint_and_cover_every_labelled_row(
    rows: list[tuple[str, int, str]], share: float, seed: int
) -> None:
    """Validation rows whose picture is a test picture too are among those left out."""
    ids, labels, splits = _columns(rows)
    try:
        split = split_rows(ids, labels, splits, validation=share, random_state=seed)
    except TrainingError as error:
        assert "to train on" in str(error)
        return
    sides = _sides(split)
    everywhere = set().union(*sides)
    assert sum(map(len, sides)) == len(everywhere)
    tested = _ids(ids, np.flatnonzero((labels >= 0) & (splits == "test")))
    dropped = {n for n, row in enumerate(rows) if row[1] >= 0 and row[2] == "validation" and row[0] in tested}
    assert everywhere == set(np.flatnonzero(labels >= 0).tolist())
    assert dropped <= set(split.left_out.tolist())
    for side in (split.train, split.validation, split.test, split.left_out):
        assert side.dtype == np.int64
        assert (np.diff(side) > 0).all()


@given(ROWS, SHARES, st.integers(0, 3))
def test_equal_ids_never_straddle(rows: list[tuple[str, int, str]], share: float, seed: int) -> None:
    ids, labels, splits = _columns(rows)
    try:
        split = split_rows(ids, labels, splits, validation=share, random_state=seed)
    except TrainingError:
        return
    train, validation, test = (_ids(ids, side) for side in (split.train, split.validation, split.test))
    assert not train & validation
    assert not train & test
    assert not validation & test
    assert _ids(ids, split.left_out) <= test | validation


@given(ROWS, st.integers(0, 3))
def test_own_splits_are_respected(rows: list[tuple[str, int, str]], seed: int) -> None:
    ids, labels, splits = _columns(rows)
    try:
        split = split_rows(ids, labels, splits, random_state=seed)
    except TrainingError:
        return
    assert set(split.test.tolist()) == set(np.flatnonzero((labels >= 0) & (splits == "test")).tolist())
    assert set(splits[split.train]) <= {"", "train"}
    if split.drawn:
        assert set(splits[split.validation]) <= {"", "train"}
    else:
        assert set(splits[split.validation]) == {"validation"}


@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.sampled_from([0.01, 0.2, 0.5, 0.99]), st.integers(0, 9))
def test_a_drawn_split_is_stratified(sizes: list[int], share: float, seed: int) -> None:
    """A class of two pictures or more is on both sides, in about its share; a class of one picture trains."""
    labels = np.repeat(np.arange(len(sizes)), sizes).astype(np.int32)
    ids = np.array([f"p{n}" for n in range(len(labels))], object)
    split = split_rows(ids, labels, np.full(len(labels), ""), validation=share, random_state=seed)
    assert split.drawn
    for label, size in enumerate(sizes):
        held_out = int((labels[split.validation] == label).sum())
        assert int((labels[split.train] == label).sum()) == size - held_out
        assert held_out == (0 if size == 1 else min(max(1, round(share * size)), size - 1))


def test_a_class_of_copies_of_one_picture_trains() -> None:
    ids, labels, splits = _columns([("a", 0, ""), ("b", 0, ""), ("c", 1, ""), ("c", 1, ""), ("c", 1, "")])
    split = split_rows(ids, labels, splits)
    assert {2, 3, 4} <= set(split.train.tolist())
    assert len(split.validation) == 1


def test_shares_are_of_pictures_and_not_of_rows() -> None:
    """Views and copies count as one picture, all of them on its side."""
    ids = np.repeat(np.array([f"p{n}" for n in range(20)], object), 3)
    split = split_rows(ids, np.zeros(60, np.int32), np.full(60, ""), validation=0.25)
    assert len(split.validation) == 15
    assert len(_ids(ids, split.validation)) == 5


def _hundred(seed: int, share: float = 0.2) -> Split:
    ids = np.array([f"p{n:03}" for n in range(100)], object)
    return split_rows(ids, np.arange(100, dtype=np.int32) % 2, np.full(100, ""), validation=share, random_state=seed)


def test_same_seed_same_split_and_another_seed_another() -> None:
    first, again, other = _hundred(3), _hundred(3), _hundred(4)
    assert first.validation.tolist() == again.validation.tolist()
    assert first.train.tolist() == again.train.tolist()
    assert first.validation.tolist() != other.validation.tolist()
    assert len(first.validation) == len(other.validation) == 20


def test_the_draw_does_not_depend_on_the_order_of_the_rows() -> None:
    ids = np.array([f"p{n:03}" for n in range(40)], object)
    labels = np.arange(40, dtype=np.int32) % 2
    turned = split_rows(ids[::-1], labels[::-1], np.full(40, ""))
    split = split_rows(ids, labels, np.full(40, ""))
    assert _ids(ids, split.validation) == _ids(ids[::-1], turned.validation)


def test_the_draw_leaves_global_random_state_alone() -> None:
    before = np.random.get_state()[1].tolist()  # type: ignore[index]
    _hundred(0)
    assert np.random.get_state()[1].tolist() == before  # type: ignore[index]


def test_a_share_of_zero_holds_nothing_out() -> None:
    split = _hundred(0, share=0.0)
    assert len(split.train) == 100
    assert len(split.validation) == 0
    assert split.drawn


def test_given_validation_rows_are_not_drawn_from() -> None:
    ids, labels, splits = _columns(
        [
            ("a", 0, "train"),
            ("b", 0, "train"),
            ("c", 1, "train"),
            ("d", 1, ""),
            ("e", 0, "validation"),
            ("f", 1, "test"),
        ]
    )
    split = split_rows(ids, labels, splits, validation=0.5)
    assert not split.drawn
    assert _sides(split) == [{0, 1, 2, 3}, {4}, {5}, set()]


def test_unlabelled_rows_are_on_no_side() -> None:
    rows = [(f"p{n}", label, side) for n, (label, side) in enumerate([(0, ""), (1, ""), (0, ""), (1, ""), (-1, "")])]
    rows += [("u", -1, "train"), ("v", -1, "validation"), ("w", -1, "test")]
    split = split_rows(*_columns(rows))
    assert set().union(*_sides(split)) == {0, 1, 2, 3}
    assert split.drawn


def test_a_copy_of_a_test_picture_does_not_train() -> None:
    ids, labels, splits = _columns(
        [
            ("a", 0, "train"),
            ("b", 1, "train"),
            ("c", 0, ""),
            ("c", 0, "test"),
            ("d", 1, "validation"),
            ("d", 1, "train"),
        ]
    )
    split = split_rows(ids, labels, splits)
    assert split.left_out.tolist() == [2, 5]
    assert split.train.tolist() == [0, 1]
    assert split.test.tolist() == [3]


def test_an_unlabelled_test_picture_does_not_push_its_copy_out() -> None:
    """It will not be measured on, so nothing leaks."""
    ids, labels, splits = _columns([("a", 0, "train"), ("b", 1, "train"), ("a", -1, "test")])
    split = split_rows(ids, labels, splits)
    assert split.train.tolist() == [0, 1]
    assert split.left_out.tolist() == []


@pytest.mark.parametrize("share", [-0.1, 1.0, 1.5, float("nan")])
def test_a_share_must_be_a_share(share: float) -> None:
    with pytest.raises(SettingError, match=f"^`validation` must be at least 0 and below 1, got {share:g}$") as caught:
        _hundred(0, share=share)
    assert caught.value.setting == "validation"


@pytest.mark.parametrize(
    "rows",
    [
        [("a", -1, ""), ("b", -1, "train")],
        [("a", 0, "test"), ("b", 1, "validation")],
        [("a", 0, "train"), ("a", 0, "test")],
    ],
    ids=["unlabelled", "other splits", "copies"],
)
def test_nothing_to_train_on(rows: list[tuple[str, int, str]]) -> None:
    with pytest.raises(TrainingError, match="no labelled row to train on"):
        split_rows(*_columns(rows))
