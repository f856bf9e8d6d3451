"""Output of commands: results on stdout, progress, notes and hints on stderr, errors in one line, exit codes."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import shlex
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featx.errors import FeatxError, SettingError

SECONDS_BETWEEN_LINES = 10.0  # where stderr is no terminal, progress comes as lines
OPTIONS: dict[str, str] = {}  # of all commands, by the name of the parameter; filled as they are registered
QUOTES = "\"'"


@dataclass
class Report:
    """Result of a command.

    Attributes:
        fields: JSON object for --json; a list is one object per line.
        text: text for a person.
        failed: whether the exit code is 1.
        next: words of the command that likely comes next, without ``featx``; empty if no command would do.
    """

    fields: dict[str, Any] | list[dict[str, Any]]
    text: str
    failed: bool = False
    next: Sequence[str | Path] = ()


def run(function: Callable[[], Report], as_json: bool, quiet: bool, debug: bool) -> int:
    """Run a command and turn whatever comes of it into output and an exit code."""
    _TERMINAL.begin(quiet, as_json)
    try:
        with warnings.catch_warnings():
            if not debug:
                warnings.simplefilter("ignore")  # libraries' own, for programmers
            report = function()
        _TERMINAL.end()
    except KeyboardInterrupt as interrupt:
        return _fail("interrupted", str(interrupt) or "nothing was left half-written", 130, as_json, debug)
    except FeatxError as error:
        setting = error.setting if isinstance(error, SettingError) else ""
        return _fail("error", in_options(str(error), setting), 1, as_json, debug)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _fail("error", where + (error.strerror or str(error)).lower(), 1, as_json, debug)
    except MemoryError as error:
        hint = "try a smaller --batch-size or --size, --pooling avg, or --input avg"
        return _fail("error", f"not enough memory ({error}); {hint}", 1, as_json, debug)
    except Exception as error:  # a bug: said in one line too, with the way to its traceback
        hint = "" if debug else "; --debug shows where"
        return _fail("unexpected error", f"{type(error).__name__}: {error}{hint}", 1, as_json, debug)
    return _finish(report, as_json)


def _finish(report: Report, as_json: bool) -> int:
    """Print the result of a command, and the command that might come next."""
    if not print_out(_as_json(report.fields) if as_json else _shown(report.text)):
        return 1
    command = shlex.join(["featx", *map(_word, report.next)])
    if report.next and not as_json and command.isprintable():  # another could be neither shown nor copied as it is
        note(f"next: {command}")
    return 1 if report.failed else 0


def _word(word: str | Path) -> str:
    """Word of a command line; a path that begins as an option does is no option."""
    return f"./{word}" if isinstance(word, Path) and str(word).startswith("-") else str(word)


def in_options(message: str, setting: str = "") -> str:
    """Message of the library, with options for the parameters that it names: ``--views 5`` for ```views=5```.

    Args:
        message: text with parameters in backticks.
        setting: parameter that the message may name without them.
    """
    if setting in OPTIONS and f"`{setting}" not in message:  # but not within quotes, a path or another word
        message = re.sub(rf"""(?<![\w'"./-]){setting}(?![\w'"/-]|\.\w)""", f"`{setting}`", message)
    return re.sub(r"`(\w+)(?:=([^`]*))?`", _in_option, message)


def _in_option(match: re.Match[str]) -> str:
    name, value = match.groups()
    if name not in OPTIONS or value == "False":
        return match[0]
    return OPTIONS[name] if value in (None, "True") else f"{OPTIONS[name]} {value.strip(QUOTES)}"


def _as_json(fields: dict[str, Any] | list[dict[str, Any]]) -> str:
    objects = fields if isinstance(fields, list) else [fields]
    return "\n".join(json.dumps(fields, default=str) for fields in objects)


def _fail(kind: str, message: str, code: int, as_json: bool, debug: bool) -> int:
    _TERMINAL.end()
    if debug:
        _to_stderr(traceback.format_exc())
    _to_stderr(f"{kind}: {escaped(' '.join(message.split()))}\n")
    if as_json:
        print_out(json.dumps({"error": f"interrupted: {message}" if kind == "interrupted" else message}))
    return code


def print_out(text: str) -> bool:
    """Write results to stdout; characters that it cannot show are escaped. False if they could not be written."""
    if not text or sys.stdout is None:
        return True
    encoding = sys.stdout.encoding or "utf-8"
    try:
        sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still held back need not be tried
        if isinstance(error, BrokenPipeError):  # the reader, such as `head`, has seen enough
            return True
        _to_stderr(f"error: the results could not be written: {(error.strerror or str(error)).lower()}\n")
        return False
    return True


def _to_stderr(text: str) -> None:
    """Write to stderr, if it can be written: work does not end because nobody listens."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sys.stderr.write(text)
        sys.stderr.flush()


def escaped(text: str) -> str:
    """Name as it may be shown: without the control characters that would break lines or command the terminal."""
    return "".join(c if c.isprintable() or c == " " else repr(c)[1:-1] for c in text)


def _shown(text: str) -> str:
    """Lines and columns as they are, anything else that a terminal would obey escaped."""
    return "\n".join("\t".join(map(escaped, line.split("\t"))) for line in text.split("\n"))


def columns(rows: Sequence[Sequence[Any]], header: Sequence[str]) -> str:
    """Rows as aligned text under a header; numbers to the right."""
    cells = [[escaped(name) for name in header], *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    right = [all(isinstance(row[i], (int, float)) for row in rows) for i in range(len(header))]
    return "\n".join(_line(row, widths, right) for row in cells)


def _line(cells: list[str], widths: list[int], right: list[bool]) -> str:
    """Cells side by side, each aligned in its column."""
    columns = zip(cells, widths, right, strict=True)
    aligned = (cell.rjust(width) if to_the_right else cell.ljust(width) for cell, width, to_the_right in columns)
    return "  ".join(aligned).rstrip()


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4f}" if isinstance(value, float) else escaped(str(value))


def by_shape(shape: Sequence[int | None]) -> str:
    """Shape as it is read aloud: ``14 x 14 x 512``, with a question mark for what may be anything."""
    return " x ".join("?" if n is None else str(n) for n in shape)


def progress(stage: str, done: int, total: int) -> None:
    """Show the progress of a stage on stderr: a bar with rate and ETA on a terminal, a line now and then elsewhere."""
    _TERMINAL.progress(stage, done, total)


def note(message: str) -> None:
    """Say something on stderr that is not a result."""
    _TERMINAL.note(message)


def announce(fields: dict[str, Any], message: str) -> None:
    """Say, before the work ends, what others wait for: an object on stdout with --json, else a note on stderr."""
    if not _TERMINAL.as_json:
        note(message)
    else:
        print_out(_as_json(fields))


class _Terminal(logging.Handler):
    """Handler of what goes to stderr: progress, notes, and the library's warnings."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.as_json = False
        self._quiet = False
        self._bar: Any = None
        self._task: Any = None
        self._stage = ""
        self._done_before = 0  # when the stage began; not part of its rate
        self._started = 0.0
        self._last_line = 0.0

    def begin(self, quiet: bool, as_json: bool) -> None:
        """Take over stderr for a command."""
        self.as_json = as_json
        self._quiet = quiet
        self._bar = None
        self._stage = ""
        logger = logging.getLogger("featx")
        logger.addHandler(self)
        logger.setLevel(logging.INFO)
        logger.propagate = False

    def end(self) -> None:
        """Remove the bar, and give the library's log back."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        logger = logging.getLogger("featx")
        logger.removeHandler(self)
        logger.setLevel(logging.NOTSET)
        logger.propagate = True

    def emit(self, record: logging.LogRecord) -> None:
        """Show a message of the library's log."""
        self.note(("warning: " if record.levelno >= logging.WARNING else "") + in_options(record.getMessage()))

    def note(self, message: str) -> None:
        """Show a line, unless it is to be quiet."""
        if not self._quiet:
            _to_stderr(escaped(message) + "\n")

    def progress(self, stage: str, done: int, total: int) -> None:
        """Show the progress of a stage, as a bar or as lines."""
        if self._quiet:
            return
        if stage != self._stage:
            self._begin_stage(stage, done, total)
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=total or None)
        elif total and (done == total or time.monotonic() - self._last_line > SECONDS_BETWEEN_LINES):
            self._last_line = time.monotonic()
            rate = (done - self._done_before) / max(self._last_line - self._started, 1e-9)
            left = f", {rate:.1f}/s, {(total - done) / rate:.0f} s left" if rate else ""
            self.note(f"{stage}: {done}/{total}{left}")

    def _begin_stage(self, stage: str, done: int, total: int) -> None:
        self._stage = stage
        self._done_before = done
        self._started = time.monotonic()
        self._last_line = self._started
        if sys.stderr is not None and sys.stderr.isatty():
            self._new_bar(stage, total)

    def _new_bar(self, stage: str, total: int) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            SpinnerColumn,
            TextColumn,
            TimeRemainingColumn,
        )

        if self._bar is not None:
            self._bar.stop()
        shown = [SpinnerColumn(), TextColumn("{task.description}", markup=False)]
        shown += [BarColumn(), MofNCompleteColumn(), _rate_column(), TimeRemainingColumn()] if total else []
        self._bar = Progress(*shown, console=Console(stderr=True), transient=not total)
        self._bar.start()
        self._task = self._bar.add_task(stage, total=total or None)


def _rate_column() -> Any:
    from rich.progress import ProgressColumn, Task
    from rich.text import Text

    class Rate(ProgressColumn):
        """Column of the rate per second."""

        def render(self, task: Task) -> Text:
            """Rate of a task."""
            return Text(f"{task.speed:.1f}/s" if task.speed else "")

    return Rate()


_TERMINAL = _Terminal()
