"""The inspection of a data set as a page: what is wrong with it, with the pictures, and what is in it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from featx._internal.files import write_whole
from featx._internal.parallel import in_threads
from featx.errors import PictureError, SettingError
from featx.inspection import Inspection
from featx.pictures import Picture, decode, quiet_pillow, read_file
from featx.reporting.page import environment
from featx.reporting.pictures import DRAFT_SIDES, LARGE, Thumb, uri

SHOWN = 60  # of each trouble, with pictures


@dataclass(frozen=True)
class Card:
    """Pictures that belong together, each with what is said of it, and what is said of all."""

    text: str
    pictures: tuple[tuple[str, str], ...]  # path, caption


def write_page(found: Inspection, out: str | Path) -> Path:
    """Write what an inspection found as one self-contained page, with thumbnails of the pictures in trouble.

    Raises:
        SettingError: ``out`` is not named ``.html``.
    """
    out = Path(out)
    if out.suffix.lower() != ".html":
        raise SettingError(f"{out}: an inspection is a page; give an `out` that ends in .html", "out")
    sections = sections_of(found)
    paths = {path for _, _, cards, _ in sections for card in cards for path, _ in card.pictures}
    page = environment().get_template("inspection.html.j2").render(
        f=found,
        sections=sections,
        thumbs=_thumbs(Path(found.root), sorted(paths)),
        splits=list(dict.fromkeys(split for counts in found.counts.values() for split in counts)),
    )  # fmt: skip
    out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(out, page.encode("utf-8", "backslashreplace"))
    return out


def sections_of(found: Inspection) -> list[tuple[str, str, list[Card], int]]:
    """The troubles that there are: name for links, title, cards (not more than are shown) and how many there are."""
    copies = [Card(f"{len(g.pictures)} files of the same bytes", _members(g.pictures)) for g in found.duplicates]
    all_of = [
        ("leaks", "Leaks: copies in another split", [_pair(p.first, p.second, p.similarity) for p in found.leaks]),
        ("copies", "Copies", copies),
        (
            "suspects",
            "Labels that may be wrong",
            [
                Card(
                    f"{s.label} {s.probability:.0%}, perhaps {s.suggested} {s.suggested_probability:.0%}",
                    ((s.path, s.split),),
                )
                for s in found.suspects
            ],
        ),
        ("near", "Near-duplicates", [_pair(p.first, p.second, p.similarity) for p in found.near_duplicates]),
        (
            "outliers",
            "Outliers: unlike all others",
            [
                Card(f"score {o.score:.1f}", ((o.path, o.label or ""), (o.nearest, "its nearest")))
                for o in found.outliers
            ],
        ),
    ]
    return [(link, title, cards[:SHOWN], len(cards)) for link, title, cards in all_of if cards]


def _pair(first: Picture, second: Picture, similarity: float) -> Card:
    return Card(f"similarity {similarity:.3f}", _members([first, second]))


def _members(pictures: list[Picture]) -> tuple[tuple[str, str], ...]:
    return tuple((p.path, ", ".join(filter(None, [p.label, p.split]))) for p in pictures[:6])


def _thumbs(root: Path, paths: list[str]) -> dict[str, Thumb]:
    found: dict[str, Thumb] = {}
    with quiet_pillow():
        for path, image in in_threads(
            paths, lambda path: decode(read_file(root / path), draft_side=DRAFT_SIDES * LARGE)
        ):
            lost = isinstance(image, PictureError)
            found[path] = Thumb(problem=str(image)) if lost else Thumb(large=uri(image, LARGE))  # type: ignore[arg-type]
    return found
