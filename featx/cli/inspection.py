"""`featx inspect`: what is in a data set, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featx.cli.options import CACHE, CacheDir, RandomState, not_none
from featx.cli.places import in_cache
from featx.cli.program import OUTPUT, PREPARE, RUN, app, command, option
from featx.cli.terminal import Report, columns, in_options, note, progress

if TYPE_CHECKING:
    from featx.inspection import Copies, Inspection, Pair, Sizes

LINES = 20  # of a section


@command(app, "featx inspect photos/ --write-list photos/clean.csv", PREPARE)
def inspect(
    source: Annotated[
        Path, typer.Argument(metavar="DATASET|FEATURES", help="A data set, as for `featx extract`, or a feature file.")
    ],
    similarity: Annotated[
        float | None, option(RUN, "Cosine of features from which on pictures are near-duplicates. Default: 0.9.")
    ] = None,
    n_neighbors: Annotated[
        int | None, option(RUN, "How many of the nearest pictures each is compared with. Default: 10.", min=1)
    ] = None,
    random_state: RandomState = 0,
    cache_dir: CacheDir = CACHE,
    write_list: Annotated[
        Path | None,
        option(OUTPUT, "Write a label file (.csv) without what is wrong, in the data set or above it."),
    ] = None,
    without_suspects: Annotated[
        bool, option(OUTPUT, "With --write-list: leave out label suspects too, except pictures of test.")
    ] = False,
    out: Annotated[Path | None, option(OUTPUT, "Also write a page, .html, with the pictures in trouble.")] = None,
) -> Report:
    """Look through a data set: counts, sizes, unreadable files, duplicates, leaks, outliers, labels that may be wrong.

    Near-duplicates, leaks by them, outliers and labels need features: those of `featx extract`, the newest of the data
    set or the file named.
    """
    from featx.inspection import inspect, require_list_path, root_of
    from featx.inspection import write_list as write_label_list

    if write_list:
        require_list_path(write_list, root_of(source))
    inspection = inspect(
        source, cache_dir=cache_dir, random_state=random_state, progress=progress,
        **not_none(similarity=similarity, n_neighbors=n_neighbors),
    )  # fmt: skip
    for message in inspection.notes:
        note(in_options(message))
    fields = _fields(inspection)
    text = _text(inspection)
    if write_list:
        counts = asdict(write_label_list(inspection, write_list, without_suspects))
        fields["list"] = {"file": str(write_list), **counts}
        text += _listed(write_list, counts)
    if out:
        from featx.reporting import write_inspection

        fields["page"] = str(write_inspection(inspection, out))
        text += f"\n\n{out}"
    return Report(fields, text, next=_next(inspection, source, write_list, cache_dir))


def _fields(inspection: Inspection) -> dict[str, Any]:
    names = {"features_path": "features", "n_neighbors": "neighbors"}
    fields = asdict(replace(inspection, pictures=[]))
    return {names.get(name, name): value for name, value in fields.items() if name != "pictures"}


def _listed(file: Path, counts: dict[str, int]) -> str:
    left_out = ", ".join(f"{n} {reason}" for reason, n in counts.items() if n and reason != "written") or "none"
    return f"\n\n{file}: {counts['written']} pictures; of those that can be read, left out: {left_out}"


def _next(inspection: Inspection, source: Path, write_list: Path | None, cache_dir: Path) -> Sequence[str | Path]:
    """Command that extracts what is new: the list, or a data set that has no features yet."""
    dataset = write_list
    if dataset is None and inspection.features_path is None and inspection.readable:
        dataset = source
    return ["extract", dataset, *in_cache(cache_dir)] if dataset else []


def _text(inspection: Inspection) -> str:
    """Troubles, the worst first, and then the contents."""
    head = (
        f"{inspection.dataset!r}: {inspection.listed} listed = {inspection.readable} readable + "
        f"{len(inspection.quarantined)} quarantined"
    )
    head += f" + {inspection.gone} gone" if inspection.gone else ""
    head += f"; {inspection.ignored} other files ignored" if inspection.ignored else ""
    troubles = [section for section in _troubles(inspection) if section[1]]
    sections = [*troubles, *_contents(inspection)]
    head += "" if troubles else "\nnothing wrong was found"
    return "\n\n".join([head, *(f"{title}\n{table}" for title, table in sections if table)])


def _troubles(inspection: Inspection) -> list[tuple[str, str]]:
    disputed = [group for group in inspection.duplicates if group.labels_differ]
    plain = [group for group in inspection.duplicates if not group.labels_differ]
    pair_header = ["similarity", "split", "picture", "split", "picture"]
    copies_header = ["number", "split", "label", "picture"]
    return [
        _section(
            "leaks: pictures of one split that have a copy in another",
            [_pair(pair) for pair in inspection.leaks],
            pair_header,
        ),
        _section("copies of one picture with several labels", _copies(disputed), copies_header, len(disputed)),
        _section(
            "quarantined: files that cannot take part",
            [[f"{bad.path!r}", bad.reason] for bad in inspection.quarantined],
            ["file", "reason"],
        ),
        _section(
            "labels that may be wrong, judged by the other pictures",
            [[s.label, s.probability, s.suggested, s.suggested_probability, repr(s.path)] for s in inspection.suspects],
            ["label", "probability", "perhaps", "probability", "picture"],
        ),
        _section("other copies of one picture", _copies(plain), copies_header, len(plain)),
        _section("near-duplicates", [_pair(pair) for pair in inspection.near_duplicates], pair_header),
        _section(
            "outliers: unlike all other pictures",
            [[f"{o.score:.1f}", o.label or "", repr(o.path)] for o in inspection.outliers],
            ["score", "label", "picture"],
        ),
        _section("class folders without a picture", [[repr(name)] for name in inspection.empty_classes], ["folder"]),
    ]


def _contents(inspection: Inspection) -> list[tuple[str, str]]:
    largest = f", the largest {inspection.imbalance:.2f} times the smallest" if inspection.imbalance else ""
    formats = ", ".join(f"{name} {count}" for name, count in inspection.formats.items())
    sections = [(f"{len(inspection.counts)} classes{largest}", _counts(inspection))]
    if inspection.sizes:
        sections.append((f"formats: {formats}", _extremes(inspection.sizes)))
        sections.append(("pictures by their longer side", _sides(inspection.sizes)))
    return sections


def _counts(inspection: Inspection) -> str:
    """Table of pictures by class and split."""
    by_class = list(inspection.counts.items())
    if inspection.unlabelled:
        by_class.append(("(no label)", inspection.unlabelled))
    splits = list(dict.fromkeys(split for _, counts in by_class for split in counts))
    names = ["no split" if split == "none" else split for split in splits]
    rows = [[name, *(counts.get(split, 0) for split in splits)] for name, counts in by_class]
    return _table(rows, ["class", *names])


def _extremes(sizes: Sizes) -> str:
    """Table of the smallest and largest pictures."""
    names = ("smallest", "median", "largest", "widest", "tallest")
    extremes = [(name, getattr(sizes, name)) for name in names]
    rows = [[name, size.width, size.height, repr(size.path)] for name, size in extremes]
    return _table(rows, ["", "width", "height", "picture"])


def _sides(sizes: Sizes) -> str:
    """Table of pictures by their longer side."""
    rows = [[f"{bin.at_least} to {bin.below - 1}", bin.pictures] for bin in sizes.histogram]
    return _table(rows, ["pixels", "pictures"])


def _pair(pair: Pair) -> list[Any]:
    """Row of a table: how alike two pictures are, and split and path of each."""
    similarity = "same bytes" if pair.exact else f"{pair.similarity:.4f}"
    return [similarity, *(text for p in (pair.first, pair.second) for text in (p.split or "none", repr(p.path)))]


def _copies(groups: list[Copies]) -> list[list[Any]]:
    return [
        [number, p.split or "none", p.label or "", repr(p.path)]
        for number, group in enumerate(groups, 1)
        for p in group.pictures
    ]


def _section(
    title: str, rows: Sequence[Sequence[Any]], header: Sequence[str], count: int | None = None
) -> tuple[str, str]:
    """Title with the number of rows, and the table."""
    return f"{title} ({count or len(rows)})", _table(rows, header)


def _table(rows: Sequence[Sequence[Any]], header: Sequence[str]) -> str:
    """First rows of a table as text; nothing without rows."""
    if not rows:
        return ""
    more = f"\n... and {len(rows) - LINES} more" if len(rows) > LINES else ""
    return columns(rows[:LINES], header) + more
