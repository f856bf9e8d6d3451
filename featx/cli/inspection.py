"""`featx inspect`: what is in a data set, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featx.cli.options import CACHE, CacheDir, RandomState, given
from featx.cli.places import in_cache
from featx.cli.program import OUTPUT, PREPARE, RUN, app, command, option
from featx.cli.terminal import Report, columns, in_options, note, progress

if TYPE_CHECKING:
    from featx.inspection.result import Copies, Inspection, Pair, Sizes

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
    import featx.inspection as inspecting

    if write_list:
        inspecting.require_place(write_list, inspecting.root_of(source))
    found = inspecting.inspect(
        source, cache_dir=cache_dir, random_state=random_state, progress=progress,
        **given(similarity=similarity, n_neighbors=n_neighbors),
    )  # fmt: skip
    for message in found.notes:
        note(in_options(message))
    fields, text = _fields(found), _text(found)
    if write_list:
        counts = inspecting.write_list(found, write_list, without_suspects)
        fields["list"] = {"file": str(write_list), **counts}
        text += _listed(write_list, counts)
    if out:
        from featx.reporting import write_page

        fields["page"] = str(write_page(found, out))
        text += f"\n\n{out}"
    return Report(fields, text, next=_next(found, source, write_list, cache_dir))


def _fields(found: Inspection) -> dict[str, Any]:
    fields = asdict(replace(found, pictures=[]))
    del fields["pictures"]
    fields["features"] = fields.pop("features_path")
    return fields


def _listed(file: Path, counts: dict[str, int]) -> str:
    left_out = ", ".join(f"{n} {why}" for why, n in counts.items() if n and why != "written") or "none"
    return f"\n\n{file}: {counts['written']} pictures; of those that can be read, left out: {left_out}"


def _next(found: Inspection, source: Path, write_list: Path | None, cache_dir: Path) -> Sequence[str | Path]:
    """Extract what is new: the list, or a data set that has no features yet."""
    dataset = write_list or (source if found.features_path is None and found.readable else None)
    return ["extract", dataset, *in_cache(cache_dir)] if dataset else []


def _text(found: Inspection) -> str:
    """The troubles, the worst first, and then what there is."""
    head = (
        f"{found.dataset!r}: {found.listed} listed = {found.readable} readable + {len(found.quarantined)} quarantined"
        + (f" + {found.gone} gone" if found.gone else "")
        + (f"; {found.ignored} other files ignored" if found.ignored else "")
    )
    troubles = [section for section in _troubles(found) if section[1]]
    sections = [*troubles, *_contents(found)]
    head += "" if troubles else "\nnothing wrong was found"
    return "\n\n".join([head, *(f"{title}\n{table}" for title, table in sections if table)])


def _troubles(found: Inspection) -> list[tuple[str, str]]:
    disputed = [group for group in found.duplicates if group.labels_differ]
    plain = [group for group in found.duplicates if not group.labels_differ]
    header, groups = ["similarity", "split", "picture", "split", "picture"], ["number", "split", "label", "picture"]
    return [
        _section(
            "leaks: pictures of one split that have a copy in another",
            [_pair(pair) for pair in found.leaks],
            header,
        ),
        _section("copies of one picture with several labels", _copies(disputed), groups, len(disputed)),
        _section(
            "quarantined: files that cannot take part",
            [[f"{bad.path!r}", bad.reason] for bad in found.quarantined],
            ["file", "reason"],
        ),
        _section(
            "labels that may be wrong, judged by the other pictures",
            [[s.label, s.probability, s.suggested, s.suggested_probability, repr(s.path)] for s in found.suspects],
            ["label", "probability", "perhaps", "probability", "picture"],
        ),
        _section("other copies of one picture", _copies(plain), groups, len(plain)),
        _section("near-duplicates", [_pair(pair) for pair in found.near_duplicates], header),
        _section(
            "outliers: unlike all other pictures",
            [[f"{o.score:.1f}", o.label or "", repr(o.path)] for o in found.outliers],
            ["score", "label", "picture"],
        ),
        _section("class folders without a picture", [[repr(name)] for name in found.empty_classes], ["folder"]),
    ]


def _contents(found: Inspection) -> list[tuple[str, str]]:
    splits = list(dict.fromkeys(split for count in [*found.counts.values(), found.unlabelled] for split in count))
    names = ["no split" if split == "none" else split for split in splits]
    counts = [[name, *(count.get(split, 0) for split in splits)] for name, count in found.counts.items()]
    counts += [["(no label)", *(found.unlabelled.get(split, 0) for split in splits)]] if found.unlabelled else []
    largest = f", the largest {found.imbalance:.2f} times the smallest" if found.imbalance else ""
    about = _sizes(found.sizes) if found.sizes else []
    bins = found.sizes.histogram if found.sizes else []
    sides = [[f"{bin.at_least} to {bin.below - 1}", bin.pictures] for bin in bins]
    formats = ", ".join(f"{name} {count}" for name, count in found.formats.items())
    return [
        (f"{len(found.counts)} classes{largest}", _table(counts, ["class", *names])),
        (f"formats: {formats}", _table(about, ["", "width", "height", "picture"])),
        ("pictures by their longer side", _table(sides, ["pixels", "pictures"])),
    ]


def _sizes(sizes: Sizes) -> list[list[Any]]:
    names = ("smallest", "median", "largest", "widest", "tallest")
    return [[name, size.width, size.height, repr(size.path)] for name in names for size in [getattr(sizes, name)]]


def _pair(pair: Pair) -> list[Any]:
    how = "same bytes" if pair.exact else f"{pair.similarity:.4f}"
    one, other = pair.first, pair.second
    return [how, one.split or "none", repr(one.path), other.split or "none", repr(other.path)]


def _copies(groups: list[Copies]) -> list[list[Any]]:
    return [
        [number, p.split or "none", p.label or "", repr(p.path)]
        for number, group in enumerate(groups, 1)
        for p in group.pictures
    ]


def _section(
    title: str, rows: Sequence[Sequence[Any]], header: Sequence[str], count: int | None = None
) -> tuple[str, str]:
    """A title with how many there are, and the table."""
    return f"{title} ({count or len(rows)})", _table(rows, header)


def _table(rows: Sequence[Sequence[Any]], header: Sequence[str]) -> str:
    """The first lines of a table; nothing without rows."""
    more = f"\n... and {len(rows) - LINES} more" if len(rows) > LINES else ""
    return columns(rows[:LINES], header) + more if rows else ""
