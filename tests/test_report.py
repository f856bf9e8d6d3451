"""The page about a classifier: what it finds, that it holds together, that nothing in it can do harm."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import picture
from PIL import Image
from typer.testing import CliRunner

import featx
from featx.classifier import Measured, calibration_bins
from featx.classifier.evaluation import measure
from featx.cli import app
from featx.errors import SettingError, TrainingError
from featx.reporting import Findings, drawing
from featx.reporting.card import NO_BREAK, card_of, headline
from featx.reporting.commands import Step
from featx.reporting.embedding import POINTS, Plot, plots_of
from featx.reporting.findings import (
    MeasuredPicture,
    classes_of,
    confusions_of,
    findings_of,
    majority_of,
    measured_pictures,
)
from featx.reporting.learning import Learning, learning_of
from featx.reporting.provenance import Provenance
from featx.reporting.report_page import page_of, shown_pictures
from featx.reporting.thumbnails import LARGE, SMALL, Shown, Thumbnail, thumbnails_of
from featx.selection.few_shot import Shots

VOID = {"meta", "br", "img", "link", "input", "hr"}
IMAGE = "data:image/webp;base64,UklGRg=="
HOSTILE = [
    "<script>alert(1)</script>.jpg",
    "\"onerror='alert(1)'.jpg",
    "a\nb\u2028c\u2029d.jpg",
    "</script><img src=x onerror=alert(1)>.jpg",
    "&lt;b&gt;{{ 7 * 7 }}{% raw %}.jpg",
    "\u202egpj.exe",
]


class Page(HTMLParser):
    """A page, read strictly: every element is closed in order, and what it holds is kept."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.scripts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, (tag, self.open, self.getpos())
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open[-1:] == ["script"]:
            self.scripts[-1] += data
        elif self.open[-1:] != ["style"]:
            self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def made_up(
    y: list[int], predicted: list[int], sure: list[float], names: list[str], paths: list[str] | None = None
) -> Findings:
    """Findings of rows whose probabilities are given; the rest is spread over the other classes."""
    probabilities = np.zeros((len(y), len(names)), np.float32)
    for row, (p, q) in enumerate(zip(predicted, sure, strict=True)):
        probabilities[row] = (1 - q) / (len(names) - 1)
        probabilities[row, p] = q
    about = {"split": "test", "quarantined": 3, "seen_in_training": 0, "left_out": 0}
    numbers = np.array(y, np.int64)
    measured = Measured(measure(numbers, probabilities, names, **about), 10 + np.arange(len(y)), numbers, probabilities)
    rows = measured_pictures(measured, paths or [f"{n}.jpg" for n in range(len(y))])
    points = [(float(n % 7), float(n % 5)) for n in range(len(y))]
    return Findings(
        dataset="data",
        evaluation=measured.evaluation,
        majority=majority_of(measured),
        pictures=rows,
        pairs=confusions_of(rows),
        classes=classes_of(rows, measured.evaluation),
        held_out=0.5,
        bins=calibration_bins(numbers, probabilities),
        learning=Learning({"loss": [2.0, 1.0], "val_loss": [2.0, 1.5]}, [Shots(1, 2, 0.5, (0.4, 0.6), [0.5])], "so"),
        plots=[Plot("PCA", "a note", list(range(len(y)))[:POINTS], points[:POINTS])],
        provenance=Provenance(
            [("Spec", [("size", "96")])], [Step("Extract", "featx extract x")], [], ["10."], "a head"
        ),
    )


@pytest.fixture
def found() -> Findings:
    """Ten pictures of three classes: two a's taken for b, one b for c."""
    return made_up(
        [0, 0, 0, 0, 1, 1, 1, 2, 2, 2],
        [0, 0, 1, 1, 1, 1, 2, 2, 2, 2],
        [0.9, 0.8, 0.6, 0.7, 0.99, 0.5, 0.95, 0.4, 0.9, 0.5],
        ["a", "b", "c"],
    )


def many(rows: int, classes: int, seed: int = 0) -> Findings:
    """As many pictures and classes as asked for; a fifth of them is wrong."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(rows) % classes)
    predicted = np.where(rng.random(rows) < 0.2, rng.integers(0, classes, rows), y)
    names = [f"class {n}" for n in range(classes)]
    return made_up(y.tolist(), predicted.tolist(), rng.uniform(0.5, 1, rows).tolist(), names)


def written(dataset: Path, backbone: str, head: str = "logreg", **params: Any) -> tuple[featx.Classifier, Path]:
    """A classifier of a data set, saved, and its folder."""
    cache = dataset.parent / "cache"
    done = featx.extract(dataset, backbone=backbone, preprocess="rescale", cache_dir=cache)
    classifier = featx.fit(done.features_path, head, **params)
    return classifier, classifier.save(dataset.parent / f"model-{head}")


# ------------------------------------------------------------------------------------------------------------- findings


def test_findings_of_numbers_made_by_hand(found: Findings) -> None:
    assert found.majority == ("a", 0.4)
    assert [(p.true, p.predicted, p.support, p.positions) for p in found.pairs] == [(0, 1, 4, (3, 2)), (1, 2, 3, (6,))]
    a, b, c = found.classes
    assert (a.recall, a.precision, a.best, a.worst) == (0.5, 1.0, (0, 1), (3, 2))
    assert (b.best, b.worst) == ((4, 5), (6,)) and (c.best, c.worst) == ((8, 9, 7), ())
    assert a.recall_ci95 == pytest.approx((0.1500, 0.8500), abs=1e-3)
    assert found.pictures[3] == MeasuredPicture(13, "3.jpg", 0, 1, pytest.approx(0.7)) and not found.pictures[3].right


def test_bins_are_those_of_the_calibration_error(found: Findings) -> None:
    assert sum(b.count for b in found.bins) == 10
    error = sum(b.count * abs(b.confidence - b.accuracy) for b in found.bins) / 10
    assert error == pytest.approx(found.evaluation.calibration_error, abs=1e-6)
    assert all(b.low <= b.confidence <= b.high for b in found.bins)


def test_the_headline_is_in_words(found: Findings) -> None:
    first, second, third = (line.replace(NO_BREAK, " ") for line in headline(found))
    assert first == "Of 10 test pictures, which it had not seen, it names 7 rightly: 70.0 %."
    assert "39.7 % to 89.2 %" in second
    assert third == "Always answering “a” would be right for 40.0 % of them; that it does better may be luck."
    flattered = replace(found, evaluation=replace(found.evaluation, seen_in_training=4))
    assert headline(flattered)[-1] == "It was trained on 4 of these pictures: the figures flatter."


def test_the_card_says_what_nobody_has_stated(found: Findings) -> None:
    card = dict(card_of(found))
    assert card["Intended use, and who may use it"] == ["Nobody has stated this."]
    assert "3 files of the data set could not be read" in card["Data measured on"][1]
    limits = " ".join(card["Limits"])
    assert "Fewer than 20 pictures were measured of a, b, c" in limits and "It knows a least: 50.0" in limits
    assert "near copies" not in limits
    assert "near copies" in " ".join(dict(card_of(replace(found, held_out=1.0)))["Limits"])


def test_points_keep_their_proportions_and_mistakes_lie_on_top(found: Findings) -> None:
    plot = Plot("PCA", "", [0, 1, 2], [(0.0, 0.0), (10.0, 0.0), (10.0, 5.0)])
    points = drawing.points_of(plot, [0, 0, 1], [False, True, True])
    assert [p.position for p in points] == [1, 2, 0] and [p.hue for p in points] == [0, 1, 0]
    x, y = zip(*([float(v) for v in re.findall(r"[\d.]+", p.path)[:2]] for p in points), strict=True)
    assert x[0] - x[2] == pytest.approx(2 * (y[0] - y[1]), abs=0.2)
    assert len({drawing.mark_of(n) for n in range(56)}) == 56
    one = drawing.points_of(Plot("PCA", "", [0], [(3.0, 3.0)]), [0], [True])
    assert one[0].path.startswith("M320.0,220.0")


def test_curves_skip_what_is_not_a_number() -> None:
    chart = drawing.history_chart("loss", {"loss": [3.0, float("nan"), 1.0], "val_loss": [4.0]})
    assert [len(line.dots) for line in chart.lines] == [2, 1]
    assert chart.y.marks[-1][1] == "4"


def test_plots_are_of_a_sample_of_many(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_backbone: str) -> None:
    monkeypatch.setattr("featx.reporting.embedding.POINTS", 5)
    for n in range(8):
        (tmp_path / "d" / "ab"[n % 2]).mkdir(parents=True, exist_ok=True)
        picture(n % 2, n).save(tmp_path / "d" / "ab"[n % 2] / f"{n}.png")
    done = featx.extract(tmp_path / "d", backbone=tiny_backbone, preprocess="rescale", cache_dir=tmp_path / "c")
    features = featx.load_features(done.features_path)
    (plot, *_) = plots_of(features, np.arange(8))
    assert len(plot.positions) == 5 and sorted(set(plot.positions)) == plot.positions
    assert "A random sample of 5 of 8 pictures" in plot.note and "% of their variance" in plot.note
    assert plots_of(features, np.arange(8)) == plots_of(features, np.arange(8))
    assert plots_of(features, np.arange(1))[0].points == [(0.0, 0.0)]


# ----------------------------------------------------------------------------------------------------------- rendering


def test_the_page_is_whole_and_asks_for_nothing(found: Findings) -> None:
    text = page_of(found, {picture.row: Thumbnail(IMAGE, IMAGE, IMAGE) for picture in found.pictures})
    page = Page(text)
    assert page.all("html")[0]["lang"] == "en"
    policy = next(m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
    asked = re.findall(r"""(?:src|href|action|data)\s*=\s*["']?\s*(?:https?:)?//|url\(|@import|https?://""", text)
    assert asked == []
    for _, attributes in page.tags:
        assert not any(name.startswith("on") for name in attributes)
        assert (attributes.get("src") or "data:").startswith("data:")
        assert (attributes.get("href") or "#").startswith("#")


def test_the_page_can_be_read_by_everybody(found: Findings) -> None:
    page = Page(page_of(found, {}))
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    for attributes in page.all("a"):
        assert (attributes["href"] or "")[1:] in ids
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1 and all(after - before <= 1 for before, after in zip(levels, levels[1:], strict=False))
    for attributes in page.all("svg"):
        labels = (attributes.get("aria-labelledby") or "").split()
        assert attributes.get("aria-hidden") == "true" or (labels and set(labels) <= set(ids))
    assert len(page.all("caption")) == len(page.all("table"))
    assert all(attributes.get("alt") for attributes in page.all("img"))
    assert all(attributes.get("scope") in ("row", "col") for attributes in page.all("th"))
    assert {"header", "nav", "main", "footer"} <= {tag for tag, _ in page.tags}
    words = " ".join(page.text)
    assert "a taken for b: 2 of 4" in words and "b taken for c: 1 of 3" in words
    buttons = [b["aria-label"] for b in page.all("button")]
    assert buttons[1] == "a taken for b: 2, 50 % of the row"


@pytest.mark.parametrize("hostile", HOSTILE)
def test_names_are_text_wherever_they_come(hostile: str, found: Findings) -> None:
    names = [hostile, "b", f"{hostile} 2"]
    paths = [f"{n}/{hostile}" for n in range(10)]
    bad = made_up(
        [r.true for r in found.pictures],
        [r.predicted for r in found.pictures],
        [r.probability for r in found.pictures],
        names,
        paths,
    )
    steps = [Step(hostile, f"featx extract {shlex.quote(hostile)}")]
    tables = [(hostile, [(hostile, hostile)])]
    bad = replace(
        bad,
        dataset=hostile,
        provenance=Provenance(tables, steps, [hostile], [hostile], hostile),
        learning=replace(bad.learning, note=hostile, history={hostile: [1.0]}),
        plots=[replace(bad.plots[0], name=hostile, note=hostile)],
    )
    plain = Page(page_of(found, {}))
    text = page_of(bad, {picture.row: Thumbnail(problem=hostile) for picture in bad.pictures})
    page = Page(text)
    assert {tag for tag, _ in page.tags} == {tag for tag, _ in plain.tags}
    assert len(page.scripts) == 2 and page.scripts[1] == plain.scripts[1]
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert not set("\u2028\u2029\u202e") & set(text)
    assert "<" not in page.scripts[0] and "&" not in page.scripts[0]
    data = json.loads(page.scripts[0])
    seen = "".join(c if c.isprintable() else repr(c)[1:-1] for c in paths[3])
    assert data["rows"][3][0] == seen and any(seen in words for words in page.text)


@pytest.mark.parametrize("classes", [2, 21, 60, 101])
def test_pages_of_few_and_many_classes(classes: int) -> None:
    found = many(404, classes)
    page = Page(page_of(found, {}))
    cells = [b for b in page.all("button") if "data-cell" in b]
    assert bool(cells) == (classes <= 100)
    inside = [
        tag
        for tag, _ in page.tags[: next((i for i, (t, a) in enumerate(page.tags) if a.get("class") == "confusion"), 0)]
    ]
    assert inside.count("details") == (1 if 20 < classes <= 100 else 0)
    shown = sum(tag == "figure" for tag, _ in page.tags)
    assert 0 < shown <= 12 * 8 + 30 * 8
    assert len(shown_pictures(found).explained) <= 96


def test_five_thousand_pictures_stay_small() -> None:
    found = many(5000, 10)
    small = "data:image/webp;base64," + "A" * 1100  # of 48 pixels
    large = "data:image/webp;base64," + "A" * 3000
    text = page_of(found, {picture.row: Thumbnail(small, large) for picture in found.pictures})
    assert len(text.encode()) < 9e6
    assert len(json.loads(Page(text).scripts[0])["rows"]) == 5000


def test_without_mistakes_there_is_nothing_confused() -> None:
    page = Page(page_of(made_up([0, 1], [0, 1], [0.9, 0.8], ["a", "b"]), {}))
    assert "None of the measured pictures was named wrongly." in " ".join(page.text)


def test_a_class_without_measured_pictures_is_said_to_have_none() -> None:
    page = Page(page_of(made_up([0, 0], [0, 1], [0.9, 0.8], ["a", "b"]), {}))
    assert "none measured" in page.text


# ------------------------------------------------------------------------------------------------------------ pictures


def test_thumbnails_are_small_and_missing_pictures_are_named(
    make_dataset: Callable[..., Path], tiny_backbone: str, tmp_path: Path
) -> None:
    data = make_dataset(each=4)
    classifier, _ = written(data, tiny_backbone)
    features = classifier.features_of()
    gone, changed = data / features.paths[0], data / features.paths[1]
    gone.unlink()
    changed.write_bytes((data / features.paths[2]).read_bytes())
    told: list[tuple[str, int, int]] = []
    thumbs = thumbnails_of(classifier, features, Shown({0, 1, 2}, {2, 3}, {3: 0}), lambda *words: told.append(words))
    assert thumbs[0].problem.startswith("cannot be read") and not thumbs[0].small
    assert thumbs[1].problem == "was changed since its features were extracted"
    assert thumbs[2].small.startswith("data:image/webp;base64,") and thumbs[2].large
    assert thumbs[3].large and not thumbs[3].small
    assert thumbs[3].overlay.startswith("data:image/webp;base64,") and thumbs[3].overlay != thumbs[3].large
    assert not thumbs[2].overlay
    neighbours, _ = written(data, tiny_backbone, "knn")
    assert not thumbnails_of(neighbours, features, Shown(set(), {3}, {3: 0}))[3].overlay
    assert told[-1] == ("pictures", 4, 4)
    page = featx.report(classifier, tmp_path / "page.html").read_text()
    assert Page(page) and ("no picture: cannot be read" in page or "was changed" in page)
    shutil.rmtree(data)
    assert Page(featx.report(classifier, tmp_path / "page.html").read_text())


def test_thumbnails_of_large_pictures_fit(tmp_path: Path, tiny_backbone: str) -> None:
    import base64
    import io

    for n, name in enumerate("ab"):
        (tmp_path / "d" / name).mkdir(parents=True)
        for k in range(3):
            picture(n, k, (1500, 400)).save(tmp_path / "d" / name / f"{k}.jpg")
    classifier, _ = written(tmp_path / "d", tiny_backbone)
    thumb = thumbnails_of(classifier, classifier.features_of(), Shown({0}, {0}, {}))[0]
    for uri, side in ((thumb.small, SMALL), (thumb.large, LARGE)):
        size = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).size
        assert size == (side, pytest.approx(side * 400 / 1500, abs=1))


# ----------------------------------------------------------------------------------------------------- real classifiers


def test_a_report_measures_what_evaluate_measures(
    make_dataset: Callable[..., Path], tiny_backbone: str, tmp_path: Path
) -> None:
    make_dataset(3, 8, split="train")
    data = make_dataset(3, 4, split="test", first=50)
    classifier, folder = written(data, tiny_backbone)
    evaluation = classifier.evaluate(classifier.features_of())
    found = findings_of(classifier, classifier.features_of(), folder)
    assert found.evaluation == evaluation and evaluation.split == "test"
    assert all(picture.path.startswith("test/") for picture in found.pictures)
    assert len(found.pictures) == 12 and sum(row.right for row in found.pictures) == round(12 * evaluation.accuracy)
    assert found.learning.shots[-1].shots is None and not found.learning.history
    path = featx.report(folder, folder / "report.html")
    assert Page(path.read_text(encoding="utf-8"))
    assert featx.Classifier.load(folder).class_names == classifier.class_names  # the page lies well in its folder
    before = path.read_bytes()
    assert featx.report(folder, path).read_bytes() == before


@pytest.mark.parametrize("head", ["knn", "bn-mlp", "ridge"])
def test_heads_without_a_test_split(
    head: str, make_dataset: Callable[..., Path], tiny_backbone: str, tmp_path: Path
) -> None:
    params = {"epochs": 3} if head == "bn-mlp" else {}
    classifier, folder = written(make_dataset(2, 10), tiny_backbone, head, **params)
    found = findings_of(featx.Classifier.load(folder), classifier.features_of(), folder)
    assert found.evaluation.split == "validation" and "held out when it was trained" in headline(found)[0]
    assert len(found.learning.history.get("val_loss", [])) == params.get("epochs", 0)
    assert Page(featx.report(folder, tmp_path / "page.html").read_text())


def test_a_fine_tuned_classifier_has_a_report(
    make_dataset: Callable[..., Path], tiny_backbone: str, tmp_path: Path
) -> None:
    network = {"backbone": tiny_backbone, "preprocess": "rescale", "cache_dir": tmp_path / "cache"}
    tuned = featx.finetune(make_dataset(2, 8), unfreeze="last", epochs=2, **network)
    folder = tuned.save(tmp_path / "tuned")
    found = findings_of(featx.Classifier.load(folder), tuned.features_of(), folder)
    assert len(found.learning.history["loss"]) == 2 and "layers of the network were trained" in found.learning.note
    words = shlex.split(found.provenance.steps[0].command)
    assert words[:2] == ["featx", "finetune"] and words[words.index("--unfreeze") + 1] == "last"
    assert Page(featx.report(folder, tmp_path / "page.html").read_text())
    shutil.rmtree(folder)
    result = CliRunner().invoke(app, [*words[1:], "--cache-dir", str(tmp_path / "cache")])
    assert result.exit_code == 0, result.output
    again = featx.Classifier.load(folder)
    assert again.head.get_params() == tuned.head.get_params()
    np.testing.assert_allclose(
        again.predict_proba(tuned.features_of()), tuned.predict_proba(tuned.features_of()), atol=1e-4
    )


def test_the_commands_make_the_classifier_again(
    make_dataset: Callable[..., Path], tiny_backbone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = make_dataset(2, 10, name="it's here")
    done = featx.extract(
        data, backbone=tiny_backbone, preprocess="rescale", resize="pad", cache_dir=tmp_path / "cache",
        views=featx.Views(2, flip=True),
    )  # fmt: skip
    classifier = featx.fit(done.features_path, "logreg", C=0.5, random_state=3, validation=0.3, calibrate=True)
    folder = classifier.save(tmp_path / "a model")
    found = findings_of(classifier, classifier.features_of(), folder)
    assert [step.what for step in found.provenance.steps] == ["Extract features", "Fit the head", "Measure it"]
    shutil.rmtree(folder)
    for step in found.provenance.steps:
        result = CliRunner().invoke(app, [*shlex.split(step.command)[1:], "--cache-dir", str(tmp_path / "cache")])
        assert result.exit_code == 0, (step.command, result.output)
    again = featx.Classifier.load(folder)
    assert (again.spec, again.temperature) == (classifier.spec, classifier.temperature)
    np.testing.assert_array_equal(again.held_out, classifier.held_out)
    assert again.head.get_params() == classifier.head.get_params()


def test_a_cross_validated_classifier_is_made_by_cv(
    make_dataset: Callable[..., Path], tiny_backbone: str, tmp_path: Path
) -> None:
    done = featx.extract(make_dataset(), backbone=tiny_backbone, preprocess="rescale", cache_dir=tmp_path / "cache")
    classifier = featx.cross_validate(done.features_path, "ridge", C=[0.1], folds=3).classifier
    step = findings_of(classifier, classifier.features_of()).provenance.steps[1]
    assert re.search(r"featx cv \S+ --head ridge --folds 3 --C 0.1 --out MODEL", step.command)


def test_other_pictures_can_be_measured(make_dataset: Callable[..., Path], tiny_backbone: str, tmp_path: Path) -> None:
    classifier, _ = written(make_dataset(), tiny_backbone)
    other = make_dataset(each=5, name="other", first=80)
    page = featx.report(classifier, tmp_path / "deep" / "page.html", source=other, cache_dir=tmp_path / "cache")
    words = " ".join(Page(page.read_text()).text)
    assert "Of 10 pictures that it was not trained on" in words
    assert "these features do not hold the pictures that it was trained on" in words
    with pytest.raises(SettingError, match="page.pkl: a report is a page; give an `out` that ends in .html$") as caught:
        featx.report(classifier, tmp_path / "page.pkl")
    assert caught.value.setting == "out" and not (tmp_path / "page.pkl").exists()
    unlabelled = tmp_path / "flat"
    shutil.copytree(other / "lying", unlabelled)
    with pytest.raises(TrainingError, match="has no labels to compare with"):
        featx.report(classifier, tmp_path / "page.html", source=unlabelled, cache_dir=tmp_path / "cache")
    assert not list(tmp_path.glob(".page*"))


def test_history_that_anybody_may_have_changed_is_not_believed(
    make_dataset: Callable[..., Path], tiny_backbone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    classifier, folder = written(make_dataset(), tiny_backbone, "bn-mlp", epochs=2)
    history = classifier.fitting.history
    assert set(history) >= {"loss", "val_loss"}
    for broken in (b"", b"epoch,loss\n1,much\n", b"epoch,loss\n1\n", b"\x00", b"\xff", b"epoch,loss\n1,0.5\n"):
        (folder / "history.csv").write_bytes(broken)
        assert featx.Classifier.load(folder).fitting.history == history
    monkeypatch.setattr("featx.reporting.learning.LARGEST", 3)
    assert "it would take long" in learning_of(classifier, classifier.features_of()).note
