"""Every failure that featx foresees, as one tree.

    FeatxError
     +-- SettingError           a setting out of its range, of the wrong kind, or with a name that nothing has
     +-- DatasetError           a folder or label file that cannot be used
     |    +-- PictureError      one file that cannot be read as a picture; becomes a line of the quarantine
     |         +-- FileReadError  its bytes could not be had this time; another run may find them
     +-- BackboneError          an unknown network, layer, size or preprocessing
     |    +-- WeightsError      weights that cannot be had or do not fit
     +-- CacheError             a feature file or cache folder that cannot be used
     |    +-- CorruptCacheError a feature file whose bytes are not what was written
     |    +-- SpecMismatchError features made by another spec than the one asked for
     +-- ExtractionError        the trunk gave values that cannot be stored, or no picture could be read
     +-- TrainingError          rows or labels on which no head can be trained, or a training that came to nothing
     +-- SweepError             a sweep's storage that cannot be used or is another sweep's, or workers that were killed
     +-- ServingError           an address that cannot be had, or libraries that are not installed
     +-- ModelError             a classifier folder that is incomplete, altered or not trustworthy

Messages are one line: what happened, what was expected, what to do. They name arguments as Python has them, in
backticks (`views`, `dtype="float32"`); the command line turns these into its options, and errors into an exit code.
"""

from __future__ import annotations

import difflib
import operator
from collections.abc import Iterable

MOST_NAMED = 20  # choices that a message lists


class FeatxError(Exception):
    """Base of all errors that featx raises on purpose.

    Example:
        >>> import featx
        >>> try:
        ...     featx.load_features("nowhere.h5")
        ... except featx.FeatxError as error:
        ...     print(error)
        no such feature file: nowhere.h5
    """


class SettingError(FeatxError, ValueError):
    """A setting out of its range, of the wrong kind, or with a name that nothing has.

    Attributes:
        setting: the argument's name; empty if it is the combination of several.

    Example:
        >>> import featx
        >>> try:
        ...     featx.Views(0)
        ... except featx.SettingError as error:
        ...     print(error.setting, "|", error)
        views | `views` must be from 1 to 1000, got 0
    """

    def __init__(self, message: str, setting: str = "") -> None:
        super().__init__(message)
        self.setting = setting


class DatasetError(FeatxError):
    """A folder or label file that cannot be used as a data set."""


class PictureError(DatasetError):
    """One file that cannot be read as a picture. The message is the reason alone, without the file's name."""


class FileReadError(PictureError):
    """A file whose bytes could not be had this time: says nothing about its content, so another run tries again."""


class BackboneError(FeatxError):
    """An unknown network, layer, size or preprocessing."""


class WeightsError(BackboneError):
    """Weights that cannot be had, or that do not fit the network."""


class CacheError(FeatxError):
    """A feature file or cache folder that cannot be used."""


class CorruptCacheError(CacheError):
    """A feature file whose bytes are not the ones that were written."""


class SpecMismatchError(CacheError):
    """Features made by another spec than the one asked for."""


class ExtractionError(FeatxError):
    """The trunk gave values that cannot be stored, or no picture of a data set could be read."""


class TrainingError(FeatxError, ValueError):
    """Rows or labels on which no head can be trained, or a training that came to nothing.

    A ``ValueError`` too: that is what scikit-learn's estimators raise for data that they cannot take.
    """


class SweepError(FeatxError):
    """A sweep's storage that cannot be used or is another sweep's, or workers that were killed."""


class ServingError(FeatxError):
    """An address that cannot be served at, or libraries that are not installed."""


class ModelError(FeatxError):
    """A classifier folder that is incomplete, altered or not trustworthy."""


def unknown_setting(name: str, known: Iterable[str], whose: str) -> SettingError:
    """Error that names a setting which ``whose`` does not have, and the nearest ones that it has."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    hint = f"did you mean {' or '.join(f'`{n}`' for n in near)}?" if near else f"it takes {', '.join(names)}"
    return SettingError(f"{whose} has no setting {name!r}; {hint}", name)


def require_choice(setting: str, value: object, choices: Iterable[object]) -> None:
    """Raise :class:`SettingError` unless ``value`` is one of ``choices``, naming the nearest."""
    allowed = list(choices)
    if value in allowed:
        return
    near = difflib.get_close_matches(str(value), map(str, allowed), n=1, cutoff=0.6)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    named = ", ".join(map(str, allowed[:MOST_NAMED])) + (", ..." if len(allowed) > MOST_NAMED else "")
    raise SettingError(f"unknown `{setting}` {value!r}{hint}; expected one of {named}", setting)


def one_line(error: Exception) -> str:
    """What a library's exception says, on one line and not at length."""
    return " ".join(str(error).split())[:200].rstrip(". ") or type(error).__name__


def require_whole(setting: str, value: object, least: int | None = None) -> int:
    """A setting as an int; :class:`SettingError` unless it is a whole number, and ``least`` or more."""
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise SettingError(f"`{setting}` must be a whole number, got {value!r}", setting) from None
    if least is not None and number < least:
        raise SettingError(f"`{setting}` must be at least {least}, got {number}", setting)
    return number
