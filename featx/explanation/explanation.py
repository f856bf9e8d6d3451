"""Explanations: for pictures, a PNG each that shows what spoke for a class. Features are taken from the cache."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from featx._internal.files import write_whole
from featx._internal.hashing import content_id
from featx._internal.parallel import in_threads
from featx._internal.progress import Progress
from featx.cache import Features, load_features, require_same_spec
from featx.classifier import Classifier
from featx.errors import CacheError, PictureError, SettingError, SpecMismatchError, require_choice
from featx.explanation.maps import METHODS, activation_maps, colour_bar, overlay
from featx.pictures import decode, list_files, quiet_pillow, read_file

if TYPE_CHECKING:
    from numpy.typing import NDArray


BLOCK = 64  # pictures whose features are in memory at once
LONGEST_SIDE = 800  # pixels, of the pictures that are written
MARGIN = 8


@dataclass(frozen=True)
class Explanation:
    """One picture explained.

    Attributes:
        path: of the picture.
        label, probability: what the classifier takes it for.
        true_label: what the data set says, if the picture is one of those that the classifier was fitted on or beside.
        class_name: the class that the map is of, and ``class_probability`` what the classifier gives it.
        image: the PNG that was written.
        cached: whether the features came from the cache; else the network was run.
    """

    path: str
    label: str
    probability: float
    true_label: str | None
    class_name: str
    class_probability: float
    image: str
    cached: bool


@dataclass(frozen=True)
class _Asked:
    """A picture to be explained: the file, and where its features are if they are cached."""

    path: str
    row: int | None = None


def explain(
    classifier: Classifier | str | Path,
    paths: Iterable[str | Path],
    *,
    method: str | None = None,
    class_name: str | None = None,
    out: str | Path = "explanations",
    progress: Progress | None = None,
) -> tuple[list[Explanation], list[tuple[str, str]]]:
    """Write a PNG for each picture: the map of a class over it, with a colour bar, labels and probabilities.

    Args:
        classifier: a classifier, or the folder of a saved one, with a head that has a gradient.
        paths: pictures, folders of them, or a feature file, whose pictures are then looked for where they were.
        method: ``cam`` (linear heads) or ``gradcam``; by default ``cam`` where it can be had.
        class_name: the class to explain; by default the predicted one of each picture.
        out: the folder to write to.
        progress: called with what is going on, how much is done, and of how much.

    Returns:
        explanations in the order of the pictures, and ``(path, reason)`` of those that cannot be read.

    Raises:
        SettingError: no such class or method.
        TrainingError: a head or features of which there is no map.
    """
    classifier = Classifier.of(classifier)
    if method is not None:
        require_choice("method", method, METHODS)
    if class_name is not None:
        require_choice("class_name", class_name, classifier.class_names)
    features, asked, bad = _asked(classifier, [Path(path) for path in paths])
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    files = _file_names([a.path for a in asked])
    done: dict[str, Explanation] = {}
    if progress:
        progress("explaining", 0, len(asked))

    def write(drawn: tuple[Explanation, NDArray[np.float32], bool]) -> Explanation:
        return _write(drawn, folder / files[drawn[0].path], classifier)

    with quiet_pillow(classifier.recipe.max_pixels):
        for some, X, cached in _features(classifier, features, asked, bad):
            drawn = _explained(classifier, some, X, features if cached else None, method, class_name)
            for (explanation, *_), written in in_threads(drawn, write):
                if isinstance(written, PictureError):
                    bad.append((explanation.path, str(written)))
                else:
                    done[written.path] = written
                if progress:
                    progress("explaining", len(done) + len(bad), len(asked))
    return [done[a.path] for a in asked if a.path in done], sorted(dict(bad).items())


# ------------------------------------------------------------------------------------------------- features of pictures


def _asked(classifier: Classifier, paths: list[Path]) -> tuple[Features | None, list[_Asked], list[tuple[str, str]]]:
    """The feature file to look into, the pictures, and those that cannot be read."""
    if any(path.suffix == ".h5" for path in paths):
        if len(paths) > 1:
            raise SettingError("`paths` takes one feature file, or pictures and folders; not both", "paths")
        features = load_features(paths[0])
        require_same_spec(features.spec, classifier.spec, paths[0])
        rows = np.flatnonzero(features.pictures).tolist()
        return features, [_Asked(str(Path(features.root) / features.paths[row]), row) for row in rows], []
    fitted_on = _features_fitted_on(classifier)
    ids = [] if fitted_on is None else fitted_on.ids.tolist()
    known = {id: row for row, id in reversed(list(enumerate(ids)))}  # the first of several rows is the picture itself
    asked: list[_Asked] = []
    bad: list[tuple[str, str]] = []
    files = list(dict.fromkeys(str(path) for path in list_files(paths)))
    for path, content in in_threads(files, lambda path: content_id(read_file(path))):
        if isinstance(content, PictureError):
            bad.append((path, str(content)))
        else:
            asked.append(_Asked(path, known.get(content)))
    return fitted_on, asked, bad


def _features_fitted_on(classifier: Classifier) -> Features | None:
    """The feature file that the classifier was fitted on, if it is still what it was."""
    try:
        features = load_features(classifier.fitting.features_path)
        require_same_spec(features.spec, classifier.spec, features.path)
    except (CacheError, SpecMismatchError):
        return None
    return features


def _features(
    classifier: Classifier, features: Features | None, asked: list[_Asked], bad: list[tuple[str, str]]
) -> Iterator[tuple[list[_Asked], NDArray[Any], bool]]:
    """Features of the pictures in blocks, and whether they are cached: those first, then the others, by the trunk."""
    cached = [a for a in asked if a.row is not None]
    for start in range(0, len(cached), BLOCK):
        some = cached[start : start + BLOCK]
        if features is not None:
            yield some, features.stored([a.row for a in some]), True
    live = {a.path: a for a in asked if a.row is None}
    if live:
        failures: dict[str, PictureError] = {}
        for names, stored in classifier.live_features(list(live), failures):
            yield [live[name] for name in names], stored, False
        bad += [(path, str(error)) for path, error in failures.items()]


# -------------------------------------------------------------------------------------------------------------- drawing


def _explained(
    classifier: Classifier,
    some: list[_Asked],
    X: NDArray[Any],
    features: Features | None,
    method: str | None,
    class_name: str | None,
) -> list[tuple[Explanation, NDArray[np.float32], bool]]:
    """What is known of each picture, its map, and whether that has a sign."""
    probabilities = classifier.probabilities(X)
    predicted = probabilities.argmax(axis=1)
    names = classifier.class_names
    shown = predicted if class_name is None else np.full(len(some), names.index(class_name))
    maps = activation_maps(classifier.head, X, shown, method)
    signed = bool((maps < 0).any())
    found = []
    for number, asked in enumerate(some):
        label = -1 if features is None or asked.row is None else int(features.y[asked.row])
        explanation = Explanation(
            path=asked.path,
            label=names[predicted[number]],
            probability=float(probabilities[number, predicted[number]]),
            true_label=features.class_names[label] if features is not None and label >= 0 else None,
            class_name=names[shown[number]],
            class_probability=float(probabilities[number, shown[number]]),
            image="",
            cached=features is not None,
        )
        found.append((explanation, maps[number], signed))
    return found


def _write(drawn: tuple[Explanation, NDArray[np.float32], bool], file: Path, classifier: Classifier) -> Explanation:
    explanation, map, signed = drawn
    image = decode(read_file(explanation.path), classifier.recipe.max_pixels)
    page = _page(smaller(image), map, signed, explanation, classifier.spec["size"], classifier.recipe.resize)
    buffer = io.BytesIO()
    page.save(buffer, "PNG")
    write_whole(file, buffer.getvalue())
    return Explanation(**{**explanation.__dict__, "image": str(file)})


def smaller(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """No side longer than what a page has room for, none shorter than a pixel."""
    scale = LONGEST_SIDE / max(image.shape[:2])
    if scale >= 1:
        return image
    size = [max(1, round(side * scale)) for side in image.shape[1::-1]]
    return np.asarray(Image.fromarray(image).resize((size[0], size[1]), Image.Resampling.BILINEAR))


def _page(
    image: NDArray[np.uint8], map: NDArray[np.float32], signed: bool, e: Explanation, size: int, resize: str
) -> Image.Image:
    """The picture beside itself under the map, a colour bar, and two lines of text."""
    font = ImageFont.load_default(14)
    height, width = image.shape[:2]
    lines = [f"{e.label} {e.probability:.1%}" + (f", in truth {e.true_label}" if e.true_label is not None else "")]
    lines.append(f"evidence for {e.class_name}" + ("" if e.class_name == e.label else f" ({e.class_probability:.1%})"))
    bar = colour_bar(max(height, 40), signed)
    most = float(np.abs(map).max())
    texts = (f"{most:+.2g}", f"{-most:+.2g}" if signed else "0")
    room = max(int(font.getlength(text)) for text in texts)
    wide = max(
        2 * width + 4 * MARGIN + bar.shape[1] + room, *(int(font.getlength(_line(t))) + 2 * MARGIN for t in lines)
    )
    page = Image.new("RGB", (wide, bar.shape[0] + 2 * MARGIN + 20 * len(lines) + MARGIN), "white")
    page.paste(Image.fromarray(image), (MARGIN, MARGIN))
    page.paste(Image.fromarray(overlay(image, map, size, resize, most)), (2 * MARGIN + width, MARGIN))
    left = 3 * MARGIN + 2 * width
    page.paste(Image.fromarray(bar), (left, MARGIN))
    draw = ImageDraw.Draw(page)
    draw.text((left + bar.shape[1] + 4, MARGIN), texts[0], "black", font)
    draw.text((left + bar.shape[1] + 4, MARGIN + bar.shape[0] - 16), texts[1], "black", font)
    for number, line in enumerate(lines):
        draw.text((MARGIN, bar.shape[0] + 2 * MARGIN + 20 * number), _line(line), "black", font)
    return page


def _line(text: str) -> str:
    """Text on one line, of a length that a page has room for; a name may hold anything."""
    shown = "".join(c if c.isprintable() else "?" for c in text)
    return shown if len(shown) <= 120 else f"{shown[:117]}..."


def _file_names(paths: list[str]) -> dict[str, str]:
    """A PNG's name for each picture: its own, with a number where two would have the same."""
    names: dict[str, str] = {}
    taken: set[str] = set()
    for path in paths:
        stem = "".join(c if c.isalnum() or c in "-_. " else "_" for c in Path(path).stem)[:80] or "picture"
        name, number = f"{stem}.png", 1
        while name.lower() in taken:
            number += 1
            name = f"{stem}-{number}.png"
        taken.add(name.lower())
        names[path] = name
    return names
