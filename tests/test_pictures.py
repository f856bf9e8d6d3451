"""Pictures as they come: Pillow kept quiet, real files, drafts, extremes."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import picture
from PIL import Image, ImageFile
from shared_pictures import PNG, encode, is_rgb

import featx
from featx.errors import DatasetError, FeatxError, FileReadError, PictureError
from featx.pictures import (
    MAX_PIXELS,
    RESIZES,
    Picture,
    decode,
    list_dataset,
    list_files,
    quiet_pillow,
    read_file,
    resize,
)

# --------------------------------------------------------------------------------------------------------- quiet Pillow


@pytest.mark.parametrize("fails", [False, True])
def test_quiet_pillow_restores_everything(fails: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 12345)
    log = logging.getLogger("PIL")
    level, filters = log.level, list(warnings.filters)
    try:
        with quiet_pillow(), quiet_pillow():
            assert Image.MAX_IMAGE_PIXELS == MAX_PIXELS // 2  # Pillow refuses from twice its limit on
            warnings.warn("unheard", stacklevel=1)
            if fails:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    assert Image.MAX_IMAGE_PIXELS == 12345
    assert log.level == level and list(warnings.filters) == filters
    with pytest.raises(UserWarning):
        warnings.warn("heard again", stacklevel=1)


# ----------------------------------------------------------------------------------------------------------- real files


def awkward_files(shared: Path) -> list[Path]:
    return sorted(p for p in (shared / "data" / "awkward").rglob("*") if p.is_file() and p.suffix != ".json")


def test_awkward_files_decode_or_say_why(
    shared: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    files = awkward_files(shared)
    wrong, decoded = {}, 0
    unpacked, real = [], ImageFile.ImageFile.load

    def load(self: ImageFile.ImageFile) -> Any:
        unpacked.append(self.width * self.height)
        return real(self)

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    with quiet_pillow():
        for file in files:
            try:
                image = decode(read_file(file))
            except PictureError as error:
                if not str(error) or "\n" in str(error) or str(file) in str(error):
                    wrong[file.name] = repr(error)
            else:
                decoded += 1
                if not is_rgb(image):
                    wrong[file.name] = f"{image.dtype} {image.shape}"
    assert wrong == {}
    assert 100 < decoded < len(files)
    assert capfd.readouterr() == ("", "")
    assert len(unpacked) >= decoded and max(unpacked) <= MAX_PIXELS, "bombs are refused, not unpacked"


def test_awkward_files_that_pillow_cannot_load(shared: Path) -> None:
    root = shared / "data" / "awkward"
    says = json.loads((root / "PILLOW_SAYS.json").read_text(encoding="utf-8"))["files"]
    accepted, refused = [], []
    with quiet_pillow():
        for row in says:
            try:
                decode(read_file(root / row["file"]))
            except PictureError as error:
                refused.append((row, str(error)))
            else:
                accepted.append(row)
    assert [row["file"] for row in accepted if row["load"] != "ok"] == []
    bombs = [reason for row, reason in refused if "DecompressionBomb" in row["load"]]
    assert len(bombs) == 3 and all("max_pixels" in reason for reason in bombs)
    # Pillow reads the pixels of these two on a second try, after an error in the first
    assert {row["file"] for row, _ in refused if row["load"] == "ok"} <= {
        "corrupt/broken_data_stream.png",
        "corrupt/truncated_end_chunk.png",
    }


def test_awkward_folder_is_listed_whole(shared: Path) -> None:
    listing = list_dataset(shared / "data" / "awkward")
    seen = {p.path for p in listing.pictures}
    on_disk = {p.relative_to(listing.root).as_posix() for p in awkward_files(shared)}
    assert seen <= on_disk
    assert on_disk - seen == {"made/._macos_resource.jpg", "made/.hidden.jpg", "made/Thumbs.db"}
    assert (listing.ignored, listing.misplaced, listing.empty_classes) == (("PILLOW_SAYS.json",), {}, ())
    assert "made" in listing.class_names and "exif" in listing.class_names


@pytest.mark.parametrize("scene", ["Landscape", "Portrait"])
def test_awkward_orientations_show_one_scene(shared: Path, scene: str) -> None:
    """Nine JPEGs of one scene, each turned another way and each with its number painted into the middle."""
    folder = shared / "data" / "awkward" / "exif"
    images = [decode(read_file(folder / f"{scene}_{n}.jpg")) for n in range(9)]
    assert {i.shape for i in images} == {(1200, 1800, 3) if scene == "Landscape" else (1800, 1200, 3)}
    small = [resize(i, 48).astype(int) for i in images]
    for other in small[1:]:
        assert np.abs(other - small[0]).mean() < 4
    for turned in (small[0][::-1], small[0][:, ::-1], np.rot90(small[0])):
        assert np.abs(turned - small[0]).mean() > 20


def test_errors_are_one_tree() -> None:
    assert issubclass(PictureError, DatasetError) and issubclass(DatasetError, FeatxError)


def test_memory_that_runs_out_is_not_taken_for_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    def short(*_: object) -> None:
        raise MemoryError

    data = io.BytesIO()
    picture(0, 0).save(data, "PNG")
    monkeypatch.setattr(ImageFile.ImageFile, "load", short)
    with pytest.raises(FileReadError, match="not enough memory"):
        decode(data.getvalue())


def test_a_preview_does_not_stand_for_its_picture() -> None:
    """Cameras' raw files are TIFFs whose first image is a small preview."""
    data = io.BytesIO()
    picture(0, 0).save(data, "TIFF", tiffinfo={254: 1})
    with pytest.raises(PictureError, match="reduced preview of another; convert it"):
        decode(data.getvalue())
    plain = io.BytesIO()
    picture(0, 0).save(plain, "TIFF", tiffinfo={254: 0})
    assert decode(plain.getvalue()).shape == (30, 40, 3)


@pytest.mark.parametrize("names", [("train", "test"), ("train", "val"), ("Train",), ("val", "test")])
def test_split_folders_without_class_folders_are_not_classes(tmp_path: Path, names: tuple[str, ...]) -> None:
    """Kaggle's dogs-vs-cats: train/cat.0.jpg. Nobody wants to tell train from test."""
    for name in names:
        (tmp_path / name).mkdir()
        picture(0, 0).save(tmp_path / name / "cat.0.png")
    with pytest.raises(DatasetError, match="is named like a split but holds no class folders. Expected .*/CLASS/"):
        list_dataset(tmp_path)


def test_a_flat_test_folder_alone_is_unlabelled(tmp_path: Path) -> None:
    (tmp_path / "test").mkdir()
    picture(0, 0).save(tmp_path / "test" / "a.png")
    assert list_dataset(tmp_path).pictures == (Picture("test/a.png", None, "test"),)


def test_labels_of_several_words(tmp_path: Path) -> None:
    for name in ("a.png", "b c.png"):
        picture(0, 0).save(tmp_path / name)
    (tmp_path / "labels.txt").write_text("a.png golden retriever\nb c.png cat\nnone.png dog\n")
    listing = list_dataset(tmp_path / "labels.txt")
    assert [(p.path, p.label) for p in listing.pictures] == [
        ("a.png", "golden retriever"),
        ("b c.png", "cat"),
        ("none.png", "dog"),
    ]
    assert listing.misplaced == {"none.png": "no such file"}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("l.tsv", "a.png\tcat\ttrain\n", "l.tsv:1: more than one TAB; .*Splits need a CSV"),
        ("l.tsv", "a.png\tcat\0\n", "l.tsv:1: expected `path<TAB>label`"),
        ("l.csv", "path,label\na.png,a,b\n", "l.csv:2: more cells than the header has; quote a label with a comma"),
        ("l.txt", "\n \n", "l.txt is empty; expected lines"),
    ],
)
def test_label_files_that_would_be_misread(tmp_path: Path, name: str, text: str, message: str) -> None:
    picture(0, 0).save(tmp_path / "a.png")
    (tmp_path / name).write_text(text)
    with pytest.raises(DatasetError, match=message):
        list_dataset(tmp_path / name)


def test_an_empty_folder_among_others_does_not_end_a_prediction(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "empty").mkdir()
    picture(0, 0).save(tmp_path / "a.png")
    assert list_files([tmp_path / "empty", tmp_path / "a.png"]) == [tmp_path / "a.png"]
    assert "empty holds no pictures" in caplog.text


# --------------------------------------------------------------------------------------------------------------- drafts


def photo(width: int, height: int, kind: str = "JPEG", **options: Any) -> bytes:
    """A photograph's smooth surfaces, with some grain."""
    y, x = np.mgrid[:height, :width]
    rng = np.random.default_rng(0)
    waves = [120 + 100 * np.sin(x / width * a + y / height * b) for a, b in ((9, 4), (5, 11), (14, 7))]
    grain = rng.normal(0, 3, (height, width, 3))
    return encode(Image.fromarray(np.clip(np.stack(waves, -1) + grain, 0, 255).astype(np.uint8)), kind, **options)


@pytest.mark.parametrize(
    ("size", "enough", "expected"),
    [
        ((1600, 1200), 448, (600, 800)),  # a half: 1200 // 448 is 2
        ((1600, 1200), 150, (150, 200)),  # an eighth
        ((1600, 1200), 100, (150, 200)),  # never less
        ((1600, 400), 448, (400, 1600)),  # the shorter side counts
        ((447, 447), 448, (447, 447)),
        ((900, 902), 448, (451, 450)),
    ],
)
def test_a_draft_has_as_many_pixels_as_are_needed(
    size: tuple[int, int], enough: int, expected: tuple[int, int]
) -> None:
    data = photo(*size)
    assert decode(data, draft_side=enough).shape == (*expected, 3)
    assert decode(data).shape == (*size[::-1], 3)


@pytest.mark.parametrize("how", RESIZES)
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0, "quality": 95}])
def test_a_drafts_picture_is_nearly_the_same(how: str, options: dict[str, Any]) -> None:
    data = photo(1200, 900, **options)
    full, draft = (resize(decode(data, draft_side=enough), 112, how).astype(float) for enough in (None, 224))
    assert 0 < np.abs(full - draft).mean() < 1


def test_a_draft_is_upright_and_in_colour() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = photo(1200, 800, exif=exif)
    assert decode(turned, draft_side=200).shape == (300, 200, 3)
    gray = encode(Image.open(io.BytesIO(photo(800, 800))).convert("L"), "JPEG")
    cmyk = encode(Image.open(io.BytesIO(photo(800, 800))).convert("CMYK"), "JPEG")
    for data in (gray, cmyk):
        full, draft = resize(decode(data), 100), resize(decode(data, draft_side=200), 100)
        assert np.abs(full.astype(float) - draft).mean() < 1.5


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_only_jpegs_have_drafts(kind: str) -> None:
    data = photo(600, 400, kind)
    assert np.array_equal(decode(data, draft_side=50), decode(data))


def test_a_phones_picture_of_several_pictures_has_a_draft() -> None:
    frames = [Image.open(io.BytesIO(photo(800, 600))), Image.open(io.BytesIO(photo(400, 300)))]
    data = encode(frames[0], "MPO", save_all=True, append_images=frames[1:])
    assert Image.open(io.BytesIO(data)).format == "MPO"
    assert decode(data, draft_side=300).shape == (300, 400, 3) and decode(data).shape == (600, 800, 3)


def test_a_damaged_jpeg_is_damaged_in_a_draft_too() -> None:
    with pytest.raises(PictureError, match="damaged"):
        decode(photo(1200, 900)[:20_000], draft_side=100)
    with pytest.raises(PictureError, match="1200 x 900 pixels are more than"):
        decode(photo(1200, 900), max_pixels=10**6, draft_side=100)


# ------------------------------------------------------------------------------------------------------------- extremes


def test_folders_may_be_nested_deeper_than_functions(tmp_path: Path) -> None:
    depth = sys.getrecursionlimit() + 200
    code = (
        "import os, sys\nos.chdir(sys.argv[1])\n"
        f"for _ in range({depth}):\n    os.mkdir('d')\n    os.chdir('d')\n"
        "open('deep.png', 'wb').write(sys.stdin.buffer.read())"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path], input=PNG, check=True)
    try:
        (picture_,) = list_dataset(tmp_path).pictures
        assert picture_.path == "d/" * depth + "deep.png" and picture_.label == "d"
    finally:
        subprocess.run(["rm", "-r", tmp_path / "d"], check=True)  # shutil recurses


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells a process's own peak")
def test_sixteen_bits_take_no_more_memory_than_colours() -> None:
    code = (
        "import io\nimport numpy as np\nfrom PIL import Image\nfrom featx.pictures import decode\n"
        "data = io.BytesIO()\nImage.fromarray(np.zeros((5000, 5000), np.uint16)).save(data, 'PNG')\n"
        "decode(data.getvalue())\nprint([line.split()[1] for line in open('/proc/self/status') if 'VmHWM' in line][0])"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(featx.__file__).parents[1])}
    said = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert int(said) * 1024 < 100e6 + 25e6 * 12, "12 bytes a pixel, and what Python takes"
