"""The command line: each command a few lines over one public function. Heavy imports happen inside the commands."""

from typing import Annotated

import typer

from featx import __version__
from featx.cli.cache import app as cache_app
from featx.cli.commands import app

app.add_typer(cache_app, name="cache")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"featx {__version__}")
        raise typer.Exit


@app.callback()
def _featx(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which featx.")
    ] = False,
) -> None:
    """Image classifiers from frozen features, trained in seconds."""


def main() -> None:
    """The ``featx`` program."""
    app()
