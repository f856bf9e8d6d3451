"""Options of the command line: what they are called, choose from and do by default, how help shows them, and shells."""

from __future__ import annotations

import inspect
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
import typer
from typer.testing import CliRunner

import featx
from featx._internal.choices import HEADS, TUNED_HEADS
from featx._internal.options import option_of
from featx._internal.text import percent
from featx.cli import app
from featx.cli.program import GROUPS, PANELS, command
from featx.cli.terminal import Report, in_options
from featx.errors import DatasetError, FeatxError, SettingError

ROOT = Path(featx.__file__).parents[1]
HEAVY = ("tensorflow", "keras", "sklearn", "scipy", "h5py", "optuna")


def _commands(of: typer.Typer = app, above: str = "") -> Iterator[tuple[str, dict[str, inspect.Parameter]]]:
    """All commands, such as ``cache ls``, and their parameters."""
    for registered in of.registered_commands:
        assert registered.callback
        yield above + registered.callback.__name__, dict(inspect.signature(registered.callback).parameters)
    for group in of.registered_groups:
        assert group.typer_instance
        yield from _commands(group.typer_instance, f"{group.name} ")


COMMANDS = dict(_commands())


def _choices(parameter: inspect.Parameter) -> tuple[str, ...]:
    """Choices of a parameter; none if it takes any text."""
    kind = parameter.annotation.__origin__
    literals = [part for part in (kind, *get_args(kind)) if get_origin(part) is Literal]
    return tuple(choice for literal in literals for choice in get_args(literal))


CHOICES = {
    (name, parameter): choices
    for name, parameters in COMMANDS.items()
    for parameter in parameters
    if (choices := _choices(parameters[parameter]))
}


# --------------------------------------------------------------------------------------- choices, defaults, and names


def _of_the_library() -> dict[str, tuple[str, ...]]:
    from featx.backbones import ENGINES, POOLINGS, PRECISIONS, PREPROCESSINGS, SCRATCH
    from featx.explanation.maps import METHODS
    from featx.heads.pooling import INPUTS
    from featx.pictures import RESIZES
    from featx.pictures.dataset import SPLITS
    from featx.selection.cross_validation import RULES
    from featx.selection.sweep import PRUNERS, SWEPT_HEADS
    from featx.tail import OPTIMIZERS, SCHEDULES
    from featx.tail.head import KEPT

    return {
        "engine": ENGINES,
        "from_scratch": tuple(SCRATCH),
        "head": SWEPT_HEADS,
        "input": INPUTS,
        "keep": KEPT,
        "method": METHODS,
        "optimizer": OPTIMIZERS,
        "pooling": POOLINGS,
        "precision": PRECISIONS,
        "preprocess": ("auto", *PREPROCESSINGS),
        "pruner": PRUNERS,
        "resize": RESIZES,
        "rule": RULES,
        "schedule": SCHEDULES,
        "split": tuple(set(SPLITS.values())),
    }


def test_choices_are_those_of_the_library() -> None:
    library = _of_the_library()
    assert {parameter for _, parameter in CHOICES} == {*library, "dtype"}
    for (name, parameter), choices in CHOICES.items():
        if parameter != "dtype":
            assert sorted(choices) == sorted(library[parameter]), f"{name} {option_of(parameter)}"
    assert {parameter for name, parameter in CHOICES if name == "extract"} == {
        *("engine", "pooling", "precision", "preprocess", "resize", "dtype")
    }


def test_the_dtypes_are_all_that_a_recipe_takes() -> None:
    for dtype in CHOICES["extract", "dtype"]:
        assert featx.Recipe(dtype=dtype).dtype == dtype
    with pytest.raises(FeatxError, match=f"expected one of {', '.join(CHOICES['extract', 'dtype'])}$"):
        featx.Recipe(dtype="float64")


def test_heads_are_those_of_the_library() -> None:
    from featx.heads import HEADS as LIBRARY

    assert HEADS == tuple(LIBRARY)
    assert TUNED_HEADS == tuple(name for name, kind in LIBRARY.items() if kind.differentiable) != HEADS


def _functions() -> dict[str, list[Callable[..., Any]]]:
    """The functions behind each command."""
    from featx.extraction import plan
    from featx.serving import serve

    views, recipe = featx.Views, featx.Recipe
    return {
        "extract": [featx.extract, recipe, views],
        "cache explain": [plan, recipe, views],
        "fit": [featx.fit],
        "cv": [featx.cross_validate, featx.few_shot],
        "sweep": [featx.sweep],
        "finetune": [featx.finetune, recipe, views],
        "compare": [featx.compare, recipe],
        "evaluate": [featx.Classifier.evaluate, featx.Classifier.load],
        "predict": [featx.Classifier.predict, featx.Classifier.load],
        "doctor": [featx.Classifier.doctor, featx.Classifier.load],
        "explain": [featx.explain, featx.Classifier.load],
        "inspect": [featx.inspect],
        "report": [featx.report],
        "serve": [serve],
        "backbones": [featx.list_layers],
    }


@pytest.mark.parametrize(
    "name", sorted({*COMMANDS} - {"demo", "cache ls", "cache show", "cache verify", "cache prune"})
)
def test_defaults_are_those_of_the_library(name: str) -> None:
    """What an option is by default is what the library takes if nobody says; None leaves it to the library."""
    library = {
        parameter.name: parameter.default
        for function in reversed(_functions()[name])
        for parameter in inspect.signature(function).parameters.values()
    }
    compared = 0
    for parameter in COMMANDS[name].values():
        default = parameter.default
        if default in (None, inspect.Parameter.empty) or library.get(parameter.name) in (None, inspect.Parameter.empty):
            continue
        compared += 1
        usual = library[parameter.name]
        if parameter.name in ("cache_dir", "out"):
            default = str(default)
        elif parameter.name == "heads":
            usual = ",".join(usual)
        assert str(default) == str(usual), f"{name} {option_of(parameter.name)}"
    assert compared or name in ("evaluate", "predict", "backbones")


def _said(help: str) -> str | None:
    """The default that a help text tells."""
    found = re.search(r"Default: ([\w.-]+?)[.;]? ?(?:with|for|$)", help)
    return found[1] if found else None


def test_defaults_that_help_tells_are_true() -> None:
    from featx.finetuning.finetune import SCRATCH_LEARNING_RATE
    from featx.selection.sweep.search import PATIENCE
    from featx.tail import TailHead

    library = {name: p.default for name, p in inspect.signature(TailHead).parameters.items()}
    library |= {"similarity": inspect.signature(featx.inspect).parameters["similarity"].default}
    library |= {"n_neighbors": inspect.signature(featx.inspect).parameters["n_neighbors"].default}
    told = {}
    for name in ("finetune", "inspect"):
        for parameter in COMMANDS[name].values():
            default = _said(parameter.annotation.__metadata__[0].help)
            if default and parameter.name in library:
                told[parameter.name] = default
    assert {"epochs", "optimizer", "patience", "keep", "head", "similarity", "n_neighbors"} <= set(told)
    for setting, default in told.items():
        usual = library[setting]
        assert (float(default) == usual) if isinstance(usual, (int, float)) else (default == usual), setting
    rate = COMMANDS["finetune"]["learning_rate"].annotation.__metadata__[0].help
    assert rate.endswith(f"with --from-scratch {SCRATCH_LEARNING_RATE:g}.")
    assert _said(COMMANDS["sweep"]["patience"].annotation.__metadata__[0].help) == str(PATIENCE)


def test_options_are_called_as_one_table_says() -> None:
    assert option_of("random_state") == "--seed" and option_of("batch_size") == "--batch-size"
    assert option_of("C") == "--C" and option_of("n_neighbors") == "--neighbors"
    for name, parameters in COMMANDS.items():
        for parameter in parameters.values():
            about = parameter.annotation.__metadata__[0]
            if isinstance(about, typer.models.OptionInfo):
                assert about.param_decls == (option_of(parameter.name),), f"{name} {parameter.name}"
    assert "random_state" in COMMANDS["extract"] and "class_name" in COMMANDS["explain"]


def test_what_a_report_prints_are_options() -> None:
    """Of the command lines that make a classifier again; and it leaves out no setting that has an option."""
    from featx.heads import HEADS as LIBRARY
    from featx.reporting.commands import PARAMETERS, TAIL_PARAMETERS

    of_heads = {name for head in LIBRARY.values() for name in head._get_param_names()}
    assert set(PARAMETERS) == of_heads & set(COMMANDS["fit"])
    assert set(TAIL_PARAMETERS) <= set(COMMANDS["finetune"])
    assert {"C", "input", "random_state"} <= set(COMMANDS["cv"])


# ------------------------------------------------------------------------------------- errors that name a parameter


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("`views` must be from 1 to 1000, got 0", "--views must be from 1 to 1000, got 0"),
        ("`random_state` must be whole", "--seed must be whole"),
        ("give another size; add `views=5`", "give another size; add --views 5"),
        ('store them with `dtype="float32"`', "store them with --dtype float32"),
        ("pass `draft=True`", "pass --draft"),
        ("leave `layer`, `pooling` and `preprocess` out", "leave --layer, --pooling and --preprocess out"),
        ("run `featx extract DATASET` first", "run `featx extract DATASET` first"),
        ("it has no `head_params`, not `all`", "it has no `head_params`, not `all`"),
    ],
)
def test_parameters_are_written_as_options(message: str, said: str) -> None:
    assert in_options(message) == said


@pytest.mark.parametrize(
    ("message", "setting", "said"),
    [
        ("views must be from 1 to 1000, got 0", "views", "--views must be from 1 to 1000, got 0"),
        ("n_neighbors must be at most 9", "n_neighbors", "--neighbors must be at most 9"),
        ("unknown `head` 'head' for the head", "head", "unknown --head 'head' for the head"),
        ("weights cannot be read from a/weights/b.h5", "weights", "--weights cannot be read from a/weights/b.h5"),
        ("no size; resize is not it, nor is size.h5", "size", "no --size; resize is not it, nor is size.h5"),
        ("nothing to say", "", "nothing to say"),
        ("checkpoints are elsewhere", "checkpoints", "checkpoints are elsewhere"),
    ],
)
def test_the_setting_of_an_error_is_written_as_an_option(message: str, setting: str, said: str) -> None:
    assert in_options(message, setting) == said


def _stub(error: Exception) -> typer.Typer:
    """A program of one command, which fails."""
    stub = typer.Typer()

    @command(stub, "stub")
    def fails() -> Report:
        raise error

    return stub


@pytest.mark.parametrize("error", [SettingError("views must be 1 or more, got 0", "views"), DatasetError("`views`: 0")])
def test_a_command_names_options_and_not_parameters(error: FeatxError) -> None:
    said = str(error).replace("`views`", "--views").replace("views must", "--views must")
    result = CliRunner().invoke(_stub(error), [])
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", f"error: {said}\n")
    result = CliRunner().invoke(_stub(error), ["--json"])
    assert (result.exit_code, result.stdout) == (1, f'{{"error": "{said}"}}\n')


# ------------------------------------------------------------------------------------------------------------- help


def shown(*words: str, columns: int = 120) -> str:
    """A page of help."""
    result = CliRunner().invoke(app, [*words, "--help"], env={"COLUMNS": str(columns)})
    assert result.exit_code == 0
    return result.stdout


def _panels(page: str) -> dict[str, str]:
    """The text of each panel of a help page, by its title, in the order in which they are shown."""
    titles = re.split(r"^╭─ (\w+) ─+╮$", page, flags=re.MULTILINE)[1:]
    return dict(zip(titles[::2], titles[1::2], strict=True))


def test_commands_are_grouped() -> None:
    panels = _panels(shown())
    assert list(panels) == ["Options", "Start", "Prepare", "Train", "Use"]
    for group, names in GROUPS.items():
        assert tuple(re.findall(r"^│ (\w+) ", panels[group], re.MULTILINE)) == names
    assert sorted({name.split()[0] for name in COMMANDS}) == sorted(sum(GROUPS.values(), ()))


@pytest.mark.parametrize(
    ("name", "panels"),
    {
        "extract": ["Arguments", "Pictures", "Network", "Views", "Run", "Output"],
        "cache explain": ["Arguments", "Pictures", "Network", "Views", "Run", "Output"],
        "fit": ["Arguments", "Head", "Training", "Run", "Output"],
        "cv": ["Arguments", "Head", "Training", "Search", "Run", "Output"],
        "sweep": ["Arguments", "Head", "Training", "Search", "Run", "Output"],
        "finetune": ["Arguments", "Pictures", "Network", "Views", "Head", "Training", "Run", "Output"],
        "compare": ["Arguments", "Pictures", "Network", "Head", "Training", "Run", "Output"],
        "predict": ["Arguments", "Run", "Output"],
        "cache ls": ["Run", "Output"],
    }.items(),
)
def test_options_are_in_panels(name: str, panels: list[str]) -> None:
    found = _panels(shown(*name.split()))
    assert list(found) == panels
    assert re.findall(r"^│ (--[a-z]+)", found["Output"], re.MULTILINE)[-4:] == [
        "--json",
        "--quiet",
        "--debug",
        "--help",
    ]


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("columns", [80, 120])
def test_every_option_can_be_read(name: str, columns: int) -> None:
    page = shown(*name.split(), columns=columns)
    assert max(map(len, page.splitlines())) <= columns
    for parameter in COMMANDS[name].values():
        about = parameter.annotation.__metadata__[0]
        if isinstance(about, typer.models.OptionInfo):
            assert about.rich_help_panel in PANELS
            assert f"\n│ {option_of(parameter.name)} " in page
        assert about.help and about.help.endswith(".")
    words = page.replace("│", " ").split()
    assert "…" not in page and f"Example: featx {name}" in " ".join(words)


# ------------------------------------------------------------------------------------------------------- completion

COMPLETE = f"""
import atexit, sys
atexit.register(lambda: print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr))
sys.argv = ["featx", *sys.argv[1:]]
from featx.cli import main
main()
"""


def offered(line: str, shell: str = "bash", **environment: str) -> list[str]:
    """What a shell is told to offer for the last word of a line; nothing heavy is loaded for it."""
    words = line.split(" ")
    of_shell = {
        "bash": {"COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)},
        "zsh": {"_TYPER_COMPLETE_ARGS": line},
        "fish": {"_TYPER_COMPLETE_ARGS": line, "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
    }[shell]
    done = subprocess.run(
        [sys.executable, "-c", COMPLETE],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "_FEATX_COMPLETE": f"complete_{shell}", **of_shell, **environment},
    )
    assert (done.returncode, done.stderr) == (0, "[]\n")
    return done.stdout.split()


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in with a cache, two classifiers and other files."""
    monkeypatch.delenv("FEATX_CACHE", raising=False)
    monkeypatch.chdir(tmp_path)
    files = ["cache/photos-vgg16-1.h5", "cache/notes.txt", "other/old.h5", "mobile.keras", "models/empty/notes.txt"]
    files += ["models/a/classifier.json", "deep/down/b/classifier.json"]
    for file in map(Path, files):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    return tmp_path


def test_a_shell_offers_commands_and_options(workshop: Path) -> None:
    assert offered("featx ") == [name for names in GROUPS.values() for name in names]
    assert offered("featx e") == ["extract", "evaluate", "explain"]
    assert offered("featx cache ") == ["ls", "show", "verify", "explain", "prune"]
    options = {option_of(parameter) for parameter in COMMANDS["extract"]} - {"--dataset"}
    assert set(offered("featx extract --")) == options | {"--help"}


def test_a_shell_offers_names(workshop: Path) -> None:
    mobile = ["mobilenet", "mobilenetv2", "mobilenetv3small", "mobilenetv3large"]
    assert offered("featx extract --backbone mob") == [*mobile, "mobile.keras"]
    assert offered("featx extract --pooling ") == ["none", "avg", "max"]
    assert offered("featx fit --head ") == list(HEADS) and offered("featx fit --head l") == ["logreg"]
    assert offered("featx finetune photos --head k") == []
    assert offered("featx finetune photos --unfreeze a") == ["auto", "all"]


def test_a_shell_offers_files_that_fit(workshop: Path) -> None:
    assert offered("featx fit ") == ["cache/photos-vgg16-1.h5"]
    assert offered("featx fit other/") == ["other/old.h5"]
    assert offered("featx fit ", FEATX_CACHE="other") == ["other/old.h5"]
    assert offered("featx fit --cache-dir other ") == ["other/old.h5"]
    assert offered("featx evaluate ") == ["models/a"] and offered("featx evaluate deep/down/") == ["deep/down/b"]
    assert offered("featx evaluate models/a c") == ["cache/photos-vgg16-1.h5"]
    assert offered("featx extract ot") == []  # the shell itself offers files


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_are_offered_the_same(shell: str, workshop: Path) -> None:
    found = offered("featx extract --backbone mobilenetv3", shell)
    assert [re.sub(r"\W", "", word) for word in found if "mobilenet" in word] == [
        "mobilenetv3small",
        "mobilenetv3large",
    ]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_can_be_had(shell: str, tmp_path: Path) -> None:
    def run(*words: str, **environment: str) -> str:
        environment |= {"PYTHONPATH": str(ROOT), "HOME": str(tmp_path), "ZDOTDIR": str(tmp_path)}
        command = [sys.executable, "-c", COMPLETE, *words]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})
        assert (done.returncode, done.stderr) == (0, "[]\n")
        return done.stdout

    by_hand = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}  # else it is the shell that the tests are run from
    script = run("--show-completion", shell, **by_hand)
    assert "_FEATX_COMPLETE=complete_" in script and "featx" in script
    assert run(_FEATX_COMPLETE=f"source_{shell}").strip() == script.strip()
    assert "completion installed in" in run("--install-completion", shell, **by_hand)
    written = [file for file in tmp_path.rglob("*") if file.is_file() and "_FEATX_COMPLETE" in file.read_text()]
    assert len(written) == 1


@pytest.mark.skipif(not shutil.which("bash"), reason="there is no bash")
def test_bash_completes(workshop: Path) -> None:
    """As Tab does it: by the function that the script defines."""
    program = workshop / "featx"
    program.write_text(f"#!{sys.executable}\n{COMPLETE}")
    program.chmod(0o755)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": f"{workshop}:{os.environ['PATH']}"}
    script = """
    eval "$(_FEATX_COMPLETE=source_bash featx 2>/dev/null)"
    COMP_WORDS=(featx extract --backbone mobilenetv3) COMP_CWORD=3
    _featx_completion featx 2>/dev/null
    echo "${COMPREPLY[@]}"
    """
    done = subprocess.run(["bash", "--norc", "-c", script], capture_output=True, text=True, env=environment)
    assert done.stdout.split() == ["mobilenetv3small", "mobilenetv3large"], done.stderr


def test_a_percentage_has_one_decimal() -> None:
    assert (percent(0.97521), percent(1), percent(0.5, "\u00a0")) == ("97.5 %", "100.0 %", "50.0\u00a0%")
