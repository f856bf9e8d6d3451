"""The classifier: spec of the trunk + head + class names. Fit, evaluate, predict, save, load.

A saved classifier is a folder of JSON and arrays. Loading one never runs code from it: there is no pickle, the head is
built from its name and parameters, the trunk from the recipe, and both are compared with what was recorded.
"""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.metrics import confusion_matrix, log_loss, precision_recall_fscore_support

from featx.backbones import Trunk
from featx.cache import Features, Spec, load_features, require_same_spec
from featx.errors import CacheError, FeatxError, ModelError, PictureError, TrainingError
from featx.extraction import extract
from featx.heads import HEADS, Head, make_head
from featx.images import content_id, list_files, quiet_pillow, read_file
from featx.recipe import BATCH_SIZE, Recipe, as_stored, load_picture, run_trunk
from featx.splits import Split, split_rows

if TYPE_CHECKING:
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

SCHEMA = 1
TOLERANCE = 1e-3  # of probability, between a picture's cached and its live features
OWN_FILES = {"classifier.json", "arrays.npz", "history.csv"}
# What else may lie in a model folder: notes and pictures. Anything other could carry code.
HARMLESS_SUFFIXES = {".csv", ".json", ".txt", ".md", ".html", ".png", ".jpg", ".jpeg", ".svg", ".pdf"}
LITTER = {".ds_store", "thumbs.db", "desktop.ini"}


@dataclass(frozen=True)
class Prediction:
    """One picture's prediction; ``probabilities`` by class name."""

    path: str
    label: str
    probability: float
    probabilities: dict[str, float]


@dataclass(frozen=True)
class Evaluation:
    """How a classifier does on labelled rows.

    Attributes:
        accuracy: share of rows predicted right; ``ci95`` its 95 % interval (Wilson 1927).
        log_loss: mean of -log(probability of the true class).
        rows, split: how many and which; ``quarantined`` counts the data set's unreadable pictures.
        confusion_matrix: rows are true classes, columns predicted ones, in the order of ``class_names``.
        per_class: precision, recall, f1 and support by class name.
        seen_in_training: how many of the rows the head was trained on. Anything but 0 flatters.
    """

    accuracy: float
    ci95: tuple[float, float]
    log_loss: float
    rows: int
    split: str
    quarantined: int
    class_names: list[str]
    confusion_matrix: list[list[int]]
    per_class: dict[str, dict[str, float]]
    seen_in_training: int


@dataclass
class Classifier:
    """A fitted head together with all that is needed to use it on pictures.

    Attributes:
        head: the fitted head, whose classes are the numbers of ``class_names``.
        class_names: the classes.
        spec: what made the features it was fitted on.
        recipe: how to build the trunk that makes such features.
        report: how it was fitted, and how it did.
        train_ids, validation_ids: content ids of the rows it was trained on, and of those held out to choose.
    """

    head: Head
    class_names: list[str]
    spec: Spec
    recipe: Recipe
    report: dict[str, Any]
    train_ids: NDArray[Any] = field(repr=False)
    validation_ids: NDArray[Any] = field(repr=False)

    # ------------------------------------------------------------------------------------------------------- using it

    def predict_proba(self, features: Features, rows: Any = None) -> NDArray[np.float32]:
        """Probabilities ``(n, classes)`` for rows of a feature file made by this classifier's spec."""
        require_same_spec(features.spec, self.spec, features.path)
        numbers = np.arange(len(features))[slice(None) if rows is None else rows]
        probabilities = np.empty((len(numbers), len(self.class_names)), np.float32)
        done = 0
        for block, X in features.blocks(numbers):
            probabilities[done : done + len(block)] = self.head.predict_proba(X)
            done += len(block)
        return probabilities

    def predict(
        self,
        paths: Iterable[str | Path],
        *,
        batch_size: int = BATCH_SIZE,
        progress: Callable[[str, int, int], None] | None = None,
    ) -> tuple[list[Prediction], list[tuple[str, str]]]:
        """Predict pictures, given by file or by folder, from their pixels.

        Returns:
            the predictions, in order, and ``(path, reason)`` of the files that cannot be read.
        """
        files = [str(path) for path in list_files(paths)]
        trunk = self.trunk()
        failures: dict[str, PictureError] = {}
        found: dict[str, NDArray[Any]] = {}
        if progress:
            progress("predicting", 0, len(files))
        with quiet_pillow(self.recipe.max_pixels):
            load = self._loader(trunk)
            for names, features in run_trunk(files, load, trunk, batch_size, failures):
                probabilities = self.head.predict_proba(self._as_if_cached(features, names))
                found.update(zip(names, probabilities, strict=True))
                if progress:
                    progress("predicting", len(found) + len(failures), len(files))
        predictions = [self._prediction(name, found[name]) for name in files if name in found]
        return predictions, [(name, str(failures[name])) for name in files if name in failures]

    def evaluate(self, features: Features, split: str | None = None) -> Evaluation:
        """Measure on rows of a feature file: by default its test rows, else the labelled rows not trained on.

        Args:
            features: made by this classifier's spec.
            split: ``test``, ``validation`` (the rows held out by fit, or marked so), or ``train``.

        Raises:
            TrainingError: no such rows, or labels that the classifier does not know.
            SpecMismatchError: features made by another spec.
        """
        split, rows = self._rows_of(features, split)
        y = self._known_labels(features, rows)
        seen = int(np.isin(features.ids[rows], self.train_ids).sum())
        if seen and split != "train":
            logger.warning("%d of these %d pictures were trained on: the figures flatter", seen, len(rows))
        probabilities = self.predict_proba(features, rows)
        return _evaluation(y, probabilities, self.class_names, split, len(features.quarantine), seen)

    def doctor(self, features: Features, n_rows: int = 32, *, batch_size: int = BATCH_SIZE) -> dict[str, Any]:
        """Compare probabilities from cached features with those from the pictures' own pixels.

        Returns:
            ``max_abs_difference`` of probability, ``ok`` (below 1e-3), ``rows`` compared, ``skipped`` (path, reason).

        Raises:
            CacheError: none of the pictures is where it was when they were extracted.
        """
        if n_rows < 1:
            raise TrainingError(f"the doctor needs one row at least, got --rows {n_rows}")
        rows = np.unique(np.linspace(0, len(features) - 1, min(n_rows, len(features))).round().astype(int))
        trunk = self.trunk()
        failures: dict[str, PictureError] = {}
        where: dict[str, int] = dict(zip(features.paths[rows].tolist(), rows.tolist(), strict=True))
        picture_ids: dict[str, str] = {path: str(features.ids[row]) for path, row in where.items()}
        load = self._loader(trunk, Path(features.root), picture_ids)
        worst = 0.0
        with quiet_pillow(self.recipe.max_pixels):
            for names, live in run_trunk(list(where), load, trunk, batch_size, failures):
                cached = self.predict_proba(features, [where[name] for name in names])
                fresh = self.head.predict_proba(self._as_if_cached(live, names))
                worst = max(worst, float(np.abs(cached - fresh).max()))
        if len(failures) == len(where):
            path, reason = next(iter(failures.items()))
            raise CacheError(f"no picture is as it was in {features.root}; the first, {path}: {reason}. Extract again")
        return {
            "max_abs_difference": worst,
            "ok": worst < TOLERANCE,
            "rows": len(where) - len(failures),
            "skipped": [(path, str(error)) for path, error in failures.items()],
        }

    def features(
        self,
        source: str | Path | None = None,
        *,
        cache_dir: str | Path = "cache",
        progress: Callable[[str, int, int], None] | None = None,
    ) -> Features:
        """Features of a file, of a data set (extracted if need be), or by default what this was fitted on.

        Raises:
            CacheError: the file is gone. SpecMismatchError: it was made by another spec.
        """
        source = Path(source or self.report["features"])
        if source.suffix != ".h5":
            made = extract(source, cache_dir=cache_dir, progress=progress, **asdict(self.recipe))
            source = Path(made.features)
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

    def _loader(
        self, trunk: Trunk, root: Path | None = None, ids: dict[str, str] | None = None
    ) -> Callable[[str], NDArray[np.uint8]]:
        def load(path: str) -> NDArray[np.uint8]:
            data = read_file(root / path if root else path)
            if ids is not None and content_id(data) != ids[path]:
                raise PictureError("was changed since it was extracted")
            return load_picture(data, trunk.size, self.recipe)

        return load

    def _as_if_cached(self, features: NDArray[np.float32], names: list[str]) -> NDArray[np.float32]:
        """Live features rounded as the file rounds them, so that the head sees what it was trained on."""
        return as_stored(features, self.recipe.dtype, names).astype(np.float32)

    def _prediction(self, path: str, probabilities: NDArray[Any]) -> Prediction:
        best = int(np.argmax(probabilities))
        by_name = {name: float(p) for name, p in zip(self.class_names, probabilities, strict=True)}
        return Prediction(path, self.class_names[best], float(probabilities[best]), by_name)

    def _rows_of(self, features: Features, split: str | None) -> tuple[str, NDArray[np.int64]]:
        labelled = features.y >= 0
        marked = {name: np.flatnonzero(labelled & (features.splits == name)) for name in ("test", "validation")}
        if split is None:
            if len(marked["test"]):
                return "test", marked["test"]
            unseen = np.flatnonzero(labelled & ~np.isin(features.ids, self.train_ids))
            split, rows = ("validation" if len(unseen) and self._held_out(features, unseen) else "unseen"), unseen
        elif split == "test":
            rows = marked["test"]
        elif split == "validation":
            held_out = np.flatnonzero(labelled & np.isin(features.ids, self.validation_ids))
            rows = held_out if len(held_out) else marked["validation"]
        elif split == "train":
            rows = np.flatnonzero(labelled & np.isin(features.ids, self.train_ids))
        else:
            raise TrainingError(f"unknown split {split!r}; expected test, validation or train")
        if not len(rows):
            raise TrainingError(self._why_no_rows(features, split))
        return split, rows

    def _held_out(self, features: Features, rows: NDArray[np.int64]) -> bool:
        return bool(np.isin(features.ids[rows], self.validation_ids).all())

    def _why_no_rows(self, features: Features, split: str) -> str:
        if not (features.y >= 0).any():
            return f"{features.path} has no labels to compare with; `featx predict` needs none"
        if split == "unseen":
            accuracy = self.report.get("validation_accuracy")
            measured = f" While fitting, {accuracy:.3f} was measured on held-out rows." if accuracy is not None else ""
            return (
                f"every labelled picture of {features.path.name} was trained on, and there is no test split.{measured} "
                "Evaluate on other pictures (`featx evaluate MODEL DATASET`), or look at --split validation or train"
            )
        return f"{features.path.name} has no labelled rows of the {split} split; try another --split"

    def _known_labels(self, features: Features, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """True classes as numbers of this classifier's ``class_names``."""
        index = {name: number for number, name in enumerate(self.class_names)}
        names = [features.class_names[label] for label in features.y[rows]]
        unknown = sorted(set(names) - set(index))
        if unknown:
            raise TrainingError(
                f"{features.path.name} has the class {unknown[0]!r}, which the classifier does not know; it knows "
                f"{', '.join(self.class_names[:10])}"
            )
        return np.array([index[name] for name in names], np.int64)

    # --------------------------------------------------------------------------------------------------- keeping it

    def save(self, folder: str | Path) -> Path:
        """Write the classifier as a folder, whole or not at all. A classifier that is there already is replaced.

        Raises:
            ModelError: the folder exists and is something else, or cannot be written.
        """
        folder = Path(folder)
        if (
            folder.exists()
            and not (folder / "classifier.json").is_file()
            and (not folder.is_dir() or any(folder.iterdir()))
        ):
            raise ModelError(f"{folder} exists and is not a classifier; give another --out")
        unfinished = folder.with_name(f".{folder.name}.{os.getpid()}")
        try:
            _remove(unfinished)  # left by a killed process that had our number
            unfinished.mkdir(parents=True)
            self._write(unfinished)
            _put_in_place(unfinished, folder)
        except OSError as error:
            raise ModelError(f"{folder} cannot be written: {(error.strerror or str(error)).lower()}") from error
        finally:
            _remove(unfinished)
        return folder

    def _write(self, folder: Path) -> None:
        arrays: dict[str, Any] = {f"head/{name}": value for name, value in self.head.get_state().items()}
        ids = {"train_ids": self.train_ids, "validation_ids": self.validation_ids}
        arrays |= {name: np.array(value.tolist(), "S32") for name, value in ids.items()}
        np.savez(folder / "arrays.npz", **arrays)
        history = getattr(self.head, "history_", None)
        if history:
            lines = [",".join(["epoch", *history])]
            lines += [",".join(map(str, (n, *row))) for n, row in enumerate(zip(*history.values(), strict=True), 1)]
            (folder / "history.csv").write_text("\n".join(lines) + "\n")
        about = {
            "schema": SCHEMA,
            "head": {"name": _head_name(self.head), "params": self.head.get_params()},
            "class_names": self.class_names,
            "spec": self.spec,
            "recipe": asdict(self.recipe),
            "report": self.report,
            "arrays": content_id((folder / "arrays.npz").read_bytes()),
        }
        text = json.dumps(about, indent=1, ensure_ascii=False, default=lambda number: number.item())  # NumPy's numbers
        (folder / "classifier.json").write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path, weights: str | None = None) -> Classifier:
        """Read a classifier that :meth:`save` wrote. No code from the folder is run.

        Args:
            folder: the classifier.
            weights: where the trunk's weights are now, if not where they were when it was fitted.

        Raises:
            ModelError: no classifier, an altered one, or a folder with files that could carry code.
        """
        folder = Path(folder)
        if not (folder / "classifier.json").is_file():
            raise ModelError(f"{folder} is not a classifier: it has no classifier.json. `featx fit` makes one")
        _refuse_strangers(folder)
        try:
            about = json.loads((folder / "classifier.json").read_text(encoding="utf-8"))
            if about["schema"] != SCHEMA:
                raise ModelError(f"{folder} has schema {about['schema']}, this featx reads {SCHEMA}; fit again")
            if content_id((folder / "arrays.npz").read_bytes()) != about["arrays"]:
                raise ModelError(f"{folder}/arrays.npz is not the file that was saved; fit again")
            with np.load(folder / "arrays.npz", allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
            state = {name.removeprefix("head/"): value for name, value in arrays.items() if name.startswith("head/")}
            head = make_head(about["head"]["name"], **about["head"]["params"])
            return cls(
                head=head.set_state(state, np.arange(len(about["class_names"]))),
                class_names=about["class_names"],
                spec=about["spec"],
                recipe=Recipe(**{**about["recipe"], **({"weights": weights} if weights else {})}),
                report=about["report"],
                train_ids=arrays["train_ids"].astype(str),
                validation_ids=arrays["validation_ids"].astype(str),
            )
        except FeatxError:
            raise
        except Exception as error:  # whatever an altered file makes JSON, NumPy or Keras raise
            raise ModelError(
                f"{folder} is damaged or was altered ({type(error).__name__}: {error}); fit again"
            ) from error


def fit(
    features: Features | str | Path,
    head: str | Head = "bn-mlp",
    *,
    validation: float = 0.2,
    random_state: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
    **params: Any,
) -> Classifier:
    """Fit a head on the training rows of a feature file.

    The validation rows are the data set's own, or drawn: a share of each class's pictures. Heads that stop early look
    at them; the others are measured on them and then, if the rows were drawn, fitted again on all training rows.

    Args:
        features: a feature file or its path.
        head: a name (``bn-mlp``, ``mlp``, ``logreg``, ``svm``, ``ridge``, ``knn``) or an unfitted head.
        validation: share to draw if the data set has no validation split.
        random_state: seed of the draw and of the head.
        progress: called with what is going on, how much is done, and of how much.
        **params: of a head given by name, such as ``C=0.1`` or ``dropout=0.8``.

    Raises:
        TrainingError: one class only, a class without training pictures, or settings that do not fit.
    """
    started = time.perf_counter()
    features = features if isinstance(features, Features) else load_features(features)
    model = make_head(head, **{"random_state": random_state, **params}) if isinstance(head, str) else head
    split = _training_split(features, validation, random_state)
    train, validation_accuracy = split.train, None
    try:
        X, held_out = features.stored(split.train), features.stored(split.validation)
        early = (held_out, features.y[split.validation]) if model.uses_validation and len(held_out) else None
        model.fit(X, features.y[split.train], validation_data=early, progress=progress)
        if len(held_out):
            validation_accuracy = float(model.score(held_out, features.y[split.validation]))
        if len(held_out) and split.drawn and not model.uses_validation:
            train = np.sort(np.concatenate([split.train, split.validation]))
            X = features.stored(train)
            model.fit(X, features.y[train])
        train_accuracy = float(model.score(X, features.y[train]))
    except ValueError as error:  # scikit-learn's way to say that settings do not fit
        raise TrainingError(str(error)) from error
    report = {
        "head": _head_name(model),
        "train_rows": len(train),
        "validation_rows": len(split.validation),
        "train_accuracy": train_accuracy,
        "validation_accuracy": validation_accuracy,
        "seconds": time.perf_counter() - started,
        "features": str(features.path.resolve()),
        "dataset": features.dataset,
        "left_out": len(split.left_out),
        "random_state": random_state,
        "epochs": len(getattr(model, "history_", {}).get("loss", [])) or None,
    }
    recipe, ids = Recipe(**features.recipe), features.ids
    return Classifier(model, features.class_names, features.spec, recipe, report, ids[train], ids[split.validation])


def _training_split(features: Features, validation: float, random_state: int) -> Split:
    split = split_rows(features.ids, features.y, features.splits, validation=validation, random_state=random_state)
    if len(features.class_names) < 2:
        only = features.class_names[0] if features.class_names else "none"
        raise TrainingError(f"{features.path.name} has one class only ({only}); a classifier needs two or more")
    absent = set(range(len(features.class_names))) - set(features.y[split.train].tolist())
    if absent:
        name = features.class_names[min(absent)]
        raise TrainingError(
            f"class {name!r} has no picture to train on in {features.path.name}: they are missing, unreadable, or only "
            "in the validation or test split. Add some, or take the class out"
        )
    if len(split.left_out):
        logger.warning(
            "%d training pictures are also among the validation or test pictures, and do not train", len(split.left_out)
        )
    return split


def _evaluation(
    y: NDArray[np.int64], probabilities: NDArray[Any], names: list[str], split: str, quarantined: int, seen: int
) -> Evaluation:
    numbers = np.arange(len(names))
    predicted = np.argmax(probabilities, axis=1)
    probabilities = probabilities.astype(np.float64)
    probabilities /= probabilities.sum(axis=1, keepdims=True)  # float32 rows sum to 1 only nearly
    accuracy = float(np.mean(predicted == y))
    columns = precision_recall_fscore_support(y, predicted, labels=numbers, zero_division=0.0)
    measures = ("precision", "recall", "f1", "support")
    per_class = {
        name: {m: float(column[i]) for m, column in zip(measures, columns, strict=True)} for i, name in enumerate(names)
    }
    return Evaluation(
        accuracy=accuracy,
        ci95=wilson_interval(accuracy, len(y)),
        log_loss=float(log_loss(y, probabilities, labels=numbers)),
        rows=len(y),
        split=split,
        quarantined=quarantined,
        class_names=names,
        confusion_matrix=confusion_matrix(y, predicted, labels=numbers).tolist(),
        per_class=per_class,
        seen_in_training=seen,
    )


def wilson_interval(share: float, n: int, z: float = 1.959964) -> tuple[float, float]:
    """95 % interval of a share of ``n`` independent trials (Wilson 1927, "Probable inference")."""
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def _head_name(head: Head) -> str:
    return next((name for name, kind in HEADS.items() if type(head) is kind), type(head).__name__)


def _put_in_place(unfinished: Path, folder: Path) -> None:
    """Rename a folder over another one, which comes back if that fails."""
    old = unfinished.with_name(f"{unfinished.name}.old")
    _remove(old)
    if folder.exists():
        os.replace(folder, old)
    try:
        os.replace(unfinished, folder)
    except OSError:
        if old.exists():
            os.replace(old, folder)
        raise
    _remove(old)


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def _refuse_strangers(folder: Path) -> None:
    for path in sorted(folder.rglob("*")):
        known = path.name in OWN_FILES or path.name.lower() in LITTER or path.suffix.lower() in HARMLESS_SUFFIXES
        if not known and not path.is_dir():
            raise ModelError(
                f"{folder} was refused: {path.relative_to(folder)} could carry code, and a classifier is JSON and "
                "arrays only. Remove it if you know how it came there, or fit again"
            )
