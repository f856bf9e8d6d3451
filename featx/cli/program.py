"""The program, the panels of its help, and the way from a function to a command."""

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
START = "Start"
PREPARE = "Prepare"
TRAIN = "Train"
USE = "Use"
GROUPS = {
    START: ("demo",),
    PREPARE: ("extract", "inspect", "backbones", "cache"),
    TRAIN: ("fit", "cv", "sweep", "finetune", "compare"),
    USE: ("evaluate", "predict", "explain", "report", "serve", "doctor"),
}
# Panels of a command's help, in their order
PICTURES = "Pictures"
NETWORK = "Network"
VIEWS = "Views"
HEAD = "Head"
TRAINING = "Training"
SEARCH = "Search"
RUN = "Run"
OUTPUT = "Output"
PANELS = (PICTURES, NETWORK, VIEWS, HEAD, TRAINING, SEARCH, RUN, OUTPUT)

Command = Callable[..., Report]


class _Program(TyperGroup):
    """Commands in the order of ``GROUPS``."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Names of the commands."""
        return [name for names in GROUPS.values() for name in names]


class _Command(TyperCommand):
    """Command whose --help is beside --json, in the last panel, instead of alone in the first."""

    def get_help_option(self, ctx: Any) -> Any:
        """Option --help."""
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
    """Option in a panel of a command's help, called as :func:`option_of` calls its parameter."""
    return typer.Option(help=help, rich_help_panel=panel, **more)


def command(
    app: typer.Typer, example: str, panel: str | None = None, **groups: Callable[..., Any]
) -> Callable[[Command], Command]:
    """Register a function that returns a :class:`Report` as a command.

    Args:
        app: program that gets the command.
        example: command line that is shown at the end of its help.
        panel: panel in the help of ``app``.
        **groups: by name of a parameter of the function, another function. The parameters of that become options in
            its place, and it gets the result.
    """

    def register(function: Command) -> Command:
        """Register the function."""
        parameters_of_function = _parameters(function)
        grouped = {name: _parameters(group) for name, group in groups.items()}
        output = _parameters(_output_options)

        @functools.wraps(function)
        def run_command(**values: Any) -> None:
            """Run the function on the options' values, and end with its exit code."""

            def work() -> Report:
                """Run the function."""
                results = {name: groups[name](**_of(parameters, values)) for name, parameters in grouped.items()}
                ungrouped = [p for p in parameters_of_function if p.name not in groups]
                return function(**_of(ungrouped, values), **results)

            raise typer.Exit(run(work, **_of(output, values)))

        flat = [inner for p in parameters_of_function for inner in grouped.get(p.name, [p])] + output
        parameters = {p.name: p for p in sorted(flat, key=_panel_number)}  # what several groups ask for is one option
        run_command.__signature__ = inspect.Signature([*parameters.values()])  # type: ignore[attr-defined]
        run_command.__annotations__ = {name: p.annotation for name, p in parameters.items()}
        help = _unwrapped(function.__doc__)
        app.command(cls=_Command, help=help, epilog=f"Example: {example}", rich_help_panel=panel)(run_command)
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
    """Type of a parameter; of an option, with the name that it has on the command line."""
    metadata = getattr(hint, "__metadata__", ())
    if not metadata or not isinstance(metadata[0], OptionInfo):
        return hint
    info = copy.copy(metadata[0])
    OPTIONS[parameter] = option_of(parameter)
    info.param_decls = (OPTIONS[parameter],)
    return Annotated[hint.__origin__, info]


def _panel_number(parameter: inspect.Parameter) -> int:
    """Sort key of a parameter in the help: arguments first, then options panel by panel."""
    info = parameter.annotation.__metadata__[0]
    return PANELS.index(info.rich_help_panel) if isinstance(info, OptionInfo) else -1


def _of(parameters: list[inspect.Parameter], values: dict[str, Any]) -> dict[str, Any]:
    return {p.name: values[p.name] for p in parameters}


def _unwrapped(text: str | None) -> str:
    """Docstring whose paragraphs are lines, for the terminal to wrap."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in (text or "").split("\n\n"))
