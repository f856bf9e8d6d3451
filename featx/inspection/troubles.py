"""Troubles of a data set, each a record of numbers and text, so that ``asdict`` gives JSON values."""

from __future__ import annotations

from dataclasses import dataclass

from featx.pictures import Picture


@dataclass(frozen=True)
class Unreadable:
    """Listed file that cannot take part, and the reason why."""

    path: str
    reason: str


@dataclass(frozen=True)
class Copies:
    """Files of the same bytes.

    Attributes:
        pictures: the files; the first is the one to keep: of test before validation before train.
        labels_differ: whether they have more than one label.
        splits_differ: whether they are in more than one split.
    """

    pictures: list[Picture]
    labels_differ: bool
    splits_differ: bool


@dataclass(frozen=True)
class Pair:
    """Two pictures that are alike.

    Attributes:
        first: the one to keep: of test before validation before train.
        second: the other.
        similarity: cosine of their features.
        exact: whether their bytes are the same.
    """

    first: Picture
    second: Picture
    similarity: float
    exact: bool


@dataclass(frozen=True)
class Outlier:
    """Picture unlike all others.

    Attributes:
        path, label, split: the picture.
        distance: mean of 1 - cosine to its nearest neighbours.
        score: modified z-score of that distance.
        nearest: path of the picture that is most like it.
    """

    path: str
    label: str | None
    split: str
    distance: float
    score: float
    nearest: str


@dataclass(frozen=True)
class Suspect:
    """Picture that may have a wrong label.

    Attributes:
        path, label, split: the picture.
        suggested: class that it more probably has.
        probability: out-of-fold probability of its label.
        suggested_probability: out-of-fold probability of the suggested class.
        margin: difference of the two, below 0; the lower, the more suspect.
    """

    path: str
    label: str
    split: str
    suggested: str
    probability: float
    suggested_probability: float
    margin: float
