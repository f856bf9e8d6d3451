"""Jinja2's templates beside this file, with every name in them escaped, and the files that they become."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from featx._internal.files import write_whole
from featx.errors import SettingError
from featx.reporting.card import NO_BREAK, percentage


@functools.cache
def environment() -> Environment:
    """Jinja2 environment of pages that extend ``base.html.j2``. Whatever is put in is escaped."""
    jinja = Environment(
        loader=PackageLoader("featx.reporting", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=escape_invisible,
    )
    jinja.filters["percent"] = percentage
    return jinja


def escape_invisible(value: Any) -> Any:
    """Text without invisible characters and those that turn the direction of what follows; other values as they are."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return "".join(c if c.isprintable() or c == NO_BREAK else repr(c)[1:-1] for c in value)


def require_html(out: Path, page: str) -> None:
    """Refuse a file that is not named ``.html``: beside a classifier, files of other names could carry code.

    Args:
        out: file to write.
        page: what it is to be, such as ``a report``.
    """
    if out.suffix.lower() != ".html":
        raise SettingError(f"{out}: {page} is a page; give an `out` that ends in .html", "out")


def write_html(out: Path, page: str) -> None:
    """Write a page, into a folder that is made if need be."""
    out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(out, page.encode("utf-8", "backslashreplace"))
