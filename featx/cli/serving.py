"""The command that puts a classifier on a page."""

from __future__ import annotations

from typing import Annotated

from featx.cli.options import Model, Weights
from featx.cli.program import RUN, USE, app, command, option
from featx.cli.terminal import Report, announce


@command(app, "featx serve models/photos-logreg", USE)
def serve(
    model: Model,
    host: Annotated[str, option(RUN, "Where to listen; 0.0.0.0: to other machines too.")] = "127.0.0.1",
    port: Annotated[int, option(RUN, "0: one that is free.", min=0, max=65535)] = 8000,
    max_mb: Annotated[float, option(RUN, "Larger uploads are refused.", min=0.001)] = 20,
    weights: Weights = None,
) -> Report:
    """Serve a page to try a classifier on, and an API, until Ctrl-C.

    With --json, one object at the start, with the address.
    """
    from featx.classifier import Classifier
    from featx.serving import serve

    classifier = Classifier.load(model, weights)

    def ready(url: str) -> None:
        """Say the address, which people and programs wait for."""
        announce({"url": url, "model": str(model)}, f"{model} is served at {url}; Ctrl-C ends it")

    serve(classifier, host, port, max_bytes=round(max_mb * 1e6), ready=ready)
    return Report([], "")
