"""The classifier: spec of the trunk + head + class names. Evaluate, predict, save, load.

A saved classifier is a folder of JSON and arrays. Loading one never runs code from it: there is no pickle, the head is
built from its name and parameters, the trunk from the recipe, and both are compared with what was recorded.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from featx._internal.progress import Progress, silent
from featx.backbones import Trunk, is_model_file, require_weights
from featx.cache import Features, Spec, load_features, require_same_spec
from featx.classifier.evaluation import Evaluation, measure, with_temperature
from featx.classifier.folder import damage_named, read_folder, write_folder
from featx.classifier.measured_rows import SPLITS, known_labels, rows_to_measure
from featx.classifier.record import Fitting
from featx.classifier.results import Diagnosis, Measured, Prediction
from featx.errors import CacheError, PictureError, SettingError, require_choice
from featx.extraction import Recipe, extract, features_of, load_file
from featx.heads import HEADS, Head
from featx.pictures import list_files, quiet_pillow
from featx.rows import probabilities
from featx.tail import TailHead

if TYPE_CHECKING:
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

File = TypeVar("File", str, bytes)  # a picture's path, or its bytes

KINDS: dict[str, type[Head]] = {**HEADS, "tail": TailHead}  # of heads, as a classifier's folder calls them
TOLERANCE = 1e-3  # of probability, between a picture's cached and its live features


@dataclass
class Classifier:
    """Fitted head together with all that is needed to use it on pictures.

    Attributes:
        head: the fitted head, whose classes are the numbers of ``class_names``.
        class_names: names of the classes.
        spec: everything that decided the values of the features it was fitted on.
        recipe: settings by which the trunk that makes such features is built.
        fitting: record of how it was fitted, and how it did.
        train_ids, validation_ids: content ids of the rows it was trained on, and of those held out to choose.
        held_out: float32 ``(len(validation_ids), classes)``: probabilities of the held-out rows by a head that had not
            seen them; empty if that is the head itself, because it was not fitted again on all rows.

    Example:
        >>> import featx
        >>> features = featx.extract("photos", backbone="pixels", size=16).features_path
        >>> classifier = featx.fit(features, "logreg")
        >>> classifier
        <Classifier logreg on pixels: 2 classes>
        >>> classifier.save("models/photos")
        PosixPath('models/photos')
        >>> predictions, quarantined = featx.Classifier.load("models/photos").predict(["photos/lying"])
        >>> len(predictions), quarantined
        (12, [])
    """

    head: Head
    class_names: list[str]
    spec: Spec
    recipe: Recipe
    fitting: Fitting
    train_ids: NDArray[Any] = field(repr=False)
    validation_ids: NDArray[Any] = field(repr=False)
    held_out: NDArray[np.float32] = field(repr=False)

    @property
    def temperature(self) -> float:
        """Divisor of the head's log probabilities; 1 unless it was calibrated."""
        return self.fitting.temperature

    def __repr__(self) -> str:
        return f"<Classifier {self.fitting.head} on {self.spec.get('backbone')}: {len(self.class_names)} classes>"

    def predict_proba(self, features: Features | str | Path, rows: Any = None) -> NDArray[np.float32]:
        """Probabilities of rows of a feature file.

        Args:
            features: a feature file made by this classifier's spec, or its path.
            rows: a slice, row numbers or a mask; all by default.

        Returns:
            float32 ``(n, classes)``, columns in the order of ``class_names``.

        Raises:
            SpecMismatchError: features made by another spec.
        """
        features = load_features(features)
        require_same_spec(features.spec, self.spec, features.path)
        return with_temperature(probabilities(self.head, features, rows), self.temperature)

    def predict(
        self,
        paths: Iterable[str | Path],
        *,
        batch_size: int | None = None,
        progress: Progress | None = None,
    ) -> tuple[list[Prediction], list[tuple[str, str]]]:
        """Predict pictures from their pixels.

        Args:
            paths: files, taken as they are, and folders, searched for pictures.
            batch_size: pictures per call of the trunk; by default as many as suit the device.
            progress: called with what is going on, how much is done, and of how much.

        Returns:
            predictions in the order of the files, and ``(path, reason)`` of the files that cannot be read.

        Raises:
            DatasetError: a path that does not exist, or no pictures at all.
        """
        files = [str(path) for path in list_files(paths)]
        failures: dict[str, PictureError] = {}
        by_file: dict[str, NDArray[np.float32]] = {}
        progress = progress or silent
        progress("predicting", 0, len(set(files)))
        for names, stored in self.live_features(files, failures, batch_size):
            by_file |= dict(zip(names, self.probabilities(stored), strict=True))
            progress("predicting", len(by_file) + len(failures), len(set(files)))
        predictions = [self.prediction(name, by_file[name]) for name in files if name in by_file]
        return predictions, [(name, str(failures[name])) for name in files if name in failures]

    def evaluate(self, features: Features | str | Path | None = None, split: str | None = None) -> Evaluation:
        """Measure on labelled rows: by default the test rows, else the rows not trained on.

        Validation rows are always measured as rows that the head had not seen: if it was fitted again on them too,
        the probabilities from before are used.

        Args:
            features: a feature file made by this classifier's spec, its path, or a data set (extracted if need be); by
                default what the classifier was fitted on.
            split: ``test``, ``validation`` (the rows held out by fit, or marked so), ``train``, or ``unseen``: all
                labelled rows not trained on.

        Raises:
            SettingError: an unknown split.
            TrainingError: no such rows, or labels that the classifier does not know.
            SpecMismatchError: features made by another spec.
        """
        return self.measured(features, split).evaluation

    def measured(self, features: Features | str | Path | None = None, split: str | None = None) -> Measured:
        """Evaluation as by :meth:`evaluate`, row by row."""
        if split is not None:
            require_choice("split", split, SPLITS)
        features = self.features_of(features)
        require_same_spec(features.spec, self.spec, features.path)
        split, rows = rows_to_measure(features, split, self.train_ids, self.validation_ids)
        y = known_labels(features, rows, self.class_names)
        if split == "validation" and len(self.held_out):
            order = np.argsort(self.validation_ids)
            places = order[np.searchsorted(self.validation_ids, features.ids[rows], sorter=order)]
            predicted, seen = with_temperature(self.held_out[places], self.temperature), 0
        else:
            predicted = self.predict_proba(features, rows)
            seen = int(np.isin(features.ids[rows], self.train_ids).sum())
        if seen and split != "train":
            logger.warning("%d of these %d pictures were trained on: the figures flatter", seen, len(rows))
        labelled = (features.y >= 0) & features.pictures
        left_out = int(labelled.sum()) - len(rows) if split == "unseen" else 0
        if left_out:
            logger.warning("%d pictures are left out: the classifier was trained on them", left_out)
        evaluation = measure(
            y,
            predicted,
            self.class_names,
            split=split,
            quarantined=len(features.quarantine),
            seen_in_training=seen,
            left_out=left_out,
        )
        return Measured(evaluation, rows, y, predicted)

    def doctor(
        self, features: Features | str | Path | None = None, n_rows: int = 32, *, batch_size: int | None = None
    ) -> Diagnosis:
        """Comparison of the probabilities from cached features with those from the pictures' own pixels.

        Args:
            features: as :meth:`evaluate` takes it; its pictures have to be where they were.
            n_rows: pictures to compare, evenly spaced; at least 1.
            batch_size: pictures per call of the trunk; by default as many as suit the device.

        Raises:
            SettingError: ``n_rows`` below 1.
            CacheError: none of the pictures is where it was when they were extracted.
        """
        if n_rows < 1:
            raise SettingError(f"`n_rows` must be at least 1, got {n_rows}", "n_rows")
        features = self.features_of(features)
        pictures = np.flatnonzero(features.pictures)
        rows = pictures[np.linspace(0, len(pictures) - 1, min(n_rows, len(pictures))).round().astype(int)]
        trunk = self.trunk()
        failures: dict[str, PictureError] = {}
        where: dict[str, int] = dict(zip(features.paths[rows].tolist(), rows.tolist(), strict=True))

        def load(path: str) -> NDArray[np.uint8]:
            path_now = Path(features.root) / path
            return load_file(path_now, trunk.info.size, self.recipe, str(features.ids[where[path]]))[None]

        differences = [0.0]
        dtype = self.recipe.dtype
        with quiet_pillow(self.recipe.max_pixels):
            for names, _, stored in features_of(
                list(where), load, trunk, dtype, failures, batch_size=batch_size, quarantine_features=False
            ):
                cached = self.predict_proba(features, [where[name] for name in names])
                fresh = self.probabilities(stored)
                differences.append(float(np.abs(cached - fresh).max()))
        if len(failures) == len(where):
            path, reason = next(iter(failures.items()))
            raise CacheError(
                f"no picture is as it was in {features.root}; the first, {path}: {reason}. If they have moved, "
                "`featx doctor MODEL DATASET` says where they are"
            )
        worst = float(np.max(differences))  # not a number if any is
        return Diagnosis(
            max_abs_difference=worst,
            ok=worst < TOLERANCE,
            rows=len(where) - len(failures),
            skipped=[(path, str(error)) for path, error in failures.items()],
        )

    def features_of(
        self,
        source: Features | str | Path | None = None,
        *,
        cache_dir: str | Path = "cache",
        progress: Progress | None = None,
    ) -> Features:
        """Features of a feature file, of a data set (extracted if need be), or by default those it was fitted on.

        Raises:
            CacheError: the file is gone. SpecMismatchError: it was made by another spec.
        """
        if isinstance(source, Features):
            return source
        source = Path(source or self.fitting.features_path)
        if source.suffix != ".h5":
            self.trunk()  # before hours go by: is it still the one that the classifier knows?
            made = extract(source, recipe=self.recipe, cache_dir=cache_dir, progress=progress)
            source = Path(made.features_path)
        features = load_features(source)
        require_same_spec(features.spec, self.spec, source)
        return features

    def trunk(self) -> Trunk:
        """The trunk this classifier's features came from.

        Raises:
            SpecMismatchError: it can no longer be built as it was, for example because other weights were given.
        """
        trunk = self.recipe.trunk()
        require_same_spec(self.recipe.spec(trunk), self.spec, "the trunk that the classifier's recipe builds")
        return trunk

    def live_features(
        self,
        files: Sequence[File],
        failures: dict[File, PictureError],
        batch_size: int | None = None,
        trunk: Trunk | None = None,
    ) -> Iterator[tuple[list[File], NDArray[Any]]]:
        """Features of pictures from their pixels, in batches, as the cache would hold them.

        Args:
            files: the pictures, by their paths or as the bytes of files.
            failures: gets the error of every picture that cannot be read, or has no features that can be stored.
            batch_size: pictures a call of the trunk; by default as many as suit the device.
            trunk: what :meth:`trunk` gave before, for whoever asks often: it looks at the files of weights each time.

        Yields:
            files and their features, ``(n, ...)`` in the dtype of the recipe.
        """
        trunk = trunk or self.trunk()
        size = trunk.info.size

        def load(file: File) -> NDArray[np.uint8]:
            return load_file(file, size, self.recipe)[None]

        dtype = self.recipe.dtype
        with quiet_pillow(self.recipe.max_pixels):
            for names, _, stored in features_of(files, load, trunk, dtype, failures, batch_size=batch_size):
                yield names, stored

    def probabilities(self, stored: NDArray[Any]) -> NDArray[np.float32]:
        """Probabilities ``(n, classes)`` of features as the cache holds them, ``(n, ...)``."""
        return with_temperature(self.head.predict_proba(stored).astype(np.float32), self.temperature)

    def prediction(self, path: str, probabilities: NDArray[np.float32]) -> Prediction:
        """What probabilities ``(classes,)`` of one picture say."""
        best = int(np.argmax(probabilities))
        return Prediction(path, self.class_names[best], float(probabilities[best]), probabilities, self.class_names)

    def save(self, folder: str | Path) -> Path:
        """Write the classifier into a folder. One that is there already is replaced in one instant, or not at all.

        Args:
            folder: new, empty, or a classifier's.

        Raises:
            ModelError: the folder exists and is something else, or cannot be written.
        """
        about = {
            "head": {"name": head_name(self.head), "params": self.head.get_params()},
            "class_names": self.class_names,
            "spec": self.spec,
            "recipe": asdict(self.recipe),
            "report": self.fitting.to_json(),
            "temperature": self.temperature,
        }
        arrays = {f"head/{name}": value for name, value in self.head.get_state().items()}
        arrays |= {"train_ids": self.train_ids.astype("S"), "validation_ids": self.validation_ids.astype("S")}
        arrays |= {"held_out": self.held_out}
        return write_folder(Path(folder), about, arrays, self.fitting.history)

    @classmethod
    def of(cls, classifier: Classifier | str | Path, weights: str | Path | None = None) -> Classifier:
        """The classifier itself, or the one in a folder; see :meth:`load`."""
        return classifier if isinstance(classifier, Classifier) else cls.load(classifier, weights)

    @classmethod
    def load(cls, folder: str | Path, weights: str | Path | None = None) -> Classifier:
        """Read a classifier that :meth:`save` wrote. No code from the folder is run.

        Args:
            folder: the classifier.
            weights: where the trunk's weights (or the user's own ``.keras`` file) are now, if they have moved.

        Raises:
            SettingError: ``weights`` is not named like a file of weights.
            ModelError: no classifier, an altered one, or a folder with files that could carry code.
        """
        weights = None if weights is None else str(weights)
        if weights is not None:
            require_weights(weights)
        about, arrays, history = read_folder(Path(folder))
        with damage_named(folder):
            state = {name.removeprefix("head/"): value for name, value in arrays.items() if name.startswith("head/")}
            head = KINDS[about["head"]["name"]](**about["head"]["params"])
            if weights is not None:
                head.move_weights(weights)
            return cls(
                head=head.set_state(state, np.arange(len(about["class_names"]))),
                class_names=about["class_names"],
                spec=about["spec"],
                recipe=_moved(about["recipe"], weights),
                fitting=_record(about, history),
                train_ids=arrays["train_ids"].astype(str),
                validation_ids=arrays["validation_ids"].astype(str),
                held_out=arrays["held_out"],
            )


def head_name(head: Head) -> str:
    """What a head is called on the command line and in a classifier's folder."""
    return next((name for name, kind in KINDS.items() if type(head) is kind), type(head).__name__)


def _record(about: dict[str, Any], history: dict[str, list[float]]) -> Fitting:
    """The record of a saved classifier; versions before 0.2 kept the history of some heads beside it only."""
    record = replace(Fitting.from_json(about["report"]), temperature=float(about.get("temperature", 1.0)))
    return replace(record, history=record.history or history) if "epochs" in about["head"]["params"] else record


def _moved(recipe: dict[str, Any], weights: str | None) -> Recipe:
    """The recipe, its weights (or the user's own model file) now being at ``weights``."""
    if weights is None:
        return Recipe(**recipe)
    same_name = Path(weights).name == Path(recipe["backbone"]).name
    own = is_model_file(recipe["backbone"]) and (same_name or recipe["weights"] in ("imagenet", "random"))
    return Recipe(**{**recipe, "backbone" if own else "weights": weights})
