"""Download of weights by Keras, which is logged instead of printed, and given up if nobody answers."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

DOWNLOAD_TIMEOUT = 10.0  # seconds without a byte
# Files that Keras saves under another name than their address has
_SAVED_AS = {
    "NASNet-mobile-no-top.h5": "nasnet_mobile_no_top.h5",
    "NASNet-large-no-top.h5": "nasnet_large_no_top.h5",
}


def download_place(file: str) -> Path:
    """Path under which Keras keeps a downloaded file."""
    home = Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser()
    return home / "models" / _SAVED_AS.get(file, file)


def build_with_download(build: Callable[[], Any], name: str, output: list[str]) -> Any:
    """Result of ``build``, which may download weights.

    Args:
        build: function that makes Keras download, and raises whatever Keras does if that fails.
        name: name of the network, for the log.
        output: gets what Keras prints.

    Raises:
        TimeoutError: nobody answers.
    """
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT)
    log = DownloadLog(name, output)
    try:
        with contextlib.redirect_stdout(log):
            return _with_connection_timeout(build, log)
    finally:
        socket.setdefaulttimeout(before)


class DownloadLog(io.TextIOBase):
    """Text stream for what Keras prints while downloading: the address, then how many bytes of how many.

    Args:
        name: name of the network.
        output: gets what is written, up to 2000 characters.

    Attributes:
        connecting_since: when the download was begun, by the monotonic clock; 0 once bytes come.
    """

    def __init__(self, name: str, output: list[str]) -> None:
        self.name = name
        self.output = output
        self.connecting_since = 0.0
        self._tenths_logged = -1

    def write(self, text: str) -> int:
        """Take note of a piece of text."""
        if sum(map(len, self.output)) < 2000:
            self.output.append(text)
        progress = re.search(r"(\d+)/(\d+)", text)
        if progress:
            self.connecting_since = 0.0
            self._log(int(progress[1]), int(progress[2]))
        elif "Downloading data from" in text:
            self.connecting_since = time.monotonic()
        return len(text)

    def _log(self, done: int, total: int) -> None:
        tenths = 10 * done // max(total, 1)
        if tenths > self._tenths_logged:
            self._tenths_logged = tenths
            logger.info("downloading the weights of %s: %d %% of %.0f MB", self.name, 10 * tenths, total / 1e6)


def _with_connection_timeout(build: Callable[[], Any], log: DownloadLog) -> Any:
    """Result of ``build``, or its error, unless a connection takes too long.

    A socket's own timeout does not bound that: names are looked up without one, and a host's addresses tried in turn.
    """
    outcome: list[Any] = []
    thread = threading.Thread(target=lambda: outcome.append(_result_or_error(build)), daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.05)
        if log.connecting_since and time.monotonic() - log.connecting_since > DOWNLOAD_TIMEOUT:
            raise TimeoutError("no answer")
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]


def _result_or_error(work: Callable[[], Any]) -> Any:
    try:
        return work()
    except BaseException as error:
        return error
