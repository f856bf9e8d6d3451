"""The server: from a classifier to a page that can be opened, until somebody ends it."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable
from pathlib import Path

from featx.classifier import Classifier
from featx.errors import ServingError, SettingError
from featx.serving.address import LOOPBACK, bound_socket, is_loopback, url_of
from featx.serving.limits import MAX_BYTES

logger = logging.getLogger(__name__)

EXTRA = ("fastapi", "uvicorn", "python_multipart")
MAX_PORT = 65535


def _silent(_url: str) -> None:
    """Nothing is said of the address."""


def serve(
    classifier: Classifier | str | Path,
    host: str = "127.0.0.1",
    port: int = 8000,
    *,
    max_bytes: int = MAX_BYTES,
    ready: Callable[[str], None] = _silent,
) -> None:
    """Serve a classifier, as a page and an API over HTTP, until somebody presses Ctrl-C.

    Args:
        classifier: a classifier, or the folder of a saved one.
        host: address to listen at. Other machines cannot reach the default; with another there is a warning, because
            there is no password and no encryption.
        port: TCP port, 0 to 65535; 0 takes a free one.
        max_bytes: bytes that the body of a request may have; larger uploads are refused.
        ready: called with the URL of the page as soon as it can be opened.

    Raises:
        SettingError: a setting out of its range.
        ServingError: an address that cannot be had, or an extra that is not installed: ``pip install '.[serve]'``.
        ModelError: the folder is no classifier.
        SpecMismatchError: the network can no longer be built as it was.

    Example:
        >>> import featx
        >>> features = featx.extract("photos", backbone="pixels", size=16).features_path
        >>> classifier = featx.fit(features, "logreg")
        >>> featx.serve(classifier, port=0, ready=print)  # doctest: +SKIP
        http://127.0.0.1:41235/

        It is skipped, where examples are tested, because a server does not return.
    """
    if not 0 <= port <= MAX_PORT:
        raise SettingError(f"`port` must be from 0 to {MAX_PORT}, got {port}", "port")
    if max_bytes < 1:
        raise SettingError(f"`max_bytes` must be at least 1, got {max_bytes}", "max_bytes")
    _require_extra()
    from featx.serving.app import make_app
    from featx.serving.uvicorn_server import run_until_interrupted

    classifier = Classifier.of(classifier)
    with bound_socket(host, port) as listener:  # first: to build a network for an address in use would be time lost
        local = is_loopback(listener)
        if not local:
            logger.warning("whoever can reach %s may use the classifier: there is no password and no encryption", host)
        app = make_app(classifier, max_bytes=max_bytes, hosts={*LOOPBACK, host.lower()} if local else None)
        run_until_interrupted(app, listener, lambda: ready(url_of(listener)))


def _require_extra() -> None:
    if not all(importlib.util.find_spec(package) for package in EXTRA):
        raise ServingError("serving needs FastAPI and Uvicorn: pip install '.[serve]'")
