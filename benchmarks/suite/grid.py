"""What is asked: data sets x backbones x methods x shots x seeds, as cells; and the label files that they train on."""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from featx._internal.files import write_whole
from featx.errors import DatasetError
from featx.pictures import Picture, list_dataset

HEADS = ("logreg", "svm", "ridge", "knn", "mlp", "bn-mlp")
FINE_TUNED = ("tail", "end-to-end", "scratch")
METHODS = ("majority", *HEADS, *FINE_TUNED)
FEATURES = "features"  # the method of cells that extract what others train on,
PIXELS = "pixels"  # of which this is for networks that train from the first layer on
SCRATCH_NETWORK = "cnn4"


@dataclass(frozen=True)
class Cell:
    """One run, as it is asked for. What has no influence on it is None, so that changing that asks for nothing new.

    Attributes:
        dataset: its name.
        pictures: a digest of its paths, labels and splits.
        method: one of ``METHODS``, or ``features``.
        trains: what is trained: ``head``, the first layer of a tail, ``all``, or the name of a network from nothing.
            Of ``features``: for what they are; ``pixels`` are for both of the last.
        backbone, weights, preprocess, size: of the network.
        shots: training pictures a class; None is all.
        seed: of the draw of the pictures, and of the training.
        epochs: of fine-tuning, at most.
        validation: share of the training pictures that is held out to choose by.
    """

    dataset: str
    pictures: str
    method: str
    trains: str | None = None
    backbone: str | None = None
    weights: str | None = None
    preprocess: str | None = None
    size: int | None = None
    shots: int | None = None
    seed: int | None = None
    epochs: int | None = None
    validation: float | None = None

    @property
    def key(self) -> str:
        """Name of its file: what one looks for, and a digest of all that was asked."""
        asked = hashlib.blake2b(json.dumps(asdict(self)).encode(), digest_size=5).hexdigest()
        return "-".join([*self._words, asked]).replace("/", "_").replace(" ", "-")

    @property
    def features(self) -> Cell | None:
        """The cell that extracts what this one trains on; None if it needs nothing, or is one."""
        if self.trains is None or self.method == FEATURES:
            return None
        if self.trains in ("all", SCRATCH_NETWORK):
            return Cell(self.dataset, self.pictures, FEATURES, PIXELS, size=self.size)
        return replace(self, method=FEATURES, shots=None, seed=None, epochs=None, validation=None)

    def __str__(self) -> str:
        return " ".join(self._words)

    @property
    def _words(self) -> list[str]:
        if self.method == FEATURES:
            return [self.dataset, *filter(None, [self.backbone]), f"features for {self.trains}"]
        shots = "all" if self.shots is None else f"{self.shots} shots"
        return [self.dataset, *filter(None, [self.backbone]), self.method, shots, f"seed {self.seed}"]


@dataclass(frozen=True)
class Network:
    """A backbone of the grid: what it is called, where it is, and the first layer of its tail."""

    name: str
    recipe: dict[str, Any]
    weights: str
    tail: str | None


@dataclass(frozen=True)
class Pictures:
    """A data set of the grid.

    Attributes:
        name: as the tables call it.
        root: the folder that its paths are relative to.
        training, test: its labelled pictures; those of a validation split are training pictures here, since each
            method holds out its own.
    """

    name: str
    root: Path
    training: tuple[Picture, ...]
    test: tuple[Picture, ...]

    @classmethod
    def of(cls, path: str | Path) -> Pictures:
        """List a data set as featx does.

        Raises:
            DatasetError: it has no test split, so that there is nothing to measure on.
        """
        listing = list_dataset(path)
        known = [p for p in listing.pictures if p.label is not None and p.path not in listing.misplaced]
        test = tuple(p for p in known if p.split == "test")
        training = tuple(p for p in known if p.split != "test")
        if not test or not training:
            raise DatasetError(f"{path} needs labelled training and test pictures; expected {{train,test}}/CLASS/*")
        return cls(listing.name, listing.root.resolve(), training, test)

    @property
    def digest(self) -> str:
        """Of paths, labels and splits."""
        rows = [[p.path, p.label, p.split] for p in (*self.training, *self.test)]
        return hashlib.blake2b(json.dumps(rows).encode(), digest_size=8).hexdigest()

    def drawn(self, shots: int | None, seed: int) -> list[Picture]:
        """So many training pictures of each class (of a smaller class, all); with one seed, fewer are among more."""
        if shots is None:
            return list(self.training)
        of_class: dict[str, list[Picture]] = defaultdict(list)
        for picture in self.training:
            of_class[str(picture.label)].append(picture)
        rng = np.random.default_rng(seed)
        return [group[i] for _, group in sorted(of_class.items()) for i in rng.permutation(len(group))[:shots]]

    def write_labels(self, folder: Path, name: str, training: list[Picture]) -> Path:
        """A label file of these pictures and of the test pictures; all are reached by a link beside it."""
        folder.mkdir(parents=True, exist_ok=True)
        link = folder / "pictures"
        if not link.exists():
            link.unlink(missing_ok=True)  # it led to where they were before
            link.symlink_to(self.root, target_is_directory=True)
        table = io.StringIO()
        writer = csv.writer(table)
        writer.writerow(["path", "label", "split"])
        for split, pictures in (("train", training), ("test", self.test)):
            writer.writerows([f"pictures/{p.path}", p.label, split] for p in pictures)
        write_whole(folder / f"{name}.csv", table.getvalue().encode())
        return folder / f"{name}.csv"


@dataclass(frozen=True)
class Grid:
    """All that is asked for at once."""

    datasets: tuple[Pictures, ...]
    networks: tuple[Network, ...]
    methods: tuple[str, ...]
    shots: tuple[int | None, ...]
    seeds: tuple[int, ...]
    epochs: int
    validation: float = 0.2

    def cells(self) -> list[Cell]:
        """The cells, each after the one that extracts its features; the first seed of all before the second of any."""
        asked = itertools.product(self.seeds, self.datasets, self.networks, self.shots, self.methods)
        trained = (self._cell(*one) for one in asked)
        return list(dict.fromkeys(cell for one in trained for cell in (one.features, one) if cell))

    def _cell(self, seed: int, dataset: Pictures, network: Network, shots: int | None, method: str) -> Cell:
        cell = Cell(dataset.name, dataset.digest, method, shots=shots, seed=seed)
        if method == "majority":
            return replace(cell, seed=self.seeds[0])  # it sees how many there are of each class, which no draw changes
        epochs = self.epochs if method in FINE_TUNED else None
        cell = replace(cell, size=network.recipe["size"], validation=self.validation, epochs=epochs)
        if method == "scratch":
            return replace(cell, trains=SCRATCH_NETWORK)
        return replace(
            cell,
            trains={"tail": network.tail, "end-to-end": "all"}.get(method, "head"),
            backbone=network.name,
            weights=network.weights,
            preprocess=network.recipe["preprocess"],
        )

    def dataset(self, cell: Cell) -> Pictures:
        """The pictures of a cell."""
        return next(d for d in self.datasets if (d.name, d.digest) == (cell.dataset, cell.pictures))

    def recipe(self, cell: Cell) -> dict[str, Any]:
        """What featx has to be told of the network of a cell."""
        if cell.backbone is None:
            return {"size": cell.size}
        return next(n.recipe for n in self.networks if n.name == cell.backbone)


def parse_shots(words: list[str]) -> Iterator[int | None]:
    """Numbers of pictures a class; ``all`` is None."""
    for word in words:
        if word != "all" and not (word.isdecimal() and int(word) > 0):
            raise ValueError(f"--shots takes numbers from 1 and `all`, got {word!r}")
        yield None if word == "all" else int(word)
