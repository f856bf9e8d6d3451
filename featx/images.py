"""Pictures: list a data set, read and decode one file, resize it. One decoder for everything featx does.

A listing is sorted and relative to its root; it splits nothing and opens no picture. Decoding gives
``uint8 (h, w, 3)`` RGB, or raises :class:`PictureError` with the reason. Nothing is ever substituted.
"""

from __future__ import annotations

import csv
import io
import logging
import os
import re
import stat
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from featx.errors import DatasetError, FileReadError, PictureError, one_line

if TYPE_CHECKING:
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

DECODER = "pillow-rgb-1"  # part of every spec: to be raised whenever the pixels that `decode` gives could change
DRAFT_DECODER = "pillow-rgb-1-draft-1"  # the same, with `enough`
RESIZES = ("stretch", "crop", "pad")
MAX_PIXELS = 100_000_000

SPLITS = {"train": "train", "val": "validation", "valid": "validation", "validation": "validation", "test": "test"}
LITTER = {"thumbs.db", "desktop.ini", "__macosx", "icon\r"}
# A file with one of these suffixes is meant as a picture, and is listed even if it cannot be read: then it is
# quarantined with its reason. Any other file is listed only if its first bytes are a picture's.
PICTURE_SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .png .apng .gif .bmp .dib .webp .tif .tiff .ppm .pgm .pbm .pnm .tga .ico .icns .jp2 .j2k "
    ".jpx .avif .avifs .psd .pcx .sgi .qoi .dds .mpo .heic .heif .jxl .dng .cr2 .cr3 .nef .arw".split()
)
# Formats whose Pillow decoders read pixels and nothing else: no EPS (runs Ghostscript), no WMF, no stubs.
FORMATS = "JPEG PNG GIF WEBP BMP DIB TIFF PPM JPEG2000 AVIF ICO ICNS PSD SGI QOI DDS PCX TGA".split()
DRAFTED = {"JPEG", "MPO"}  # decoded at a fraction of their size, where less is enough
LYING = {5, 6, 7, 8}  # EXIF orientations in which width and height change places
TIFF_SUBFILE = 254  # the tag whose lowest bit marks a preview
UNSIGNED_FORMATS = {"TGA", "PCX"}  # no signature to tell them by: believed only if the suffix says so


@dataclass(frozen=True)
class Picture:
    """One listed file: ``path`` relative to the data set's root with forward slashes, its label and its split."""

    path: str
    label: str | None = None
    split: str = ""


@dataclass(frozen=True)
class Listing:
    """The pictures of a data set, sorted by path.

    ``misplaced`` maps listed paths that cannot take part to the reason (they go straight to the quarantine);
    ``ignored`` holds files that are not pictures and do not claim to be, ``empty_classes`` the class folders without a
    picture.
    """

    root: Path
    name: str
    pictures: tuple[Picture, ...]
    misplaced: dict[str, str] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    empty_classes: tuple[str, ...] = ()

    @property
    def class_names(self) -> list[str]:
        """Labels that occur, sorted; numerically if all are whole numbers."""
        names = {p.label for p in self.pictures if p.label is not None and p.path not in self.misplaced}
        return sorted(names, key=(lambda n: (int(n), n)) if all(n.isdecimal() for n in names) else str)


# ------------------------------------------------------------------------------------------------------------ listing


def list_dataset(dataset: str | Path) -> Listing:
    """List a data set: ``CLASS/*``, ``{train,val,valid,validation,test}/CLASS/*``, a flat folder, or a label file.

    Raises:
        DatasetError: nothing there, no picture in it, or a layout that could be read in two ways.
    """
    path = Path(dataset)
    try:
        listing = (
            _list_label_file(path) if os.path.isfile(path) else _list_folder(path) if os.path.isdir(path) else None
        )
    except OSError as error:
        raise DatasetError(
            f"{error.filename or path} cannot be read: {(error.strerror or str(error)).lower()}"
        ) from None
    if listing is None:
        raise DatasetError(f"no such data set: {path}. Give a folder of pictures, or a label file (.csv, .tsv, .txt)")
    if not listing.pictures:
        seen = f"; {len(listing.ignored)} other files were found" if listing.ignored else ""
        raise DatasetError(f"{path} holds no pictures{seen}. Expected CLASS/*.jpg or train/CLASS/*.jpg below it")
    return listing


def list_files(paths: Iterable[str | Path]) -> list[Path]:
    """Pictures named one by one (taken as they are) or by folder (searched like a data set), in the order given.

    Raises:
        DatasetError: a path that does not exist, or no pictures at all.
    """
    files: list[Path] = []
    empty: list[Path] = []
    for path in map(Path, paths):
        if os.path.isdir(path):
            found = [path / name for name in _walk(path) if _is_picture(path, name)]
            if not found:
                empty.append(path)
            files += found
        elif os.path.lexists(path):
            files.append(path)
        else:
            raise DatasetError(f"no such file: {path}")
    if empty and not files:
        raise DatasetError(f"{empty[0]} holds no pictures")
    for path in empty:
        logger.warning("%s holds no pictures", path)
    return files


def _list_folder(root: Path) -> Listing:
    names = sorted(_walk(root))
    pictures = [n for n in names if _is_picture(root, n)]
    known = set(pictures)
    ignored = tuple(n for n in names if n not in known)
    folders = {n.split("/", 1)[0] for n in pictures if "/" in n}
    splits = _split_folders(root, pictures, folders)
    holding = {n.split("/")[0] for n in pictures if n.count("/") > 1}  # split folders that hold class folders
    placed, misplaced = [], {}
    for name in pictures:
        *above, _file = name.split("/")
        split = ""
        if splits and above:
            split, *above = [SPLITS[above[0].lower()], *above[1:]]
        placed.append(Picture(name, above[0] if above else None, split))
        if not above and folders and (not split or name.split("/")[0] in holding):
            misplaced[name] = "lies beside the class folders, not in one"
        elif not _is_utf8(name):
            misplaced[name] = "its name is not valid UTF-8; rename it"
    labels = {p.label for p in placed}
    empty = tuple(f for f in _class_folders(root, splits) if f.rsplit("/", 1)[-1] not in labels)
    return Listing(root, _dataset_name(root), tuple(placed), misplaced, ignored, empty)


def _split_folders(root: Path, pictures: list[str], folders: set[str]) -> set[str]:
    """The top folders that are splits: named like one and holding class folders. All must be, or none."""
    named = {f for f in folders if f.lower() in SPLITS}
    splits = {f for f in named if any(n.startswith(f + "/") and n.count("/") > 1 for n in pictures)}
    if named and named == folders and not splits:
        if {f.lower() for f in named} == {"test"}:
            return named
        raise DatasetError(
            f"{root}: {min(named)}/ is named like a split but holds no class folders. Expected {min(named)}/CLASS/*; "
            "or name each picture's label in a label file"
        )
    if not splits:
        return set()
    splits |= named  # a flat, unlabelled test/ beside train/CLASS/
    if folders - splits:
        odd = sorted(folders - splits)[0]
        raise DatasetError(
            f"{root}: {sorted(splits)[0]}/ looks like a split, but {odd}/ is none of train, val, valid, validation, "
            "test. Use split folders only, or class folders only"
        )
    return splits


def _class_folders(root: Path, splits: set[str]) -> list[str]:
    tops = [root / s for s in sorted(splits)] or [root]
    return [
        p.relative_to(root).as_posix()
        for top in tops
        for p in sorted(top.iterdir())
        if p.is_dir() and not _is_litter(p.name)
    ]


def _walk(folder: Path) -> Iterator[str]:
    """Paths of all files below ``folder`` but litter, relative, with forward slashes. Links are followed, not loops."""
    # A stack of the folders that are open: trees may be nested deeper than functions
    open_folders = [("", _identity(folder), iter(_entries(folder)))]
    while open_folders:
        prefix, _, entries = open_folders[-1]
        entry = next(entries, None)
        if entry is None:
            open_folders.pop()
        elif not os.path.isdir(entry.path):  # unlike entry.is_dir, False for a link that leads to itself
            yield prefix + entry.name
        elif (identity := _identity(entry.path)) not in {above for _, above, _ in open_folders}:
            open_folders.append((f"{prefix}{entry.name}/", identity, iter(_entries(entry.path))))


def _identity(folder: str | Path) -> tuple[int, int]:
    """The same for two paths only if they lead to one folder."""
    found = os.stat(folder)
    return found.st_dev, found.st_ino


def _entries(folder: str | Path) -> list[os.DirEntry[str]]:
    """What lies in a folder, by name."""
    with os.scandir(folder) as entries:
        return sorted((entry for entry in entries if not _is_litter(entry.name)), key=lambda entry: entry.name)


def _is_litter(name: str) -> bool:
    """Hidden files, and what operating systems leave behind."""
    return name.startswith(".") or name.lower() in LITTER


def _is_picture(root: Path, name: str) -> bool:
    if os.path.splitext(name)[1].lower() in PICTURE_SUFFIXES:
        return True
    path = root / name
    if not path.is_file():
        return False
    try:
        with quiet_pillow(), Image.open(path, formats=_formats(sniffing=True)):
            return True
    except Image.DecompressionBombError:  # recognised; decoding it will say why not
        return True
    except Exception:  # whatever Pillow raises here, the file is neither called a picture nor recognised as one
        return False


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def printable(path: str) -> str:
    """A path as it can be stored and shown: bytes of it that are not UTF-8 become escapes."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _dataset_name(path: Path) -> str:
    return path.resolve().stem if path.is_file() else path.resolve().name or "dataset"


def _list_label_file(path: Path) -> Listing:
    """``path<TAB>label`` or ``path label`` lines, or a CSV with ``path,label[,split]``; paths relative to the file."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise DatasetError(f"{path} is not a label file: expected UTF-8 text of lines `path<TAB>label`") from None
    if not text.strip() and path.suffix.lower() != ".csv":
        raise DatasetError(f"{path} is empty; expected lines `path<TAB>label`")
    rows = _csv_rows(path, text) if path.suffix.lower() == ".csv" else _line_rows(path, text)
    root = path.parent
    first: dict[str, int] = {}
    pictures, misplaced = [], {}
    for number, name, label, split in rows:
        name = _inside(root, name, f"{path}:{number}")
        if name in first:
            raise DatasetError(
                f"{path}:{number}: {name} was already named in line {first[name]}. Name each picture once"
            )
        first[name] = number
        pictures.append(Picture(name, label, split))
        if not os.path.exists(root / name):
            misplaced[name] = "no such file"
    pictures.sort(key=lambda p: p.path)
    return Listing(root, _dataset_name(path), tuple(pictures), misplaced)


def _line_rows(path: Path, text: str) -> Iterator[tuple[int, str, str, str]]:
    for number, line in enumerate(text.split("\n"), 1):  # splitlines() would also break names at U+2028
        if not line.strip() or (line.lstrip().startswith("#") and "\t" not in line):
            continue
        name, _, label = line.rpartition("\t") if "\t" in line else _at_a_space(path.parent, line.strip())
        if not name.strip() or not label.strip() or "\0" in line:
            raise DatasetError(f"{path}:{number}: expected `path<TAB>label`, got {line.strip()!r}")
        if "\t" in name.strip() and not os.path.exists(path.parent / name.strip()):
            raise DatasetError(f"{path}:{number}: more than one TAB; expected `path<TAB>label`. Splits need a CSV")
        yield number, name.strip(), label.strip(), ""


def _at_a_space(root: Path, line: str) -> tuple[str, str, str]:
    """``path label`` divided at the last space, or at an earlier one if only then there is such a file."""
    places = [match.start() for match in re.finditer(" ", line)][::-1]
    there = (at for at in places if os.path.isfile(root / line[:at].replace("\\", "/")))
    at = next(there, places[0] if places else len(line))
    return line[:at], " ", line[at + 1 :]


def _csv_rows(path: Path, text: str) -> Iterator[tuple[int, str, str, str]]:
    reader = csv.DictReader(io.StringIO(text), skipinitialspace=True)
    missing = {"path", "label"} - set(reader.fieldnames or [])
    if missing:
        raise DatasetError(
            f"{path}: a CSV needs a header line path,label[,split]; {', '.join(sorted(missing))} is missing"
        )
    for row in _rows_of(reader, path):
        if None in row:
            raise DatasetError(f"{path}:{reader.line_num}: more cells than the header has; quote a label with a comma")
        name, label, split = ((row.get(key) or "").strip() for key in ("path", "label", "split"))
        if not name or not label:
            raise DatasetError(f"{path}:{reader.line_num}: every line needs a path and a label")
        if split and split.lower() not in SPLITS:
            raise DatasetError(
                f"{path}:{reader.line_num}: unknown split {split!r}; expected one of {', '.join(SPLITS)}"
            )
        yield reader.line_num, name, label, SPLITS.get(split.lower(), "")


def _rows_of(reader: csv.DictReader[str], path: Path) -> Iterator[dict[str, str]]:
    try:
        yield from reader
    except csv.Error as error:
        raise DatasetError(
            f"{path}:{reader.line_num}: not a readable CSV: {error}. Is a quotation mark left open?"
        ) from None


def _inside(root: Path, name: str, where: str) -> str:
    """The path relative to ``root``, Windows separators turned; an error if it leads out of it."""
    if not os.path.exists(root / name):
        name = name.replace("\\", "/")
    top = os.path.abspath(root)
    full = os.path.normpath(os.path.join(top, name))
    if not Path(full).is_relative_to(top) or full == top:
        raise DatasetError(f"{where}: {name} leads out of {root}; paths in a label file stay below the file's folder")
    return Path(full).relative_to(top).as_posix()


# ----------------------------------------------------------------------------------------------------------- decoding


def read_file(path: str | Path) -> bytes:
    """A regular file's bytes.

    Raises:
        FileReadError: it cannot be read, or is no regular file (reading a pipe or a device would hang).
    """
    try:
        with open(path, "rb", opener=lambda p, flags: os.open(p, flags | getattr(os, "O_NONBLOCK", 0))) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise FileReadError("not a regular file")
            return file.read()
    except IsADirectoryError:
        raise FileReadError("not a regular file") from None
    except MemoryError:
        raise FileReadError("there was not enough memory to read it; run again") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or str(error)
        raise FileReadError(f"cannot be read: {reason.lower()}") from None


def decode(data: bytes, max_pixels: int = MAX_PIXELS, enough: int | None = None) -> NDArray[np.uint8]:
    """Decode a file's bytes to ``uint8 (h, w, 3)`` RGB, 0 to 255.

    The type is told by content. EXIF orientation is applied, gray repeated, alpha dropped, palettes resolved, CMYK
    converted, 16 bits scaled to 8, and of an animation the first frame is taken.

    Args:
        data: the file's bytes.
        max_pixels: that it may have.
        enough: if given, a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size, as long as each side keeps so many
            pixels: several times faster for a large one.

    Raises:
        PictureError: it is no picture, is damaged, or has more than ``max_pixels`` pixels.
    """
    if not data:
        raise PictureError("the file is empty")
    try:
        with Image.open(io.BytesIO(data), formats=_formats()) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise PictureError(f"{width} x {height} pixels are more than --max-pixels {max_pixels}")
            if getattr(image, "tag_v2", {}).get(TIFF_SUBFILE, 0) & 1:  # as in a camera's raw files
                raise PictureError("its first image is a reduced preview of another; convert it to JPEG or PNG first")
            if enough and image.format in DRAFTED:
                image.draft(None, (enough, enough))  # None: the colours as they are
            image.load()
            _turn_upright(image)
            return np.asarray(_to_rgb(image))
    except PictureError:
        raise
    except UnidentifiedImageError:
        raise PictureError("not a picture in a format that can be read") from None
    except MemoryError:
        raise FileReadError("there was not enough memory to decode it; run again") from None
    except Image.DecompressionBombError as error:
        count = re.search(r"\d+", str(error))
        raise PictureError(f"{count[0] if count else 'its'} pixels are more than --max-pixels {max_pixels}") from None
    except Exception as error:  # decoders of damaged files raise anything: struct.error, SyntaxError, IndexError, ...
        raise PictureError(f"damaged: {one_line(error)}") from error


def measure(data: bytes, image: NDArray[np.uint8]) -> tuple[str, int, int]:
    """Format by content (``JPEG``, ``PNG``, ...), width and height of a file, upright; nothing is decoded again.

    Args:
        data: the file's bytes.
        image: what :func:`decode` made of them, perhaps a draft.
    """
    height, width = image.shape[:2]
    with Image.open(io.BytesIO(data), formats=_formats()) as file:
        if file.format in DRAFTED:
            width, height = file.size
            if file.getexif().get(ExifTags.Base.Orientation) in LYING:
                width, height = height, width
        return file.format or "", width, height


def resize(image: NDArray[np.uint8], size: int, how: str = "stretch") -> NDArray[np.uint8]:
    """Resize ``uint8 (h, w, 3)`` to ``uint8 (size, size, 3)``, bilinear with antialiasing.

    ``stretch`` changes the aspect ratio, ``crop`` scales the shorter side and cuts the middle out, ``pad`` scales the
    longer side and fills up with black.
    """
    if how not in RESIZES:
        raise ValueError(f"resize must be one of {', '.join(RESIZES)}. Got {how!r} instead.")
    height, width = image.shape[:2]
    if (height, width) == (size, size):
        return image
    pillow = Image.fromarray(image)
    if how == "stretch":
        return np.asarray(pillow.resize((size, size), Image.Resampling.BILINEAR))
    if how == "crop":
        box = square_on(height, width, size, how)
        return np.asarray(pillow.resize((size, size), Image.Resampling.BILINEAR, box=box))
    scale = size / max(width, height)
    inner = (max(1, round(width * scale)), max(1, round(height * scale)))
    canvas = Image.new("RGB", (size, size))
    canvas.paste(pillow.resize(inner, Image.Resampling.BILINEAR), ((size - inner[0]) // 2, (size - inner[1]) // 2))
    return np.asarray(canvas)


def square_on(height: int, width: int, size: int, how: str = "stretch") -> tuple[float, float, float, float]:
    """Where the square that :func:`resize` gives lies on the picture: left, top, right and bottom in its pixels.

    With ``pad`` it reaches beyond the picture, with ``crop`` it is smaller.
    """
    if how == "stretch":
        return 0.0, 0.0, float(width), float(height)
    if how == "crop":
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        return left, top, left + side, top + side
    scale = size / max(width, height)
    inner = (max(1, round(width * scale)), max(1, round(height * scale)))
    left, top = (-((size - side) // 2) * whole / side for side, whole in zip(inner, (width, height), strict=True))
    return left, top, left + size * width / inner[0], top + size * height / inner[1]


@contextmanager
def quiet_pillow(max_pixels: int = MAX_PIXELS) -> Iterator[None]:
    """Silence Pillow, whose warnings the quarantine replaces, and give it ``max_pixels`` as its own limit.

    Pillow knows of pictures inside pictures (icons) and of frames, before memory is taken for them.

    To be entered once around a loop, in the thread that starts the workers: warning filters are the process's.
    """
    logger = logging.getLogger("PIL")
    limit, level = Image.MAX_IMAGE_PIXELS, logger.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger.setLevel(logging.CRITICAL)
        Image.MAX_IMAGE_PIXELS = -(-max_pixels // 2)  # it refuses from twice its limit on
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit
            logger.setLevel(level)


@cache
def _formats(sniffing: bool = False) -> list[str]:
    """The formats to try: those of ours that this build of Pillow has."""
    Image.init()
    return [f for f in FORMATS if f in Image.OPEN and not (sniffing and f in UNSIGNED_FORMATS)]


def _turn_upright(image: Image.Image) -> None:
    try:
        ImageOps.exif_transpose(image, in_place=True)
    except Exception as error:  # damaged EXIF says nothing about the pixels, which are decoded already
        logger.debug("orientation not read: %s", error)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits a pixel, or 32 that hold 16
        return Image.fromarray(_scaled_to_8_bits(image)).convert("RGB")
    if image.mode == "F":
        raise PictureError("floating-point pixels have no agreed range; save it with 8 or 16 bits")
    if image.mode == "P" and "transparency" in image.info:
        return image.convert("RGBA").convert("RGB")  # straight to RGB, Pillow may look for a colour key and warn
    return image if image.mode == "RGB" else image.convert("RGB")


def _scaled_to_8_bits(image: Image.Image) -> NDArray[np.uint8]:
    tags = getattr(image, "tag_v2", {})
    bits = tags.get(258, (16,))  # TIFF BitsPerSample: 12-bit scans arrive in 16-bit pixels
    top = 2 ** min(bits[0], 16) - 1
    scaled: NDArray[np.uint8] = np.rint(np.arange(top + 1) * (255 / top)).astype(np.uint8)
    shown: NDArray[np.uint8] = scaled[np.clip(np.asarray(image), 0, top)]
    return shown
