"""The program, the panels of its help, and how a function becomes one of its commands."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any, get_type_hints

import typer
from typer.core import TyperCommand, TyperGroup
from typer.models import OptionInfo

from featx._internal.options import option_of
from featx.cli.terminal import OPTIONS, Report, run

# Panels of `featx --help`, and the commands in each, in the order in which one comes to need them
START, PREPARE, TRAIN, USE = "Start", "Prepare", "Train", "Use"
GROUPS = {
    START: ("demo",),
    PREPARE: ("extract", "inspect", "backbones", "cache"),
    TRAIN: ("fit", "cv", "sweep", "finetune", "compare"),
    USE: ("evaluate", "predict", "explain", "report", "serve", "doctor"),
}
# Panels of a command's help, in their order
PICTURES, NETWORK, VIEWS = "Pictures", "Network", "Views"
HEAD, TRAINING, SEARCH = "Head", "Training", "Search"
RUN, OUTPUT = "Run", "Output"
PANELS = (PICTURES, NETWORK, VIEWS, HEAD, TRAINING, SEARCH, RUN, OUTPUT)

Command = Callable[..., Report]


class _Program(TyperGroup):
    """The commands in the order of ``GROUPS``."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Names of the commands."""
        return [name for names in GROUPS.values() for name in names]


class _Command(TyperCommand):
    """A command whose --help is beside --json, in the last panel, and not first in a panel of its own."""

    def get_help_option(self, ctx: Any) -> Any:
        """The option --help."""
        option = super().get_help_option(ctx)
        if option is not None:
            option.rich_help_panel = OUTPUT
        return option


app = typer.Typer(
    help="Image classifiers from frozen features, trained in seconds.",
    cls=_Program,
    no_args_is_help=True,
    epilog="Example: featx extract photos/",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)


def option(panel: str, help: str, **more: Any) -> Any:
    """An option in a panel of a command's help, called as :func:`option_of` calls its parameter."""
    return typer.Option(help=help, rich_help_panel=panel, **more)


def command(
    app: typer.Typer, example: str, panel: str | None = None, **groups: Callable[..., Any]
) -> Callable[[Command], Command]:
    """Register a function that returns a :class:`Report` as a command.

    Args:
        app: where.
        example: shown at the end of its help.
        panel: of the help of ``app`` that it is shown in.
        **groups: by name of a parameter of the function, another function, whose own parameters become options in its
            place, and whose result it gets.
    """

    def register(function: Command) -> Command:
        own = _parameters(function)
        grouped = {name: _parameters(group) for name, group in groups.items()}
        output = _parameters(_output_options)

        @functools.wraps(function)
        def run_command(**given: Any) -> None:
            def work() -> Report:
                made = {name: groups[name](**_of(parameters, given)) for name, parameters in grouped.items()}
                return function(**_of([p for p in own if p.name not in groups], given), **made)

            raise typer.Exit(run(work, **_of(output, given)))

        flat = [inner for p in own for inner in grouped.get(p.name, [p])] + output
        parameters = {p.name: p for p in sorted(flat, key=_place)}  # what several groups ask for is one option
        run_command.__signature__ = inspect.Signature([*parameters.values()])  # type: ignore[attr-defined]
        run_command.__annotations__ = {name: p.annotation for name, p in parameters.items()}
        register_it = app.command(
            cls=_Command, help=_unwrapped(function.__doc__), epilog=f"Example: {example}", rich_help_panel=panel
        )
        register_it(run_command)
        return function

    return register


def _output_options(
    as_json: Annotated[bool, option(OUTPUT, "One JSON object on stdout, nothing else there.")] = False,
    quiet: Annotated[bool, option(OUTPUT, "No progress, notes and hints on stderr.")] = False,
    debug: Annotated[bool, option(OUTPUT, "The whole traceback of an error.")] = False,
) -> None: ...


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """Parameters of a function, each option with its name."""
    hints = get_type_hints(function, include_extras=True)
    return [
        p.replace(annotation=_named(hints[p.name], p.name), kind=inspect.Parameter.KEYWORD_ONLY)
        for p in inspect.signature(function).parameters.values()
    ]


def _named(hint: Any, parameter: str) -> Any:
    """A parameter's type, and, if it is an option, that by its name."""
    about = getattr(hint, "__metadata__", ())
    if not about or not isinstance(about[0], OptionInfo):
        return hint
    info = copy.copy(about[0])
    OPTIONS[parameter] = option_of(parameter)
    info.param_decls = (OPTIONS[parameter],)
    return Annotated[hint.__origin__, info]


def _place(parameter: inspect.Parameter) -> int:
    """Where a parameter stands in the help: arguments first, then options panel by panel."""
    about = parameter.annotation.__metadata__[0]
    return PANELS.index(about.rich_help_panel) if isinstance(about, OptionInfo) else -1


def _of(parameters: list[inspect.Parameter], given: dict[str, Any]) -> dict[str, Any]:
    return {p.name: given[p.name] for p in parameters}


def _unwrapped(text: str | None) -> str:
    """A docstring whose paragraphs are lines, for the terminal to wrap."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in (text or "").split("\n\n"))
