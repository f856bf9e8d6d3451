"""Every failure that featx foresees, as one tree.

    FeatxError
     +-- DatasetError           a folder or label file that cannot be used
     |    +-- PictureError      one file that cannot be read as a picture; becomes a line of the quarantine
     |         +-- FileReadError  its bytes could not be had this time; another run may find them
     +-- BackboneError          an unknown network, layer, size or preprocessing
     |    +-- WeightsError      weights that cannot be had or do not fit
     +-- CacheError             a feature file or cache folder that cannot be used
     |    +-- CorruptCacheError a feature file whose bytes are not what was written
     |    +-- SpecMismatchError features made by another spec than the one asked for
     +-- ExtractionError        the trunk gave values that cannot be stored, or no picture could be read
     +-- TrainingError          rows, labels or settings on which no head can be trained
     +-- SweepError             a sweep's storage that cannot be used or is another sweep's, or workers that were killed
     +-- ServingError           an address that cannot be had, or libraries that are not installed
     +-- ModelError             a classifier folder that is incomplete, altered or not trustworthy
     +-- SettingError           a setting out of its range, or that does not go with another one; a ValueError too

Messages are one line: what happened, what was expected, what to do. Only the command line turns them into an exit code.
"""


class FeatxError(Exception):
    """Base of all errors that featx raises on purpose."""


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


class TrainingError(FeatxError):
    """Rows, labels or settings on which no head can be trained."""


class SweepError(FeatxError):
    """A sweep's storage that cannot be used or is another sweep's, or workers that were killed."""


class ServingError(FeatxError):
    """An address that cannot be served at, or libraries that are not installed."""


class ModelError(FeatxError):
    """A classifier folder that is incomplete, altered or not trustworthy."""


class SettingError(FeatxError, ValueError):
    """A setting out of its range, not among the choices, or one that does not go with another.

    Attributes:
        setting: name of the parameter, as the message has it, or several with ", " between; None if there is no such.
    """

    def __init__(self, message: str, setting: str | None = None) -> None:
        super().__init__(message)
        self.setting = setting


def one_line(error: Exception) -> str:
    """What a library's exception says, on one line and not at length."""
    return " ".join(str(error).split())[:200].rstrip(". ") or type(error).__name__
