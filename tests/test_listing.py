"""Listing data sets: folders, files of all sorts, label files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from conftest import at_most
from shared_pictures import PNG, put

from featx.errors import DatasetError, PictureError
from featx.pictures import Picture, decode, list_dataset, list_files, read_file


def labels(root: Path) -> dict[str, str | None]:
    return {p.path: p.label for p in list_dataset(root).pictures}


# ------------------------------------------------------------------------------------------------------- folder layouts


def test_class_folders(tmp_path: Path) -> None:
    listing = list_dataset(put(tmp_path / "pets", "dogs/b.png", "cats/2.png", "cats/1.png"))
    assert listing.pictures == (
        Picture("cats/1.png", "cats"),
        Picture("cats/2.png", "cats"),
        Picture("dogs/b.png", "dogs"),
    )
    assert listing.class_names == ["cats", "dogs"]
    assert (listing.name, listing.root) == ("pets", tmp_path / "pets")
    assert (listing.misplaced, listing.ignored, listing.empty_classes) == ({}, (), ())


@pytest.mark.parametrize(
    ("folder", "split"),
    [
        ("train", "train"),
        ("val", "validation"),
        ("valid", "validation"),
        ("validation", "validation"),
        ("test", "test"),
        ("Train", "train"),
        ("TEST", "test"),
    ],
)
def test_each_split_folder(tmp_path: Path, folder: str, split: str) -> None:
    listing = list_dataset(put(tmp_path, f"{folder}/cats/1.png", f"{folder}/dogs/1.png"))
    assert [(p.label, p.split) for p in listing.pictures] == [("cats", split), ("dogs", split)]


def test_split_folders_together(tmp_path: Path) -> None:
    listing = list_dataset(put(tmp_path, "train/a/1.png", "train/b/1.png", "valid/a/2.png", "test/b/3.png"))
    assert {p.path: (p.label, p.split) for p in listing.pictures} == {
        "test/b/3.png": ("b", "test"),
        "train/a/1.png": ("a", "train"),
        "train/b/1.png": ("b", "train"),
        "valid/a/2.png": ("a", "validation"),
    }


def test_flat_folder_has_no_labels(tmp_path: Path) -> None:
    listing = list_dataset(put(tmp_path, "b.png", "a.png"))
    assert listing.pictures == (Picture("a.png"), Picture("b.png"))
    assert (listing.class_names, listing.misplaced) == ([], {})


def test_flat_unlabelled_test_folder_beside_train_classes(tmp_path: Path) -> None:
    listing = list_dataset(put(tmp_path, "train/cats/1.png", "train/dogs/1.png", "test/7.png"))
    assert {p.path: (p.label, p.split) for p in listing.pictures}["test/7.png"] == (None, "test")
    assert (listing.class_names, listing.misplaced) == (["cats", "dogs"], {})


def test_nested_class_folders_take_the_top_name(tmp_path: Path) -> None:
    root = put(tmp_path, "cats/tabby/young/1.png", "cats/2.png", "dogs/pug/1.png")
    assert labels(root) == {"cats/2.png": "cats", "cats/tabby/young/1.png": "cats", "dogs/pug/1.png": "dogs"}


def test_nested_class_folders_in_splits(tmp_path: Path) -> None:
    root = put(tmp_path, "train/cats/tabby/1.png", "test/dogs/pug/1.png")
    assert [(p.label, p.split) for p in list_dataset(root).pictures] == [("dogs", "test"), ("cats", "train")]


def test_a_class_named_train(tmp_path: Path) -> None:
    """Trains, cars and planes are classes: a split folder is one that holds class folders."""
    listing = list_dataset(put(tmp_path, "train/1.png", "car/1.png", "plane/1.png"))
    assert [(p.label, p.split) for p in listing.pictures] == [("car", ""), ("plane", ""), ("train", "")]


def test_split_and_class_folders_mixed(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"train/ looks like a split, but birds/ is none of") as caught:
        list_dataset(put(tmp_path, "train/cats/1.png", "birds/1.png"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("names", [["1.png", "cats/1.png"], ["1.png", "train/cats/1.png", "test/cats/2.png"]])
def test_picture_beside_class_folders_is_misplaced(tmp_path: Path, names: list[str]) -> None:
    listing = list_dataset(put(tmp_path, *names))
    assert list(listing.misplaced) == ["1.png"] and "beside the class folders" in listing.misplaced["1.png"]
    assert {p.path: p.label for p in listing.pictures}["1.png"] is None
    assert listing.class_names == ["cats"]


def test_picture_beside_the_class_folders_of_a_split_is_misplaced(tmp_path: Path) -> None:
    """It has no label, so it cannot train anything; and the split is not a flat, unlabelled one."""
    listing = list_dataset(put(tmp_path, "train/cats/1.png", "train/dogs/1.png", "train/stray.png"))
    assert list(listing.misplaced) == ["train/stray.png"]


def test_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="holds no pictures"):
        list_dataset(tmp_path)


def test_folder_without_pictures_counts_what_it_has(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="holds no pictures; 2 other files were found"):
        list_dataset(put(tmp_path, "a/notes.txt", "b/data.csv", data=b"hello"))


@pytest.mark.parametrize("name", ["nothing", "nothing.csv", "y" * 300])
def test_no_such_data_set(tmp_path: Path, name: str) -> None:
    with pytest.raises(DatasetError, match="no such data set"):
        list_dataset(tmp_path / name)


def test_empty_class_folder_is_named(tmp_path: Path) -> None:
    root = put(tmp_path, "cats/1.png", "train.txt")
    (root / "dogs").mkdir()
    put(root, "fish/notes.txt", data=b"none yet")
    listing = list_dataset(root)
    assert listing.empty_classes == ("dogs", "fish")
    assert listing.class_names == ["cats"]


def test_empty_class_folder_in_a_split_is_named(tmp_path: Path) -> None:
    root = put(tmp_path, "train/cats/1.png", "test/cats/2.png")
    (root / "train" / "dogs").mkdir()
    assert list_dataset(root).empty_classes == ("train/dogs",)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["10", "9", "2", "0"], ["0", "2", "9", "10"]),
        (["10", "9", "b"], ["10", "9", "b"]),
        (["01", "1", "2"], ["01", "1", "2"]),
        (["-1", "1"], ["-1", "1"]),
        (["b", "B", "a"], ["B", "a", "b"]),
    ],
)
def test_class_names_sort_as_numbers_if_all_are(tmp_path: Path, names: list[str], expected: list[str]) -> None:
    assert list_dataset(put(tmp_path, *[f"{n}/1.png" for n in names])).class_names == expected


def test_listing_is_sorted_and_the_same_from_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = put(tmp_path / "set", "b/10.png", "b/9.png", "a/x.png", "a.b/1.png", "B/1.png")
    from_afar = list_dataset(root)
    paths = [p.path for p in from_afar.pictures]
    assert paths == sorted(paths) and len(paths) == 5
    monkeypatch.chdir(root)
    here = list_dataset(".")
    assert (here.pictures, here.name) == (from_afar.pictures, "set")


# --------------------------------------------------------------------------------------------------- files of all sorts


def test_litter_and_hidden_files_are_not_listed(tmp_path: Path) -> None:
    put(tmp_path, "cats/1.png", "cats/._1.png", "cats/.hidden.jpg", ".cache/x/1.png", "__MACOSX/cats/1.png")
    put(tmp_path, "cats/Thumbs.db", "cats/desktop.ini", "cats/.DS_Store", "cats/Icon\r", data=b"litter")
    listing = list_dataset(tmp_path)
    assert [p.path for p in listing.pictures] == ["cats/1.png"]
    assert (listing.ignored, listing.empty_classes) == ((), ())


def test_file_without_suffix_is_told_by_content(tmp_path: Path) -> None:
    put(tmp_path, "cats/IMG_0001", "cats/photo.bin")
    put(tmp_path, "cats/README", data=b"All cats were asleep.")
    listing = list_dataset(tmp_path)
    assert [p.path for p in listing.pictures] == ["cats/IMG_0001", "cats/photo.bin"]
    assert listing.ignored == ("cats/README",)


def test_anything_with_a_picture_suffix_is_listed(tmp_path: Path) -> None:
    """So that it is quarantined with its reason, instead of missing from the count."""
    put(tmp_path, "cats/text.jpg", "cats/shot.HEIC", "cats/raw.nef", data=b"this is no picture")
    put(tmp_path, "cats/empty.png", data=b"")
    assert [p.path for p in list_dataset(tmp_path).pictures] == [
        "cats/empty.png",
        "cats/raw.nef",
        "cats/shot.HEIC",
        "cats/text.jpg",
    ]


def test_other_files_are_ignored_but_named(tmp_path: Path) -> None:
    put(tmp_path, "cats/1.png")
    put(tmp_path, "labels.csv", "cats/1.txt", "cats/1.xml", "cats/movie.mp4", data=b"a,b,c\n1,2,3\n")
    assert list_dataset(tmp_path).ignored == ("cats/1.txt", "cats/1.xml", "cats/movie.mp4", "labels.csv")


def test_every_file_is_accounted_for(tmp_path: Path) -> None:
    """26,111 pictures, 26,109 names, 26,107 rows: not here (thingsvision#3)."""
    suffixes = (".png", ".JPG", "", " (1).jpeg", ".txt.png")
    put(tmp_path, "stray.png", *[f"{c}/{n}{s}" for c in "ab" for n in range(5) for s in suffixes])
    put(tmp_path, "a/notes.txt", "b/notes.txt", data=b"notes")
    listing = list_dataset(tmp_path)
    paths = [p.path for p in listing.pictures]
    assert len(paths) == len(set(paths)) == 51
    assert len(listing.ignored) == 2 and set(listing.misplaced) <= set(paths)


@pytest.mark.parametrize(
    "name", ["two\nlines.png", "tab\there.png", "quote'\".png", " space .png", "ペンギン ü.png", "-r.png"]
)
def test_odd_names_are_listed_and_read(tmp_path: Path, name: str) -> None:
    root = put(tmp_path, f"cats/{name}")
    listing = list_dataset(root)
    assert [p.path for p in listing.pictures] == [f"cats/{name}"]
    assert listing.misplaced == {}
    assert decode(read_file(root / listing.pictures[0].path)).shape == (3, 4, 3)


def test_name_that_is_not_utf8_is_misplaced(tmp_path: Path) -> None:
    put(tmp_path, "cats/1.png")
    try:
        (tmp_path / os.fsdecode(b"cats/caf\xe9.png")).write_bytes(PNG)
        (tmp_path / os.fsdecode(b"p\xeches")).mkdir()
        (tmp_path / os.fsdecode(b"p\xeches/1.png")).write_bytes(PNG)
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    listing = list_dataset(tmp_path)
    assert len(listing.pictures) == 3
    assert sorted(map(os.fsencode, listing.misplaced)) == [b"cats/caf\xe9.png", b"p\xeches/1.png"]
    assert all("UTF-8" in reason for reason in listing.misplaced.values())
    assert listing.class_names == ["cats"]


def test_loop_of_folder_links_ends(tmp_path: Path) -> None:
    put(tmp_path, "cats/1.png", "dogs/1.png")
    (tmp_path / "cats" / "up").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "dogs" / "self").symlink_to(".", target_is_directory=True)
    with at_most():
        paths = [p.path for p in list_dataset(tmp_path).pictures]
    assert paths == ["cats/1.png", "dogs/1.png"]


@pytest.mark.parametrize("name", ["loop", "loop.jpg"])
def test_link_to_itself(tmp_path: Path, name: str) -> None:
    """It leads nowhere, like any broken link: listed if it is named like a picture."""
    put(tmp_path, "cats/1.png")
    (tmp_path / "cats" / name).symlink_to(name)
    paths = [p.path for p in list_dataset(tmp_path).pictures]
    assert paths == ["cats/1.png"] + [f"cats/{name}"] * name.endswith(".jpg")


def test_broken_link_is_listed_by_its_suffix(tmp_path: Path) -> None:
    put(tmp_path, "cats/1.png")
    (tmp_path / "cats" / "gone.jpg").symlink_to("nowhere.jpg")
    (tmp_path / "cats" / "gone").symlink_to("nowhere")
    listing = list_dataset(tmp_path)
    assert [p.path for p in listing.pictures] == ["cats/1.png", "cats/gone.jpg"]
    with pytest.raises(PictureError, match="cannot be read: no such file"):
        read_file(tmp_path / "cats" / "gone.jpg")


def test_linked_class_folder_is_followed(tmp_path: Path) -> None:
    put(tmp_path, "elsewhere/1.png", "set/dogs/1.png")
    (tmp_path / "set" / "cats").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert labels(tmp_path / "set") == {"cats/1.png": "cats", "dogs/1.png": "dogs"}


def test_unreadable_folder_is_a_data_set_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "cats/1.png", "locked/1.png")
    scandir = os.scandir

    def refuse(path: Any) -> Any:
        if os.fspath(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DatasetError, match="locked"):
        list_dataset(tmp_path)


def test_pipe_in_a_folder_does_not_hang_the_listing(tmp_path: Path) -> None:
    put(tmp_path, "cats/1.png")
    os.mkfifo(tmp_path / "cats" / "pipe")
    os.mkfifo(tmp_path / "cats" / "pipe.png")
    with at_most():
        listing = list_dataset(tmp_path)
    assert [p.path for p in listing.pictures] == ["cats/1.png", "cats/pipe.png"]
    assert listing.ignored == ("cats/pipe",)


def test_list_files_keeps_the_order_given(tmp_path: Path) -> None:
    root = put(tmp_path, "z.png", "folder/b.png", "folder/a/1.png", "a.jpg", "folder/.hidden.png")
    put(tmp_path, "folder/notes.txt", "named.txt", data=b"notes")
    assert list_files([root / "z.png", root / "folder", str(root / "named.txt"), root / "a.jpg"]) == [
        root / "z.png",
        root / "folder/a/1.png",
        root / "folder/b.png",
        root / "named.txt",
        root / "a.jpg",
    ]


@pytest.mark.parametrize("name", ["gone.png", "n" * 300 + ".png"])
def test_list_files_names_what_is_missing(tmp_path: Path, name: str) -> None:
    with pytest.raises(DatasetError, match="no such file"):
        list_files([put(tmp_path, "1.png") / "1.png", tmp_path / name])


def test_list_files_of_a_folder_without_pictures(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="holds no pictures"):
        list_files([tmp_path])


# ---------------------------------------------------------------------------------------------------------- label files


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    return put(tmp_path / "pets", "cats/1.png", "cats/2 b.png", "dogs/1.png")


def label_file(root: Path, text: str | bytes, name: str = "labels.txt") -> Path:
    (root / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return root / name


def rows(file: Path) -> list[tuple[str, str | None, str]]:
    return [(p.path, p.label, p.split) for p in list_dataset(file).pictures]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("tabs.tsv", "dogs/1.png\tdog\ncats/1.png\tcat\ncats/2 b.png\tcat\n"),
        ("spaces.txt", "dogs/1.png dog\ncats/1.png cat\ncats/2 b.png cat\n"),
        ("aligned.txt", "dogs/1.png    dog\ncats/1.png    cat  \ncats/2 b.png  cat"),
        ("both.txt", "dogs/1.png\tdog\ncats/1.png cat\n\n  \ncats/2 b.png\tcat\n"),
        ("comments.txt", "# path label\ndogs/1.png dog\n  # more\ncats/1.png cat\ncats/2 b.png\tcat\n"),
        ("windows.txt", "dogs\\1.png\tdog\r\ncats\\1.png\tcat\r\ncats\\2 b.png\tcat\r\n"),
        ("bom.txt", "\ufeffdogs/1.png\tdog\ncats/1.png\tcat\ncats/2 b.png\tcat\n"),
        ("dots.txt", "./dogs/1.png\tdog\ndogs/../cats/1.png\tcat\ncats//2 b.png\tcat\n"),
        ("plain.csv", "path,label\ndogs/1.png,dog\ncats/1.png,cat\ncats/2 b.png,cat\n"),
        ("swapped.CSV", 'label,other,path\ndog,x,dogs/1.png\n"cat",y,"cats/1.png"\ncat,,cats/2 b.png\n'),
        ("bom.csv", "\ufeffpath, label\r\ndogs\\1.png, dog\r\n\r\ncats\\1.png, cat\r\ncats\\2 b.png, cat\r\n"),
    ],
)
def test_label_files(pets: Path, name: str, text: str) -> None:
    file = label_file(pets, text, name)
    assert rows(file) == [("cats/1.png", "cat", ""), ("cats/2 b.png", "cat", ""), ("dogs/1.png", "dog", "")]
    listing = list_dataset(file)
    assert (listing.name, listing.root, listing.misplaced) == (file.stem, pets, {})


def test_label_with_spaces_after_a_tab(pets: Path) -> None:
    assert rows(label_file(pets, "cats/2 b.png\tBritish shorthair\n")) == [("cats/2 b.png", "British shorthair", "")]


def test_csv_with_splits(pets: Path) -> None:
    text = "path,label,split\ncats/1.png,cat,train\ncats/2 b.png,cat,Val\ndogs/1.png,dog,\n"
    assert [split for _, _, split in rows(label_file(pets, text, "l.csv"))] == ["train", "validation", ""]


@pytest.mark.parametrize("name", ["../secret.png", "cats/../../secret.png", "..\\secret.png", "/etc/passwd", "."])
@pytest.mark.parametrize("kind", ["txt", "csv"])
def test_path_that_leads_out_is_refused(pets: Path, name: str, kind: str) -> None:
    put(pets.parent, "secret.png")
    text = f"path,label\n{name},cat\n" if kind == "csv" else f"{name}\tcat\n"
    with pytest.raises(DatasetError, match=rf"labels.{kind}:\d: .*leads out of") as caught:
        list_dataset(label_file(pets, text, f"labels.{kind}"))
    assert "\n" not in str(caught.value)


def test_absolute_path_inside_is_made_relative(pets: Path) -> None:
    assert rows(label_file(pets, f"{pets}/cats/1.png\tcat\n")) == [("cats/1.png", "cat", "")]


def test_folder_with_the_same_beginning_is_outside(pets: Path) -> None:
    put(pets.parent, "pets2/1.png")
    with pytest.raises(DatasetError, match="leads out"):
        list_dataset(label_file(pets, f"{pets}2/1.png\tcat\n"))


@pytest.mark.parametrize("again", ["cats/1.png", "./cats/1.png", "cats\\1.png", "dogs/../cats/1.png"])
def test_duplicates_are_refused_with_both_lines(pets: Path, again: str) -> None:
    with pytest.raises(DatasetError, match=r"labels.txt:4: cats/1.png was already named in line 2"):
        list_dataset(label_file(pets, f"# two\ncats/1.png\tcat\ndogs/1.png\tdog\n{again}\tdog\n"))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("l.txt", "cats/1.png\n", r"l.txt:1: expected `path<TAB>label`, got 'cats/1.png'"),
        ("l.txt", "dogs/1.png dog\ncats/1.png\t\n", r"l.txt:2: expected `path<TAB>label`"),
        ("l.txt", "\tcat\n", r"l.txt:1: expected `path<TAB>label`"),
        ("l.csv", "path,label\ncats/1.png,\n", r"l.csv:2: every line needs a path and a label"),
        ("l.csv", "path,label\n,cat\n", r"l.csv:2: every line needs a path and a label"),
        ("l.csv", "path,label\ncats/1.png\n", r"l.csv:2: every line needs a path and a label"),
        ("l.csv", "file,label\ncats/1.png,cat\n", r"needs a header line path,label\[,split\]; path is missing"),
        ("l.csv", "cats/1.png,cat\n", r"label, path is missing"),
        ("l.csv", "", r"label, path is missing"),
        ("l.csv", "path,label,split\ncats/1.png,cat,dev\n", r"l.csv:2: unknown split 'dev'; expected one of train, "),
        ("l.txt", "", "l.txt is empty; expected lines"),
        ("l.txt", "# nothing\n\n", "holds no pictures"),
        ("l.csv", "path,label\n", "holds no pictures"),
    ],
)
def test_label_file_that_cannot_be_used(pets: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(DatasetError, match=message) as caught:
        list_dataset(label_file(pets, text, name))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [PNG, "cats/1.png\tcat\n".encode("utf-16"), "cats/é.png\tcat\n".encode("latin-1")])
def test_label_file_must_be_utf8(pets: Path, data: bytes) -> None:
    with pytest.raises(DatasetError, match="is not a label file: expected UTF-8"):
        list_dataset(label_file(pets, data))


def test_csv_with_an_unbalanced_quote(pets: Path) -> None:
    """The reader takes all that follows for one field, and gives up at 128 KiB."""
    with pytest.raises(DatasetError, match="l.csv"):
        list_dataset(label_file(pets, 'path,label\n"cats/1.png,cat\n' + "dogs/1.png,dog\n" * 10_000, "l.csv"))


@pytest.mark.parametrize("gone", ["cats/gone.png", "birds/1.png", "cats/1.png/x.png", "x" * 300 + ".png"])
def test_missing_file_is_misplaced(pets: Path, gone: str) -> None:
    """A line of the quarantine, not the end of the run."""
    listing = list_dataset(label_file(pets, f"{gone}\tbird\ncats/1.png\tcat\n"))
    assert len(listing.pictures) == 2
    assert list(listing.misplaced) == [gone]
    assert listing.class_names == ["cat"]
