"""Listing: the pictures of a data set, sorted and relative to its root. Nothing is split, and no picture decoded."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from featx.errors import DatasetError
from featx.pictures.dataset import SPLITS, Listing, Picture, dataset_name, is_utf8
from featx.pictures.decoding import recognised
from featx.pictures.label_files import list_label_file

logger = logging.getLogger(__name__)

LITTER = {"thumbs.db", "desktop.ini", "__macosx", "icon\r"}  # left behind by operating systems

# A file with one of these suffixes is meant as a picture, and is listed even if it cannot be read: then it is
# quarantined with its reason. Any other file is listed only if its first bytes are a picture's.
PICTURE_SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .png .apng .gif .bmp .dib .webp .tif .tiff .ppm .pgm .pbm .pnm .tga .ico .icns .jp2 .j2k "
    ".jpx .avif .avifs .psd .pcx .sgi .qoi .dds .mpo .heic .heif .jxl .dng .cr2 .cr3 .nef .arw".split()
)


def list_dataset(dataset: str | Path) -> Listing:
    """List a data set: its pictures with their labels and splits, sorted. None is decoded.

    Args:
        dataset: a folder of ``CLASS/*`` or ``{train,val,valid,validation,test}/CLASS/*``, a flat folder, or a label
            file: lines of ``path<TAB>label`` or ``path label``, or a CSV with ``path,label[,split]``.

    Returns:
        The pictures, and whatever else lies in the folder.

    Raises:
        DatasetError: no such data set, no picture in it, or a layout that could be read in two ways.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import featx
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name in ["cat", "dog"]:
        ...     (folder / name).mkdir()
        ...     (folder / name / "1.jpg").touch()
        >>> listing = featx.list_dataset(folder)
        >>> listing.class_names
        ['cat', 'dog']
        >>> listing.pictures[0]
        Picture(path='cat/1.jpg', label='cat', split='')
    """
    path = Path(dataset)
    try:
        listing = _listing_of(path)
    except OSError as error:
        raise DatasetError(
            f"{error.filename or path} cannot be read: {(error.strerror or str(error)).lower()}"
        ) from None
    if listing is None:
        raise DatasetError(f"no such data set: {path}. Give a folder of pictures, or a label file (.csv, .tsv, .txt)")
    if not listing.pictures:
        others = f"; {len(listing.ignored)} other files were found" if listing.ignored else ""
        raise DatasetError(f"{path} holds no pictures{others}. Expected CLASS/*.jpg or train/CLASS/*.jpg below it")
    return listing


def _listing_of(path: Path) -> Listing | None:
    if os.path.isfile(path):
        return list_label_file(path)
    return _list_folder(path) if os.path.isdir(path) else None


def list_files(paths: Iterable[str | Path]) -> list[Path]:
    """Pictures named one by one (taken as they are) or by folder (searched like a data set), in the order given.

    Raises:
        DatasetError: a path that does not exist, or no pictures at all.
    """
    files: list[Path] = []
    empty: list[Path] = []
    for path in map(Path, paths):
        if os.path.isdir(path):
            pictures = [path / name for name in _walk(path) if _is_picture(path, name)]
            if not pictures:
                empty.append(path)
            files += pictures
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
    listed = set(pictures)
    ignored = tuple(n for n in names if n not in listed)
    folders = {n.split("/", 1)[0] for n in pictures if "/" in n}
    splits = _split_folders(root, pictures, folders)
    holding = {n.split("/")[0] for n in pictures if n.count("/") > 1}  # split folders that hold class folders
    placed = []
    misplaced = {}
    for name in pictures:
        *above, _file = name.split("/")
        split = ""
        if splits and above:
            split, *above = [SPLITS[above[0].lower()], *above[1:]]
        placed.append(Picture(name, above[0] if above else None, split))
        if not above and folders and (not split or name.split("/")[0] in holding):
            misplaced[name] = "lies beside the class folders, not in one"
        elif not is_utf8(name):
            misplaced[name] = "its name is not valid UTF-8; rename it"
    labels = {p.label for p in placed}
    empty = tuple(f for f in _class_folders(root, splits) if f.rsplit("/", 1)[-1] not in labels)
    return Listing(root, dataset_name(root), tuple(placed), misplaced, ignored, empty)


def _split_folders(root: Path, pictures: list[str], folders: set[str]) -> set[str]:
    """Top folders that are splits: named like one and holding class folders. All must be, or none."""
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
    """Device and inode of a folder: the same for two paths only if they lead to one folder."""
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _entries(folder: str | Path) -> list[os.DirEntry[str]]:
    """Entries of a folder but litter, by name."""
    with os.scandir(folder) as entries:
        return sorted((entry for entry in entries if not _is_litter(entry.name)), key=lambda entry: entry.name)


def _is_litter(name: str) -> bool:
    """Whether a file is hidden or left behind by an operating system."""
    return name.startswith(".") or name.lower() in LITTER


def _is_picture(root: Path, name: str) -> bool:
    if os.path.splitext(name)[1].lower() in PICTURE_SUFFIXES:
        return True
    path = root / name
    return path.is_file() and recognised(path)
