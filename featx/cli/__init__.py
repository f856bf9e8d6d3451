"""The command line: each command a few lines over one public function. Heavy imports happen inside the commands."""

import json
import sys
from typing import Annotated

import typer

import featx.cli.backbones  # noqa: F401 - registers its command, as do the others
import featx.cli.classifier  # noqa: F401
import featx.cli.demo  # noqa: F401
import featx.cli.explanation  # noqa: F401
import featx.cli.extraction  # noqa: F401
import featx.cli.finetuning  # noqa: F401
import featx.cli.inspection  # noqa: F401
import featx.cli.reporting  # noqa: F401
import featx.cli.selection  # noqa: F401
import featx.cli.serving  # noqa: F401
from featx._internal.version import featx_version
from featx.cli.cache import app as cache_app
from featx.cli.program import PREPARE, app
from featx.cli.terminal import print_out

app.add_typer(cache_app, name="cache", rich_help_panel=PREPARE)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"featx {featx_version()}")
        raise typer.Exit


@app.callback()
def _featx(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Say which featx.")
    ] = False,
) -> None:
    """Image classifiers from frozen features, trained in seconds."""


def main() -> None:
    """Program ``featx``."""
    try:
        app(prog_name="featx")  # by `python -m featx` too, so that completion is installed for the name that is typed
    except SystemExit as end:
        if end.code == 2 and "--json" in sys.argv[1:]:
            print_out(json.dumps({"error": "wrong usage; stderr says more"}))
        raise
    except KeyboardInterrupt:  # before a command was under way
        sys.exit(130)
