"""Extraction from the outside: kills, damage, mutated pictures, many files, odd names, links, clocks that jump."""

from __future__ import annotations

import io
import json
import os
import random
import re
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import at_most, disk_of, picture
from PIL import Image
from PIL import features as pillow_features
from typer.testing import CliRunner, Result

import featx
from featx.cli import app
from featx.extraction import Extraction
from featx.pictures import MAX_PIXELS

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(featx.__file__).parents[1]), "OPENBLAS_NUM_THREADS": "1"}
Make = Callable[..., Path]
Run = Callable[..., Extraction]


@pytest.fixture
def run(tmp_path: Path, tiny_backbone: str) -> Run:
    """``extract`` into ``tmp_path / "cache"`` by the tiny backbone."""

    def extract(dataset: Path, **options: Any) -> Extraction:
        usual = {"cache_dir": tmp_path / "cache", "backbone": tiny_backbone, "preprocess": "rescale", "batch_size": 32}
        return featx.extract(dataset, **{**usual, **options})

    return extract


@pytest.fixture
def own(tiny_backbone: str) -> tuple[str, ...]:
    """The options of the tiny backbone."""
    return "--backbone", tiny_backbone, "--preprocess", "rescale"


def command(*words: Any, code: int = 0) -> Result:
    """Run a command in this process."""
    result = CliRunner().invoke(app, [*map(str, words)])
    assert result.exit_code == code, result.output
    return result


def answer(*words: Any, code: int = 0) -> Any:
    """What a command says with --json."""
    stdout = command(*words, "--json", code=code).stdout
    assert stdout.count("\n") == 1
    return json.loads(stdout)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def values(done: Extraction) -> np.ndarray:
    return featx.load_features(done.features_path).stored()


# ---------------------------------------------------------------------------------------------------- mutated pictures


PNG = encoded(picture(0, 0, (32, 32)), "PNG")


def encoded_pictures() -> list[bytes]:
    """Small pictures in every format that Pillow can write and featx reads."""
    rgb, gray = picture(2, 5, (24, 18)), picture(0, 1, (24, 18)).convert("L")
    frames = {"save_all": True, "append_images": [picture(1, n, (24, 18)) for n in range(2)]}
    deep = Image.fromarray(np.asarray(gray).astype(np.uint16) * 257)
    exif = Image.Exif()
    exif[0x112] = 6
    wanted: list[tuple[Image.Image, str, dict[str, Any]]] = [
        (rgb, "JPEG", {}),
        (rgb, "JPEG", {"progressive": True, "subsampling": 0}),
        (rgb, "JPEG", {"exif": exif, "restart_marker_blocks": 1}),
        (rgb.convert("CMYK"), "JPEG", {}),
        (gray, "JPEG", {"optimize": True}),
        (rgb, "MPO", frames),
        *((rgb.convert(mode), "PNG", {}) for mode in ("1", "L", "LA", "P", "RGB", "RGBA")),
        (deep, "PNG", {}),
        (rgb, "PNG", frames),
        (rgb, "GIF", frames),
        (gray, "GIF", {"interlace": 0}),
        (rgb, "WEBP", {}),
        (rgb.convert("RGBA"), "WEBP", {"lossless": True}),
        (rgb, "WEBP", frames),
        *((rgb, "TIFF", {"compression": how}) for how in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")),
        *((rgb.convert("1"), "TIFF", {"compression": how}) for how in ("group3", "group4")),
        (deep, "TIFF", {}),
        (rgb, "BMP", {}),
        (rgb.convert("P"), "BMP", {}),
        (rgb, "ICO", {"sizes": [(16, 16)]}),
        (rgb, "ICO", {"sizes": [(16, 16)], "bitmap_format": "bmp"}),
        (rgb, "PPM", {}),
        (rgb, "TGA", {"compression": "tga_rle"}),
        (rgb.convert("P"), "PCX", {}),
        (rgb, "SGI", {}),
        (rgb, "QOI", {}),
        (rgb, "DDS", {}),
        (rgb.convert("RGBA").resize((24, 20)), "DDS", {"pixel_format": "DXT5"}),
        (rgb, "JPEG2000", {}),
        (rgb, "JPEG2000", {"irreversible": True, "tile_size": (16, 16)}),
    ]
    if pillow_features.check("avif"):
        wanted += [(rgb, "AVIF", {"speed": 10}), (rgb, "AVIF", {"speed": 10, **frames})]
    made = [encoded(image, kind, **options) for image, kind, options in wanted]
    inside = b"icp5" + (8 + len(PNG)).to_bytes(4, "big") + PNG
    return [*made, b"icns" + (8 + len(inside)).to_bytes(4, "big") + inside]


def mutated(rng: random.Random, seeds: list[bytes]) -> bytes:
    """A picture damaged in up to three ways, the first bytes mostly left alone so that its decoder gets far."""
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.choice([1, 1, 2, 3])):
        first = min(rng.choice([0, 16, 16, 32, 64]), len(data) - 1)
        at = rng.randrange(first, len(data))
        run = rng.choice([1, 2, 4, rng.randint(1, 64)])
        how = rng.randrange(9)
        if how in (0, 7, 8):
            data[at] ^= 1 << rng.randrange(8)
        elif how == 1:
            data[at : at + run] = rng.choice([b"\0", b"\xff", b"\x7f", b"\x80"]) * run
        elif how == 2:
            data[at : at + run] = rng.randbytes(run)
        elif how == 3:
            del data[max(at, 1) :]
        elif how == 4:
            other = rng.choice(seeds)
            data[at:] = other[rng.randrange(len(other)) :]
        elif how == 5:
            data[at:at] = rng.randbytes(run)
        else:
            data[at:at] = data[at : at + 64] * rng.randint(1, 4)
    return bytes(data)


TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def extracted(root: Path, cache: Path, *program: str) -> tuple[dict[str, Any], str]:
    """What a program of its own says of a data set, and what it writes to stderr: a crash shows as its exit code."""
    words = ["extract", root, "--cache-dir", cache, "--backbone", "pixels", "--size", "16", "--json", "--quiet"]
    line = [sys.executable, *(program or ("-m", "featx")), *map(str, words)]
    done = subprocess.run(line, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, (done.returncode, done.stderr[-2000:])
    return json.loads(done.stdout), done.stderr


@pytest.mark.stress
def test_ten_thousand_mutated_pictures(tmp_path: Path) -> None:
    """libtiff alone writes to stderr by itself."""
    rng, seeds, count = random.Random(11), encoded_pictures(), {"tiff": 0, "others": 0}
    for kind in count:
        (tmp_path / kind).mkdir()
    for number in range(10_000):
        data = mutated(rng, seeds)
        kind = "tiff" if data.startswith(TIFF) else "others"
        (tmp_path / kind / f"{number:05}.png").write_bytes(data)
        count[kind] += 1
    for kind, files in count.items():
        done, stderr = extracted(tmp_path / kind, tmp_path / "cache")
        assert done["listed"] == done["rows"] + done["quarantined"] == files
        assert done["rows"] > files / 10 and done["quarantined"] > files / 10
        assert "Traceback" not in stderr and (kind == "tiff" or stderr == "")
        again, _ = extracted(tmp_path / kind, tmp_path / "cache")
        assert again["computed"] == 0 and again["features"] == done["features"]
        assert again["quarantine"] == done["quarantine"] and again["rows"] == done["rows"]


def test_a_picture_beyond_the_limit_is_listed_whatever_its_name(make_dataset: Make, run: Run) -> None:
    root = make_dataset(each=2)
    header = PNG[:16] + struct.pack(">II", 20_000, 20_000) + PNG[24:29]
    for name in ("IMG_1", "IMG_1.png"):
        (root / "lying" / name).write_bytes(header + struct.pack(">I", zlib.crc32(header[12:])) + PNG[33:])
    done = run(root)
    assert (done.listed, done.rows, done.ignored) == (6, 4, 0)
    reason = f"400000000 pixels are more than max_pixels ({MAX_PIXELS})"
    assert [why for _, why in done.quarantine] == [reason] * 2


def test_a_file_larger_than_memory_does_not_end_the_extraction(make_dataset: Make, tmp_path: Path) -> None:
    """Within 16 GiB, for a system that promises more memory than it has would begin to fill it."""
    root = make_dataset(each=2)
    (root / "lying" / "huge.png").touch()
    os.truncate(root / "lying" / "huge.png", 2**40)
    limited = (
        "import resource\nresource.setrlimit(resource.RLIMIT_AS, (2**34, 2**34))\nimport featx.cli\nfeatx.cli.main()"
    )
    done, _ = extracted(root, tmp_path / "cache", "-c", limited)
    assert done["rows"] == 4 and "not enough memory" in done["quarantine"][0]["reason"]


# --------------------------------------------------------------------------------------------------------------- kills


# Kills extractions until so many have died; each goes on in the cache of the one before, and begins anew once one has
# come to its end. Prints what the killed ones left (rows in finished files, rows in blocks, damaged rows), and what the
# others left (the names of all files, and a checksum of the features).
KILLS = """
import json, os, random, shutil, signal, sys, time, zlib
from pathlib import Path
import featx.extraction.share, featx.extraction.run

featx.extraction.share.BLOCK_SECONDS = 0
root, cache, kills = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])

def start():
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            featx.extract(root, cache_dir=cache, backbone="pixels", size=32, batch_size=1)
            code = 0
        finally:
            os._exit(code)
    return pid

def left():
    rows = {"finished": 0, "blocks": 0, "damaged": 0}
    for path in cache.rglob("[!.]*.h5"):
        features = featx.load_features(path)
        rows["finished" if path.parent == cache else "blocks"] += len(features)
        rows["damaged"] += len(features.damaged_rows())
    return rows

began = time.perf_counter()
assert os.waitpid(start(), 0)[1] == 0
undisturbed = time.perf_counter() - began
shutil.rmtree(cache)
rng, killed, finished = random.Random(1), [], []
while len(killed) < kills:
    pid = start()
    time.sleep(rng.uniform(0, undisturbed))
    os.kill(pid, signal.SIGKILL)
    status = os.waitpid(pid, 0)[1]
    assert status in (0, signal.SIGKILL), status
    if status:
        killed.append(left())
        continue
    for path in cache.glob("*.h5"):
        names = [path.name for path in cache.rglob("*") if path.parent.name != ".locks"]
        finished.append([sorted(names), zlib.crc32(featx.load_features(path).stored())])
    shutil.rmtree(cache)
print(json.dumps([killed, finished]))
"""


@pytest.mark.stress
def test_killed_at_random_instants(tmp_path: Path) -> None:
    for number in range(600):
        (tmp_path / "data" / f"class{number % 3}").mkdir(parents=True, exist_ok=True)
        picture(number % 3, number, (16, 16)).save(tmp_path / "data" / f"class{number % 3}" / f"{number}.png")
    (tmp_path / "data" / "class0" / "bad.png").write_bytes(b"bad")
    program = [sys.executable, "-c", KILLS, tmp_path / "data", tmp_path / "cache", "60"]
    done = subprocess.run(program, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    killed, finished = json.loads(done.stdout)
    assert len(killed) == 60 and all(left["damaged"] == 0 for left in killed)
    assert {left["blocks"] for left in killed} > {0, 256}
    settings = {"backbone": "pixels", "size": 32}
    undisturbed = featx.extract(tmp_path / "data", cache_dir=tmp_path / "other", **settings)
    last = featx.extract(tmp_path / "data", cache_dir=tmp_path / "cache", **settings)
    assert (last.listed, last.rows, last.quarantined) == (601, 600, 1)
    assert np.array_equal(values(last), values(undisturbed))
    wanted = [[".locks", Path(last.features_path).name, "trunks.json"], zlib.crc32(values(undisturbed))]
    assert len(finished) >= 2 and finished == [wanted] * len(finished)


# -------------------------------------------------------------------------------------------------------------- damage


def test_damage_anywhere_is_found_and_not_reused(make_dataset: Make, run: Run, tmp_path: Path) -> None:
    root, cache, rng = make_dataset(each=20), tmp_path / "cache", random.Random(3)
    done = run(root)
    file, clean = Path(done.features_path), values(done)
    whole = file.read_bytes()
    damages = [whole[: rng.randrange(len(whole))] for _ in range(8)]
    for part in range(40):
        flipped = bytearray(whole)
        flipped[rng.randrange(len(whole) * part // 40, len(whole) * (part + 1) // 40)] ^= 1 << rng.randrange(8)
        damages.append(bytes(flipped))
    computed = []
    for number, damaged in enumerate(damages):
        file.write_bytes(damaged)
        found = answer("cache", "verify", "--cache-dir", cache, code=1)
        assert found["ok"] is False, number
        rows, problem = found["files"][0]["damaged"], found["files"][0]["problem"]
        assert (len(rows) == 1) != bool(problem), number
        again = run(root)
        assert again.computed == (40 if problem else 1), number
        assert again.features_path == done.features_path and np.array_equal(values(again), clean), number
        assert answer("cache", "verify", "--cache-dir", cache)["ok"] is True
        computed.append(again.computed)
    assert computed[:8] == [40] * 8 and {*computed[8:]} == {1, 40}


@pytest.mark.parametrize("place", [[10**15, 10], [512, 10**15], [-1, 10], [10**15, -(10**15)], [0.5, "a"], []])
def test_a_seal_that_points_nowhere_neither_kills_nor_hangs(place: list[Any], tmp_path: Path) -> None:
    seal = json.dumps({"featx": 1, "features": place, "digest": "0" * 32}).encode()
    (tmp_path / "sealed.h5").write_bytes(seal.ljust(512, b"\0") + bytes(2000))
    with at_most():
        assert answer("cache", "verify", tmp_path / "sealed.h5", code=1)["files"][0]["problem"]


def test_blocks_that_somebody_has_copied_are_no_harm(make_dataset: Make, run: Run) -> None:
    """As programs do that keep folders in step: block-1234-00000 (1).h5."""
    root = make_dataset(each=2)
    done = run(root)
    partial = Path(done.features_path).with_suffix(".partial")
    partial.mkdir()
    (partial / "block-1234-00000 (1).h5").write_bytes(Path(done.features_path).read_bytes()[:1000])
    os.unlink(done.features_path)
    again = run(root)
    assert (again.computed, again.rows) == (4, 4) and not partial.exists()


def test_a_cache_on_a_read_only_disk_is_one_line_that_names_the_option(
    make_dataset: Make, own: tuple[str, ...], tmp_path: Path
) -> None:
    root = make_dataset(each=2)
    with disk_of("1m", tmp_path / "disk") as disk:
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True, capture_output=True)
        for cache in (disk, disk / "below"):
            error = answer("extract", root, *own, "--cache-dir", cache, "--quiet", code=1)["error"]
            assert "cannot be written" in error and "--cache-dir" in error and "\n" not in error
            assert command("extract", root, *own, "--cache-dir", cache, "--quiet", code=1).stderr == f"error: {error}\n"


# ---------------------------------------------------------------------------------------------------------- many files


@pytest.mark.stress
def test_a_hundred_thousand_files_of_few_contents(run: Run, tmp_path: Path) -> None:
    contents = [encoded(picture(0, number, (8, 8)), "PNG") for number in range(200)]
    for number in range(100_000):
        path = tmp_path / "many" / f"class{number % 10}" / f"{number:06}.png"
        if number < 200:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(contents[number])
        else:
            first = number % 200
            os.link(tmp_path / "many" / f"class{first % 10}" / f"{first:06}.png", path)
    done = run(tmp_path / "many")
    assert (done.listed, done.rows, done.quarantined) == (100_000, 100_000, 0)
    assert (done.computed, done.reused) == (200, 99_800)
    X = values(done).reshape(10, 500, 20, -1)  # 20 contents a class, over and over
    assert (
        np.array_equal(X, np.broadcast_to(X[:, :1], X.shape))
        and len(np.unique(X[:, 0].reshape(200, -1), axis=0)) == 200
    )
    again = run(tmp_path / "many")
    assert (again.computed, again.rows, again.features_path) == (0, 100_000, done.features_path)


# --------------------------------------------------------------------------------------------------------------- names


ODD = [
    "two\nlines",
    "car\rriage",
    "tab\there",
    "quotes'\"`",
    "--json",
    "back\\slash",
    " spaces ",
    "$(echo) ; # * ? [a]",
    "\x1b[2J\x07\x7f",
    "emoji 🦊👩‍🚀",
    "\u202eright to left \u05d0\u0628",
    "e\u0301 \u2028\u2029\ufeff",
    "plain",
]
LONG = ["n" * 251, "ペ" * 83 + "xx"]  # 255 bytes with .png
NOT_UTF8 = [b"caf\xe9", b"\xff\xfe", b"\xed\xa0\x80"]


def test_any_name_closes_the_ledger(own: tuple[str, ...], tmp_path: Path) -> None:
    good = [name.encode() for name in ODD + LONG]
    data = encoded(picture(0, 0), "PNG")
    for kind in good + NOT_UTF8:
        folder = os.path.join(os.fsencode(tmp_path), b"photos", kind)
        os.makedirs(folder)
        for name in good + NOT_UTF8:
            with open(os.path.join(folder, name + b".png"), "wb") as file:
                file.write(data)
        with open(os.path.join(folder, b"bad\n\x1b[31m.png"), "wb") as file:
            file.write(b"bad")
    done = answer("extract", tmp_path / "photos", *own, "--cache-dir", tmp_path / "cache", "--quiet")
    names, all_names = len(good), len(good) + len(NOT_UTF8)
    assert done["listed"] == all_names * (all_names + 1)
    assert done["rows"] == names * names and done["computed"] == 1
    reasons = [entry["reason"] for entry in done["quarantine"]]
    assert sum("UTF-8" in reason for reason in reasons) == all_names * (all_names + 1) - names * (names + 1)
    assert done["quarantined"] == len(reasons) == done["listed"] - done["rows"] and all(reasons)
    features = featx.load_features(done["features"])
    assert sorted(features.class_names) == sorted(ODD + LONG)
    assert {*features.paths} == {f"{kind}/{name}.png" for kind in ODD + LONG for name in ODD + LONG}
    for words in (
        ("extract", tmp_path / "photos", *own),
        ("cache", "explain", tmp_path / "photos", *own),
        ("cache", "ls"),
        ("cache", "verify"),
    ):
        shown = command(*words, "--cache-dir", tmp_path / "cache")
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e\u2028\ud800-\udfff]", shown.stdout + shown.stderr)


ROOTS = ["with space 'and' \"quotes\"", "ペンギン ü 🦊", "--quiet", "new\nline", os.fsdecode(b"caf\xe9")]


@pytest.mark.parametrize("name", ROOTS)
def test_a_data_set_and_a_cache_folder_may_have_any_name(
    name: str, make_dataset: Make, own: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_dataset(each=2, name=name)
    (tmp_path / "caches").mkdir()
    monkeypatch.chdir(tmp_path / "caches")
    words = (f"{tmp_path}/{name}", *own, "--cache-dir", f"./{name}", "--quiet")
    done = answer("extract", *words)
    assert (done["rows"], done["computed"]) == (4, 4) and Path(done["features"]).parent == Path(name)
    assert answer("extract", *words)["computed"] == 0
    assert answer("cache", "verify", "--cache-dir", f"./{name}")["ok"] is True
    assert featx.load_features(done["features"]).root == f"{tmp_path.resolve()}/{name}"


# --------------------------------------------------------------------------------------------------------------- links


def test_links_that_lead_in_circles_or_nowhere(make_dataset: Make, run: Run, tmp_path: Path) -> None:
    root = make_dataset(each=1)
    for link, target in {
        "lying/here": ".",
        "lying/up": "..",
        "lying/other": "../standing",
        "standing/other": "../lying",
        "standing/gone.png": "nowhere.png",
        "standing/itself.png": "itself.png",
        "standing/one.png": "two.png",
        "standing/two.png": "one.png",
        "standing/nothing": "nowhere",
        "standing/copy.png": "000.png",
    }.items():
        (root / link).symlink_to(target)
    done = run(root)
    bad = [f"{kind}/{name}.png" for kind in ("lying/other", "standing") for name in ("gone", "itself", "one", "two")]
    assert [path for path, _ in done.quarantine] == bad and all(reason for _, reason in done.quarantine)
    good = ["lying/000", "lying/other/000", "lying/other/copy", "standing/000", "standing/copy", "standing/other/000"]
    assert featx.load_features(done.features_path).paths.tolist() == [f"{path}.png" for path in good]
    assert (done.listed, done.computed, run(root).computed) == (14, 2, 0)


# -------------------------------------------------------------------------------------------------------------- clocks


DAY = 86_400 * 10**9


@pytest.mark.parametrize("mtime", [-DAY, 0, 2**33 * 10**9], ids=["1969", "1970", "2242"])
@pytest.mark.parametrize("jump", [-DAY, DAY], ids=["back", "ahead"])
def test_a_clock_that_jumps_hides_no_change(
    mtime: int, jump: int, make_dataset: Make, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, real = make_dataset(each=4), (time.time_ns, time.time)
    for kind in ("lying", "standing"):
        for number in range(2):
            picture(2, number).save(root / kind / f"{number}.bmp")
    pictures = sorted(root.rglob("*.*"))

    def set_back(path: Path) -> None:
        os.utime(path, ns=(mtime, mtime))

    for path in pictures:
        set_back(path)
    first = run(root)
    monkeypatch.setattr(time, "time_ns", lambda: real[0]() + jump)
    monkeypatch.setattr(time, "time", lambda: real[1]() + jump / 10**9)
    assert (run(root).computed, first.rows) == (0, 12)
    changed = root / "lying" / "0.bmp"
    size = changed.stat().st_size
    picture(1, 50).save(changed)
    set_back(changed)
    assert changed.stat().st_size == size
    second = run(root)
    assert (second.computed, second.rows) == (1, 12) and second.features_path != first.features_path
    assert run(root).computed == 0
    listed = answer("cache", "ls", "--cache-dir", tmp_path / "cache")["files"]
    assert [file["features"] for file in listed] == [second.features_path, first.features_path]
