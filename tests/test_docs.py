"""The README and the pages of docs/: what they show runs, what they name exists, and everything is named."""

from __future__ import annotations

import contextlib
import glob
import io
import json
import re
import shlex
import shutil
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import typer
from conftest import commands, picture
from typer.testing import CliRunner, Result

import featx
from featx.cli import app
from featx.heads import HEADS

ROOT = Path(featx.__file__).parents[1]
PAGES = {str(path.relative_to(ROOT)): path for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]}
TEXTS = {name: path.read_text(encoding="utf-8") for name, path in PAGES.items()}
BESIDE = ("CONTRIBUTING.md", "CHANGELOG.md", "cache/README.md", "benchmarks/README.md")
OTHERS_OPTIONS = {"--help", "--stress"}  # of every command, and of pytest
# Commands that no test of this file runs, and why. Their options exist nevertheless.
NOT_RUN = {
    "featx serve models/photos": "serves until Ctrl-C; test_serving.py asks it",
    "featx extract photos/ --workers 4": "starts processes, each of which loads a network library; test_workers.py",
    "featx extract photos/ --workers gpus": "needs GPUs",
    "featx extract photos/ --workers dask://scheduler:8786": "needs a cluster; test_workers.py starts one",
    "featx extract photos/ --workers ray://head:10001": "needs a cluster; test_workers.py",
    "featx --install-completion": "writes to the start-up file of a shell",
}
# What the page about missing extras takes to be missing.
MISSING = {"docs/bad-input.md": ("ray", "matplotlib", "matplotlib.figure")}


# ------------------------------------------------------------------------------------------------------ blocks of pages


@dataclass(frozen=True)
class Block:
    """A fenced block, and the text that follows it at once: what it prints."""

    language: str
    code: str
    shown: str | None = None

    @property
    def commands(self) -> list[str]:
        """The lines that are commands of featx, without their comments."""
        lines = self.code.splitlines() if self.language == "sh" else []
        return [re.sub(r"\s+#.*", "", line) for line in lines if line.startswith("featx ")]


def _blocks(text: str) -> list[Block]:
    fences = list(re.finditer(r"^```(\w+)\n(.*?)^```\n", text, re.MULTILINE | re.DOTALL))
    blocks = []
    for block, after in pairwise([*fences, None]):
        assert block
        output = after and after[1] == "text" and after.start() == block.end()
        blocks.append(Block(block[1], block[2], after[2] if after and output else None))
    return blocks


BLOCKS = {name: _blocks(text) for name, text in TEXTS.items()}
WITH_COMMANDS = [name for name, blocks in BLOCKS.items() if any(block.commands for block in blocks)]
WITH_PYTHON = [name for name, blocks in BLOCKS.items() if any(block.language == "python" for block in blocks)]


def _shape(line: str) -> str:
    """A line of output without what another data set, network or machine would change in it."""
    line = re.sub(r"'[^']*/[^']*'", "PATH", line.strip(" │"))
    line = re.sub(r"\b[0-9a-f]{16}\b", "KEY", line)
    line = re.sub(r"-\w+-KEY", "-NETWORK-KEY", line)
    line = re.sub(r"\b(keras-\w+|openvino)\b", "ENGINE", line)
    line = re.sub(r"\b(ants|bees)\b", "CLASS", line)
    line = re.sub(r"\d+(\.\d+)?(e[+-]?\d+)?", "#", line)
    return " ".join(line.split())


def _shapes(text: str) -> list[str]:
    return [shape for shape in map(_shape, text.splitlines()) if shape]


def _require_shown(shown: str, printed: str, stdout: str = "") -> None:
    """All lines shown were printed, in their order. Unless ``...`` is among them, all of stdout is shown."""
    lines = iter(_shapes(printed))
    missing = [line for line in _shapes(shown) if line != "..." and line not in lines]
    assert not missing, f"never printed (or not there): {missing}; printed were {_shapes(printed)}"
    if "..." not in shown.splitlines():
        assert set(_shapes(stdout)) <= set(_shapes(shown))


# ------------------------------------------------------------------------------------------------------- a place to run


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory, tiny_backbone: str) -> Path:
    """Pictures, features and a classifier by the names that the pages use: to be copied, not changed."""
    folder = tmp_path_factory.mktemp("workshop")
    sets = {"photos": ("cats", "dogs", 10), "other": ("cats", "dogs", 3)}
    sets |= {"insects/train": ("ants", "bees", 12), "insects/test": ("ants", "bees", 5)}
    for first, (name, (*classes, each)) in zip(range(0, 200, 50), sets.items(), strict=True):
        for kind, label in enumerate(classes):
            (folder / name / label).mkdir(parents=True)
            for number in range(first, first + each):
                mistaken = name == "insects/train" and number == first  # for `featx inspect` to find
                picture(1 - kind if mistaken else kind, number).save(folder / name / label / f"{number:03}.png")
    (folder / "photos/labels.csv").write_text("path,label\ncats/000.png,cat\ncats/001.png,cat\ndogs/000.png,dog\n")
    (folder / "new").mkdir()
    for kind, name in enumerate(["ant", "bee"]):
        picture(kind, 300).save(folder / "new" / f"{name}.jpg")
    (folder / "new/page.jpg").write_text("<html>not found</html>")
    with contextlib.chdir(folder):
        _run(f"featx extract photos/ --backbone {tiny_backbone} --preprocess rescale".split())
        _run("featx fit --head logreg --out models/photos".split())
    return folder


@pytest.fixture
def place(workshop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the workshop to work in."""
    monkeypatch.delenv("FEATX_CACHE", raising=False)
    monkeypatch.setenv("COLUMNS", "160")
    shutil.copytree(workshop, tmp_path / "place")
    monkeypatch.chdir(tmp_path / "place")
    return tmp_path / "place"


def _run(words: list[str], code: int = 0) -> Result:
    result = CliRunner().invoke(app, words[1:], prog_name="featx")
    assert result.exit_code == code, f"{words}: {result.output}"
    return result


def _smaller(words: list[str], tiny: str) -> list[str]:
    """The same command with a network and a training that take no time, its patterns resolved as a shell does."""
    command = words[1]
    words = [file for word in words for file in (sorted(glob.glob(word)) if "*" in word else [word])]
    words = [{"vgg16": tiny, "block5_conv1": "last", "128": "48"}.get(word, word) for word in words]
    if "--backbone" in words and "pixels" not in words:
        at = words.index("--backbone") + 1
        words[at] = words[at] if words[at] == "resnet5" else tiny  # a misspelt one stays as it is
    elif command in ("extract", "finetune", "compare") and not {"--backbone", "--from-scratch"} & set(words):
        words += ["--backbone", tiny]
    if tiny in words and command != "backbones":
        words += ["--preprocess", "rescale"]
    short = {"fit": ["--epochs", "2"] if "bn-mlp" in words else [], "finetune": ["--epochs", "1"]}
    short |= {"inspect": ["--similarity", "1"]}  # the stripes of the tests are all alike
    short |= {"compare": ["--epochs", "1", "--repeats", "2"], "sweep": ["--trials", "2", "--epochs", "2"]}
    return words + short.get(command, [])  # of an option given twice the last one counts


# ---------------------------------------------------------------------------------------------------------- what is run


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize("page", WITH_COMMANDS)
def test_commands_run(page: str, tiny_backbone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command of a page, one after the other, only with smaller networks and shorter training."""
    for name in MISSING.get(page, ()):
        monkeypatch.setitem(sys.modules, name, None)
    answers = []
    for block in BLOCKS[page]:
        commands = [_smaller(shlex.split(line), tiny_backbone) for line in block.commands if line not in NOT_RUN]
        if not commands:
            continue
        if block.shown is None:
            answers += [(words, json.loads(_run([*words, "--json"]).stdout)) for words in commands]
        else:
            code = 1 if block.shown.startswith("error: ") else 2 if "Invalid" in block.shown else 0
            code = 2 if "No such option" in block.shown else code
            results = [_run(words, code) for words in commands]
            printed, stdout = ("".join(text) for text in zip(*((r.output, r.stdout) for r in results), strict=True))
            _require_shown(block.shown, printed, stdout)
    if page in CHECKS:
        CHECKS[page](answers)


Answers = list[tuple[list[str], dict[str, Any]]]


def _check_heads(answers: Answers) -> None:
    assert [words[1] for words, _ in answers] == ["extract", "fit", "fit", "evaluate", "predict", "doctor"]
    extracted, network, regression, measured, predicted, checked = (result for _, result in answers)
    assert extracted["rows"] == 20
    assert (network["head"], network["train_rows"], network["validation_rows"]) == ("bn-mlp", 20, 4)
    assert (regression["head"], regression["model"]) == ("logreg", "models/photos")
    about = json.loads(Path(regression["model"], "classifier.json").read_text(encoding="utf-8"))
    assert about["head"]["params"]["C"] == 0.1
    assert (measured["rows"], measured["split"], measured["seen_in_training"]) == (4, "validation", 0)
    assert measured["accuracy"] == regression["validation_accuracy"]
    assert len(predicted["predictions"]) == 2 and len(predicted["quarantined"]) == 1
    assert len(Path("new.csv").read_text().splitlines()) == 3
    assert checked["ok"] is True and checked["rows"] == 20


def _check_finetuning(answers: Answers) -> None:
    assert [words[1] for words, _ in answers] == ["backbones", "finetune", "finetune", "finetune", "compare"]
    layers, tail, whole, scratch, compared = (result for _, result in answers)
    assert [row["name"] for row in layers["layers"] if row["trains"]] == ["last"]
    assert (tail["cut"], tail["train_views"]) == ("pool", 4 * tail["train_rows"])
    assert (whole["cut"], whole["live_augment"]) == ("pixels", True)
    assert (scratch["network"], scratch["cut"]) == ("cnn4", "pixels")
    assert {method["name"] for method in compared["methods"]} == {*HEADS, "tail"}


def _check_extraction(answers: Answers) -> None:
    results = {" ".join(words[1:]): result for words, result in answers}
    first, pooled, views, pixels = (result for _, result in answers[:4])
    assert (first["computed"], first["reused"]) == (0, 20)
    assert (pooled["computed"], len(pooled["shape"])) == (20, 2)
    assert (views["computed"], views["view_rows"], views["rows"]) == (80, 80, 20)
    assert (pixels["shape"], pixels["dtype"]) == ([20, 64, 64, 3], "uint8")
    why = next(result for command, result in results.items() if command.startswith("cache explain"))
    assert why["would_compute"] == 0
    assert len(results["cache ls --json".removesuffix(" --json")]["files"]) == 4


def _check_choosing(answers: Answers) -> None:
    path, svm, shots, sweep = (result for _, result in answers)
    assert (len(path["trials"]), len(svm["trials"])) == (13, 11)
    assert len(sweep["trials"]) == 2 and Path("sweep.csv").is_file() and Path("sweep.png").is_file()
    assert "trials" not in shots


def _check_inspection(answers: Answers) -> None:
    (_, cleaned) = answers[3]
    assert (cleaned["computed"], cleaned["rows"]) == (0, 20)
    assert (
        Path("photos.html").is_file() and Path("models/photos/report.html").is_file() and Path("other.html").is_file()
    )
    new, cached = (result for _, result in answers[-2:])
    assert len(new["maps"]) == 2 and len(cached["maps"]) == 20


CHECKS: dict[str, Callable[[Answers], None]] = {
    "docs/heads.md": _check_heads,
    "docs/finetuning.md": _check_finetuning,
    "docs/extraction.md": _check_extraction,
    "docs/choosing-settings.md": _check_choosing,
    "docs/inspection.md": _check_inspection,
}


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize("page", WITH_PYTHON)
def test_python_runs(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All Python of a page as one session, only with a narrow network with random weights on small pictures."""
    for name in MISSING.get(page, ()):
        monkeypatch.setitem(sys.modules, name, None)
    small = '"mobilenetv2-0.35", weights="random", size=32'
    names: dict[str, Any] = {}
    for block in BLOCKS[page]:
        if block.language == "python":
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(re.sub(r'"mobilenetv2"(?!, weights)', small, block.code), names)  # noqa: S102
            if block.shown is not None:
                assert printed.getvalue() == block.shown
    if page == "README.md":
        assert (len(names["predictions"]), len(names["quarantined"])) == (2, 1)
        assert Path("models/mine/classifier.json").is_file() and Path("mine.html").is_file()


@pytest.mark.usefixtures("place")
def test_the_demo_prints_what_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer digits, of fewer pixels, and less training."""
    import sklearn.datasets

    import featx.demo

    digits = sklearn.datasets.load_digits()
    digits.images, digits.target = digits.images[:60], digits.target[:60]
    monkeypatch.setattr(sklearn.datasets, "load_digits", lambda: digits)
    monkeypatch.setattr("featx.demo.SIZE", 32)
    monkeypatch.setitem(featx.demo.HEADS, "bn-mlp", {**featx.demo.HEADS["bn-mlp"], "epochs": 1})
    (shown,) = (block.shown for block in BLOCKS["README.md"] if block.code.endswith("featx demo\n"))
    assert shown
    result = _run("featx demo --weights random".split())
    _require_shown(shown, result.stderr + result.stdout, result.stdout)


def test_what_is_not_run_is_shown_somewhere() -> None:
    shown = {line for blocks in BLOCKS.values() for block in blocks for line in block.commands}
    assert set(NOT_RUN) <= shown and all(NOT_RUN.values())


@pytest.mark.parametrize("line", [line for line in NOT_RUN if "completion" not in line])
def test_what_is_not_run_is_no_wrong_usage(line: str) -> None:
    command, words = typer.main.get_command(app), shlex.split(line)[1:]
    while hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    command.make_context(line, words)
    with pytest.raises(Exception, match="(?i)no such option"):
        command.make_context(line, [*words, "--nonsense"])


def test_the_two_lines_that_ci_runs() -> None:
    lines = re.findall(r"<!-- (\w+) -->\n```sh\n(.+)\n```\n", TEXTS["README.md"])
    assert [name for name, _ in lines] == ["demo", "test"]
    assert [line.split()[-1] for _, line in lines] == ["demo", "pytest"]
    assert all(line.startswith("python3 -m venv .venv && ") for _, line in lines)
    assert "some minutes" in TEXTS["README.md"]


# -------------------------------------------------------------------------------------------------- everything is named


def _options() -> set[str]:
    """All options of all commands."""

    def below(command: Any) -> Iterator[Any]:
        yield command
        for inner in getattr(command, "commands", {}).values():
            yield from below(inner)

    every = below(typer.main.get_command(app))
    return {option for command in every for parameter in command.params for option in parameter.opts}


def _named_options(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--[A-Za-z][A-Za-z-]*", text))


ALL = "\n".join(TEXTS.values())


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_command_is_shown(words: tuple[str, ...]) -> None:
    page = TEXTS["docs/command-line.md"]
    row = rf"^\| `featx {words[0]} .*`{words[-1]}`" if len(words) == 2 else rf"^\| `featx {words[0]}\b"
    assert re.search(row, page, re.MULTILINE) or f"`featx cache {words[-1]}`" in page
    assert re.search(rf"featx {' '.join(words)}\b", ALL) or words[0] == "cache"
    assert words[0] != "cache" or re.search(rf"^\|[^|]*`{words[1]}\b", TEXTS["docs/extraction.md"], re.MULTILINE)


def test_every_option_is_shown_and_no_other() -> None:
    named = _named_options(ALL)
    assert {"--backbone", "--C", "--top", "--cache-dir"} <= named
    assert named - _options() - OTHERS_OPTIONS == {"--poolin"}  # the misspelt one
    own = {option for option in _options() if option.startswith("--")}
    assert own - named == set()


def test_no_other_commands_are_shown() -> None:
    lines = re.findall(r"^(?: {4})?featx (\w\S*)", ALL, re.MULTILINE)
    assert len(lines) >= 30 and set(lines) <= {words[0] for words in commands()}


def test_the_six_and_the_ten_others_are_allcommands() -> None:
    readme = TEXTS["README.md"]
    run = {line.split()[1] for block in BLOCKS["README.md"] for line in block.commands}
    (others,) = re.findall(r"^Ten more .*?\.$", readme, re.MULTILINE | re.DOTALL)
    named = set(re.findall(r"`(\w+)`", others))
    assert (len(run), len(named)) == (6, 10)
    assert run | named == {words[0] for words in commands()}


def test_every_head_has_a_row() -> None:
    for head in HEADS:
        assert f"| `{head}` |" in TEXTS["docs/heads.md"]


def test_every_public_name_has_a_line_that_runs() -> None:
    run = "\n".join(block.code for block in BLOCKS["docs/python.md"] if block.language == "python")
    assert set(featx.__all__) - set(re.findall(r"\bfeatx\.(\w+)", run)) == set()


# ----------------------------------------------------------------------------------------- what is named is where it is


def _anchors(text: str) -> set[str]:
    """Names of the headings, as they are on a rendered page."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in plain}


def _links() -> Iterator[tuple[Path, str]]:
    for name in [*PAGES, *BESIDE]:
        text = (ROOT / name).read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)):
            if not target.startswith("https://"):
                yield ROOT / name, target


@pytest.mark.parametrize(("page", "target"), list(_links()), ids=lambda value: str(value).removeprefix(f"{ROOT}/"))
def test_links_lead_somewhere(page: Path, target: str) -> None:
    path, _, anchor = target.partition("#")
    file = (page.parent / path).resolve() if path else page
    assert file.exists() and file.is_relative_to(ROOT)
    if anchor:
        assert anchor in _anchors(file.read_text(encoding="utf-8"))


def test_extras_are_named_as_they_can_be_installed() -> None:
    extras = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "featx").rglob("*.py")]
    said = "\n".join([*sources, ALL])
    assert "featx[" not in said
    assert {"plot", "openvino", "gpu"} <= set(re.findall(r"pip install '\.\[(\w+)\]'", said)) <= extras
    install = TEXTS["README.md"].split("## Install")[1].split("\n## ")[0]
    assert extras <= set(re.findall(r"\w+", install))


def test_every_page_is_in_the_index() -> None:
    named = set(re.findall(r"\]\(([\w-]+\.md)\)", TEXTS["docs/README.md"]))
    assert named == {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}


FILE = r"`((?:featx|tests|docs|benchmarks|cache|\.ci)/[\w./-]*?(?:\.py|\.md|/run|/))`"


@pytest.mark.parametrize(
    "name",
    [name for name in [*PAGES, *BESIDE] if re.search(FILE, (ROOT / name).read_text(encoding="utf-8"))],
)
def test_no_file_is_missing(name: str) -> None:
    named = set(re.findall(FILE, (ROOT / name).read_text(encoding="utf-8")))
    assert {path for path in named - {"cache/networks/"} if not (ROOT / path).exists()} == set()


# Each figure of the README's table, and the line of benchmarks/README.md that it was measured in.
MEASURED = {
    "0.855": r"\| logreg \| [^|]*\| 0\.855 ",
    "1.29": r"\| logreg \| 17\.5 \| 1\.29 \|",
    "0.877": r"\| (tail|end-to-end) \| [^|]*\| 0\.877 ",
    "22.9": r"\| tail \| 10\.4 \| 22\.9 \|",
    "132": r"\| end-to-end \| 2\.68 \| 132 \|",
    "1.73": r"\| vgg16, `block5_conv1` \| 1\.73 \| 7\.98 \|",
    "7.98": r"\| vgg16, `block5_conv1` \| 1\.73 \| 7\.98 \|",
    "1.49": r"\| logreg, 9 C x 5 folds, 5,000 x 1,280 \| 1\.49 \| 15\.1 \|",
    "15.1": r"\| logreg, 9 C x 5 folds, 5,000 x 1,280 \| 1\.49 \| 15\.1 \|",
    "5,000": r"\| logreg, 9 C x 5 folds, 5,000 x 1,280 \|",
    "1,280": r"\| logreg, 9 C x 5 folds, 5,000 x 1,280 \|",
    "752": r"\| vgg16 \| 256 \| 0\.34 \| 752 \| 35\.2 \| 103 \|",
    "103": r"\| vgg16 \| 256 \| 0\.34 \| 752 \| 35\.2 \| 103 \|",
    "10,000": r"\| 10,000 files \| 0\.62 s \|",
    "0.62": r"\| 10,000 files \| 0\.62 s \|",
    "600": r".* 600 and 118 training pictures, 153, 200, ",
    "200": r".* 600 and 118 training pictures, 153, 200, ",
}


def test_figures_were_measured() -> None:
    section = TEXTS["README.md"].split("## Measured")[1].split("\n## ")[0]
    table = re.sub(r"`[^`]*`|VGG16|MobileNetV2", "", section[section.index("| work") :])
    measured = (ROOT / "benchmarks/README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"\d[\d,.]+\d", table)) == set(MEASURED)
    for figure, line in MEASURED.items():
        assert re.search(f"^{line}", measured, re.MULTILINE), figure


def test_pictures_are_small_and_credited() -> None:
    images = [path for path in (ROOT / "docs/images").iterdir()]
    assert images and all(path.stat().st_size < 150_000 for path in images)
    for name, text in TEXTS.items():
        for image in re.findall(r"!\[.+?\]\(\S+\)\n\n(.+?)\n\n", text, re.DOTALL):
            assert image.startswith("*") and "public domain" in image, name
