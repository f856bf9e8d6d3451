"""Explanations of pictures: a PNG file each, which shows what spoke for a class."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from featx._internal.choices import Method
from featx._internal.files import write_whole
from featx._internal.parallel import in_threads
from featx._internal.progress import Progress, silent
from featx.classifier import Classifier
from featx.errors import PictureError, require_choice
from featx.explanation.figure import Figure, png_names, shrink, to_png
from featx.explanation.lookup import FeatureBlock, feature_blocks, look_up
from featx.explanation.maps import METHODS, activation_maps
from featx.pictures import decode, quiet_pillow, read_file


@dataclass(frozen=True)
class Explanation:
    """Explanation of one picture.

    Attributes:
        path: file of the picture.
        label: the most probable class.
        probability: its probability, 0 to 1.
        true_label: label of the picture in the data set that the classifier was fitted on, or in the feature file that
            was named; None if it is not known.
        class_name: class that the activation map is of.
        class_probability: its probability, 0 to 1.
        image_path: the PNG file: the picture, the picture under the map, a colour bar, labels and probabilities.
        cached: whether the features came from a feature file; else the network was run.

    Example:
        >>> import featx
        >>> features = featx.extract("photos", backbone="pixels", size=16).features_path
        >>> classifier = featx.fit(features, "logreg", input="flat")
        >>> (explanation, *others), _ = featx.explain(classifier, ["photos"], class_name="lying", out="maps")
        >>> explanation.class_name, explanation.class_probability == explanation.probability
        ('lying', True)
    """

    path: str
    label: str
    probability: float
    true_label: str | None
    class_name: str
    class_probability: float
    image_path: str
    cached: bool

    def __repr__(self) -> str:
        name = Path(self.path).name
        return f"<Explanation {name}: {self.label} {self.probability:.1%}, map of {self.class_name}: {self.image_path}>"


def explain(
    classifier: Classifier | str | Path,
    paths: Iterable[str | Path],
    *,
    method: Method | None = None,
    class_name: str | None = None,
    out: str | Path = "explanations",
    progress: Progress | None = None,
) -> tuple[list[Explanation], list[tuple[str, str]]]:
    """Write a PNG file for each picture: the activation map of a class over it, with labels and probabilities.

    Features of pictures that the classifier was fitted on are taken from its feature file, found by their content;
    only for other pictures the network is run.

    Args:
        classifier: a classifier, or the folder of a saved one; its head has a gradient (any but ``knn``).
        paths: pictures and folders of them; or one feature file, whose pictures are read where they were extracted.
        method: ``cam`` (exact, linear heads only) or ``gradcam``; by default ``cam`` where it can be had.
        class_name: class to explain; by default the predicted one of each picture.
        out: folder to write to; it is made if need be.
        progress: called with the stage, how many pictures are done, and of how many.

    Returns:
        Explanations in the order of the pictures, and ``(path, reason)`` of those that cannot be read.

    Raises:
        SettingError: an unknown class or method, or a feature file among other paths.
        ModelError: the folder is no classifier.
        DatasetError: a path that does not exist, or no pictures at all.
        SpecMismatchError: a feature file of another spec than the classifier's.
        TrainingError: a head or features of which there is no map.

    Example:
        >>> import featx
        >>> features = featx.extract("photos", backbone="pixels", size=16).features_path
        >>> classifier = featx.fit(features, "logreg", input="flat")
        >>> explanations, quarantined = featx.explain(classifier, ["photos/lying"], out="maps")
        >>> len(explanations), quarantined
        (12, [])
        >>> explanations[0].image_path, explanations[0].true_label, explanations[0].cached
        ('maps/000.png', 'lying', True)
    """
    if method is not None:
        require_choice("method", method, METHODS)
    classifier = Classifier.of(classifier)
    if class_name is not None:
        require_choice("class_name", class_name, classifier.class_names)
    lookup = look_up(classifier, [Path(path) for path in paths])
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    files = {path: folder / name for path, name in png_names([target.path for target in lookup.targets]).items()}
    explanations: dict[str, Explanation] = {}
    progress = progress or silent
    total = len(files) + len(lookup.unreadable)
    progress("explaining", len(lookup.unreadable), total)

    def write(drawn: tuple[Explanation, Figure]) -> None:
        """Draw a figure, and write it."""
        explanation, figure = drawn
        image = decode(read_file(explanation.path), classifier.recipe.max_pixels)
        write_whole(Path(explanation.image_path), to_png(figure.draw(shrink(image))))

    with quiet_pillow(classifier.recipe.max_pixels):
        for block in feature_blocks(classifier, lookup):
            for (explanation, _), failure in in_threads(_drawn(classifier, block, method, class_name, files), write):
                if isinstance(failure, PictureError):
                    lookup.unreadable[explanation.path] = str(failure)
                else:
                    explanations[explanation.path] = explanation
                progress("explaining", len(explanations) + len(lookup.unreadable), total)
    in_order = [explanations[path] for path in files if path in explanations]
    return in_order, sorted(lookup.unreadable.items())


def _drawn(
    classifier: Classifier,
    block: FeatureBlock,
    method: Method | None,
    class_name: str | None,
    files: dict[str, Path],
) -> list[tuple[Explanation, Figure]]:
    """Explanation of each picture of a block, and what is to be drawn for it."""
    names = classifier.class_names
    probabilities = classifier.probabilities(block.stored)
    predicted = probabilities.argmax(axis=1)
    shown = predicted if class_name is None else np.full(len(predicted), names.index(class_name))
    maps = activation_maps(classifier.head, block.stored, shown, method)
    signed = bool((maps < 0).any())
    drawn = []
    for row, path in enumerate(block.paths):
        explanation = Explanation(
            path=path,
            label=names[predicted[row]],
            probability=float(probabilities[row, predicted[row]]),
            true_label=block.true_labels[row],
            class_name=names[shown[row]],
            class_probability=float(probabilities[row, shown[row]]),
            image_path=str(files[path]),
            cached=block.cached,
        )
        size, resize = classifier.spec["size"], classifier.recipe.resize
        drawn.append((explanation, Figure(maps[row], signed, _lines(explanation), size, resize)))
    return drawn


def _lines(explanation: Explanation) -> tuple[str, str]:
    """Text of a figure: what was predicted, and what the map is of."""
    predicted = f"{explanation.label} {explanation.probability:.1%}"
    if explanation.true_label is not None:
        predicted += f", in truth {explanation.true_label}"
    evidence = f"evidence for {explanation.class_name}"
    if explanation.class_name != explanation.label:
        evidence += f" ({explanation.class_probability:.1%})"
    return predicted, evidence
