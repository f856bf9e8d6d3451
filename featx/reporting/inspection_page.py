"""The page about an inspection: troubles of a data set with their pictures, and its contents."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from featx._internal.parallel import in_threads
from featx.errors import PictureError
from featx.inspection import Inspection, Pair
from featx.pictures import Picture, decode, quiet_pillow, read_file
from featx.reporting.templates import environment, require_html, write_html
from featx.reporting.thumbnails import DRAFT_SIDE, LARGE, Thumbnail, data_uri

EXHIBITS_SHOWN = 60  # of each section
PICTURES_SHOWN = 6  # of an exhibit


@dataclass(frozen=True)
class Exhibit:
    """Pictures that are shown together, each as path and caption, and a text about all of them."""

    text: str
    pictures: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Section:
    """One kind of trouble.

    Attributes:
        link: name by which links find it.
        title: title of the section.
        exhibits: troubles that are shown.
        count: number of all troubles of this kind.
    """

    link: str
    title: str
    exhibits: list[Exhibit]
    count: int


def write_inspection(inspection: Inspection, out: str | Path) -> Path:
    """Write an inspection as one self-contained page, with thumbnails of the pictures in trouble.

    Raises:
        SettingError: ``out`` is not named ``.html``.
    """
    out = Path(out)
    require_html(out, "an inspection")
    sections = sections_of(inspection)
    shown = {path for section in sections for exhibit in section.exhibits for path, _ in exhibit.pictures}
    page = environment().get_template("inspection.html.j2").render(
        f=inspection,
        sections=sections,
        thumbnails=_thumbnails(Path(inspection.root), sorted(shown)),
        splits=list(dict.fromkeys(split for counts in inspection.counts.values() for split in counts)),
    )  # fmt: skip
    write_html(out, page)
    return out


def sections_of(inspection: Inspection) -> list[Section]:
    """Sections of the kinds of trouble that the data set has."""
    sections = [
        _section("leaks", "Leaks: copies in another split", [_pair(pair) for pair in inspection.leaks]),
        _section("copies", "Copies", _copies(inspection)),
        _section("suspects", "Labels that may be wrong", _suspects(inspection)),
        _section("near", "Near-duplicates", [_pair(pair) for pair in inspection.near_duplicates]),
        _section("outliers", "Outliers: unlike all others", _outliers(inspection)),
    ]
    return [section for section in sections if section.count]


def _section(link: str, title: str, exhibits: list[Exhibit]) -> Section:
    return Section(link, title, exhibits[:EXHIBITS_SHOWN], len(exhibits))


def _copies(inspection: Inspection) -> list[Exhibit]:
    groups = [group.pictures for group in inspection.duplicates]
    return [Exhibit(f"{len(pictures)} files of the same bytes", _captioned(pictures)) for pictures in groups]


def _suspects(inspection: Inspection) -> list[Exhibit]:
    return [
        Exhibit(
            f"{s.label} {s.probability:.0%}, perhaps {s.suggested} {s.suggested_probability:.0%}",
            ((s.path, s.split),),
        )
        for s in inspection.suspects
    ]


def _outliers(inspection: Inspection) -> list[Exhibit]:
    return [
        Exhibit(f"score {outlier.score:.1f}", ((outlier.path, outlier.label or ""), (outlier.nearest, "its nearest")))
        for outlier in inspection.outliers
    ]


def _pair(pair: Pair) -> Exhibit:
    return Exhibit(f"similarity {pair.similarity:.3f}", _captioned([pair.first, pair.second]))


def _captioned(pictures: list[Picture]) -> tuple[tuple[str, str], ...]:
    """Paths, and label and split of each as its caption."""
    return tuple((p.path, ", ".join(filter(None, [p.label, p.split]))) for p in pictures[:PICTURES_SHOWN])


def _thumbnails(root: Path, paths: list[str]) -> dict[str, Thumbnail]:
    thumbnails: dict[str, Thumbnail] = {}
    with quiet_pillow():
        for path, image in in_threads(paths, lambda path: decode(read_file(root / path), draft_side=DRAFT_SIDE)):
            if isinstance(image, PictureError):
                thumbnails[path] = Thumbnail(problem=str(image))
            else:
                thumbnails[path] = Thumbnail(large=data_uri(image, LARGE))
    return thumbnails
