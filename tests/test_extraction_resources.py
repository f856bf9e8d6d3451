"""Where an extraction's memory and time go."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import picture
from shared_extraction import ENVIRONMENT, FAKE, Make, Run, damage, interrupt, on_call, values

import featx
from featx.backbones import KerasTrunk
from featx.cache import load_features
from featx.errors import ExtractionError, FileReadError, SettingError
from featx.extraction import Recipe, plan
from featx.extraction import census as census_module
from featx.extraction import pipeline as pipeline_module
from featx.extraction import run as run_module
from featx.extraction import share as share_module
from featx.pictures import decode, resize

pytest_plugins = ["shared_extraction"]


# --------------------------------------------------------------------------------------------------- memory and threads


MEMORY = """
import resource
from featx._internal.hashing import content_id
root, cache, each = sys.argv[1], sys.argv[2], int(sys.argv[3])
Fake.info = dataclasses.replace(Fake.info, size=64, feature_shape=(32, 32, 64))  # 256 KiB a picture as float32
Fake.__call__ = lambda self, images: np.repeat(images[:, ::2, ::2, :1].astype(np.float32), 64, axis=3)
os.makedirs(root + "/a")
for number in range(each):
    Image.fromarray(np.full((8, 8, 3), [number % 256, number // 256, 0], np.uint8)).save(f"{root}/a/{number:05}.png")
done = extract(cache, batch_size=16, dtype="float32")
assert done.computed == each
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


def _peak(tmp_path: Path, pictures: int) -> int:
    code = FAKE.replace("import numpy as np", "import numpy as np\nfrom PIL import Image") + MEMORY
    folder = tmp_path / str(pictures)
    done = subprocess.run(
        [sys.executable, "-c", code, folder / "pictures", folder / "cache", str(pictures)],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_memory_does_not_grow_with_the_number_of_pictures(tmp_path: Path) -> None:
    """keras#21642, thingsvision#74: features are never collected. 1,500 pictures make 375 MiB of them."""
    few, many = _peak(tmp_path, 300), _peak(tmp_path, 1500)
    assert many - few < 60 * 2**20  # mapped pages of the file included


def test_pictures_are_decoded_while_the_trunk_runs(
    make_dataset: Make, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first batch ends only when a picture of the second has been decoded meanwhile."""
    later, decoded = threading.Event(), []
    real_load, real_call = share_module.load_file, KerasTrunk.__call__

    def load(path: Path, *arguments: Any) -> Any:
        image = real_load(path, *arguments)
        decoded.append(path)
        if len(decoded) > 4:
            later.set()
        return image

    def call(self: KerasTrunk, images: Any) -> Any:
        assert later.wait(20), "nothing was decoded while the trunk was at work"
        return real_call(self, images)

    monkeypatch.setattr(share_module, "load_file", load)
    monkeypatch.setattr(KerasTrunk, "__call__", call)
    assert run(make_dataset(each=4), batch_size=4).computed == 8


def test_no_more_pictures_are_decoded_ahead_than_fit_a_few_batches(
    make_dataset: Make, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_load, real_call = share_module.load_file, KerasTrunk.__call__
    decoded, most = [0], [0]

    def load(*arguments: Any) -> Any:
        decoded[0] += 1
        return real_load(*arguments)

    def call(self: KerasTrunk, images: Any) -> Any:
        time.sleep(0.05)  # time to run ahead
        most[0] = max(most[0], decoded[0])
        decoded[0] -= len(images)
        return real_call(self, images)

    monkeypatch.setattr(share_module, "load_file", load)
    monkeypatch.setattr(KerasTrunk, "__call__", call)
    run(make_dataset(each=20), batch_size=2)
    assert most[0] <= 3 * 2 + 2 * len(os.sched_getaffinity(0))


def test_pictures_are_left_as_they_are(make_dataset: Make, run: Run) -> None:
    """keras#19026: bad pictures are skipped, not deleted."""
    root = make_dataset(each=3)
    (root / "lying" / "bad.png").write_bytes(b"bad")

    def state() -> dict[Path, Any]:
        return {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in root.rglob("*") if p.is_file()}

    before = state()
    run(root)
    assert state() == before


def test_mnist_just_works(tmp_path: Path) -> None:
    """Gray digits of 28 pixels, below what VGG16 takes: they are enlarged; only when told 28 is that an error."""
    for label in range(2):
        (tmp_path / "digits" / str(label)).mkdir(parents=True)
        for number in range(2):
            picture(label, number, (28, 28)).convert("L").save(tmp_path / "digits" / str(label) / f"{number}.png")
    settings = {"cache_dir": tmp_path / "cache", "backbone": "vgg16", "weights": "random", "pooling": "avg"}
    done = run_module.extract(tmp_path / "digits", batch_size=4, **settings)
    assert (done.rows, done.shape, done.spec["size"]) == (4, (4, 512), 224)
    with pytest.raises(SettingError, match="at least 32 x 32 pixels, got `size=28`"):
        run_module.extract(tmp_path / "digits", size=28, **settings)


def test_weights_that_change_meanwhile_never_get_into_the_cache(
    make_dataset: Make, run: Run, tiny_backbone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A training job writes its file anew while the pictures are hashed."""
    root, file = make_dataset(each=2), tmp_path / "mine.keras"
    shutil.copy(tiny_backbone, file)
    from featx._internal.keras import load_keras

    other = load_keras().saving.load_model(tiny_backbone)
    other.set_weights([value + 1 for value in other.get_weights()])
    other.save(tmp_path / "other.keras")
    real = census_module.read_file

    def meanwhile(path: Path) -> bytes:
        shutil.copy(tmp_path / "other.keras", file)
        return real(path)

    with monkeypatch.context() as patch:
        patch.setattr(census_module, "read_file", meanwhile)
        with pytest.raises(ExtractionError, match="weights were changed while featx was running; run the same command"):
            run(root, backbone=str(file))
    done = run(root, backbone=str(file))
    images = np.stack([resize(decode((root / p).read_bytes()), 32) for p in load_features(done.features_path).paths])
    trunk = Recipe(backbone=str(tmp_path / "other.keras"), preprocess="rescale").trunk()
    np.testing.assert_allclose(load_features(done.features_path).X(), trunk(images), rtol=2e-3, atol=1e-3)


def test_an_interrupted_run_goes_on_without_reading_what_is_done(
    make_dataset: Make, run: Run, settled: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_dataset(each=8)
    interrupt(run, root, 8, monkeypatch)
    read: list[Path] = []
    real = census_module.read_file
    monkeypatch.setattr(census_module, "read_file", lambda path: (read.append(path), real(path))[1])
    assert run(root, batch_size=4).computed == 8
    assert len(read) == 8


def test_what_a_kill_in_the_last_instant_leaves_is_removed(make_dataset: Make, run: Run, tmp_path: Path) -> None:
    root = make_dataset(each=2)
    done = run(root)
    partial = Path(done.features_path).with_suffix(".partial")
    partial.mkdir()
    shutil.copy(done.features_path, partial / "block-00000.h5")
    assert run(root).computed == 0 and not partial.exists()


@pytest.mark.parametrize("edit", [{}, {"spec": 3}, {"spec": {}, "shape": 5, "engine": ""}, None, []])
def test_an_edited_memo_is_not_believed(make_dataset: Make, run: Run, tmp_path: Path, edit: Any) -> None:
    root = make_dataset(each=2)
    run(root)
    memo = tmp_path / "cache" / "trunks.json"
    memo.write_text(json.dumps(dict.fromkeys(json.loads(memo.read_text()), edit)))
    done = run(root)
    assert (done.rows, done.shape, done.spec["size"]) == (4, (4, 4, 4, 8), 32)


def test_a_memo_with_another_networks_spec_ends_in_an_error_not_in_the_cache(
    make_dataset: Make, run: Run, tmp_path: Path
) -> None:
    root = make_dataset(each=2)
    run(root)
    memo = tmp_path / "cache" / "trunks.json"
    memo.write_text(memo.read_text().replace('"weights": "', '"weights": "dead'))
    with pytest.raises(ExtractionError, match="run the same command again"):
        run(root)
    assert run(root).computed == 0


def test_explaining_writes_nothing(make_dataset: Make, tmp_path: Path, tiny_backbone: str, small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True, capture_output=True)
    found = plan(make_dataset(each=2), cache_dir=small_disk, backbone=tiny_backbone, preprocess="rescale")
    assert found.would_compute == 4


def test_explaining_knows_of_damage(make_dataset: Make, run: Run, tmp_path: Path, tiny_backbone: str) -> None:
    done = run(make_dataset(each=2))
    damage(Path(done.features_path), 1)
    found = plan(tmp_path / "stripes", cache_dir=tmp_path / "cache", backbone=tiny_backbone, preprocess="rescale")
    assert (found.would_compute, found.would_reuse) == (1, 3)


def test_memory_that_runs_out_is_no_property_of_a_picture(
    make_dataset: Make, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next run has more of it; the picture is not remembered as damaged."""
    root = make_dataset(each=2)
    real, calls = pipeline_module.decode, itertools.count()

    def short(*arguments: Any) -> Any:
        if next(calls) == 1:
            raise FileReadError("there was not enough memory to decode it; run again")
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(pipeline_module, "decode", short)
        assert run(root).quarantined == 1
    assert (run(root).rows, run(root).quarantined) == (4, 0)


# --------------------------------------------------------------------------------------------- where time and memory go


@pytest.fixture
def tick(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Time that passes only when told."""
    now, lock = [0.0], threading.Lock()

    def tick(seconds: float) -> None:
        with lock:
            now[0] += seconds

    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return tick


def test_the_profile_says_where_the_time_went(
    make_dataset: Make, run: Run, monkeypatch: pytest.MonkeyPatch, tick: Callable[[float], None]
) -> None:
    on_call(monkeypatch, 1, lambda: tick(3.0))
    root = make_dataset(each=10)
    found = run(root, batch_size=20).profile
    others = ("list", "read", "decode", "resize", "waiting", "assemble")
    assert found.pop("write") >= 0, "blocks are timed by another clock"
    assert found == {"trunk": 3.0, **dict.fromkeys(others, 0.0)}
    again = run(root).profile
    assert set(again) == {"list"}, "nothing else was done"


def test_waiting_is_what_the_trunk_does_when_pictures_are_slow(
    make_dataset: Make, run: Run, monkeypatch: pytest.MonkeyPatch, tick: Callable[[float], None]
) -> None:
    real = pipeline_module.decode
    monkeypatch.setattr(pipeline_module, "decode", lambda *arguments: (tick(0.125), real(*arguments))[1])
    found = run(make_dataset(each=10), batch_size=20).profile
    assert found["decode"] >= 20 * 0.125, "by all threads together"
    assert (found["waiting"], found["trunk"]) == (20 * 0.125, 0.0)


@pytest.mark.parametrize("said", ["RESOURCE_EXHAUSTED: Out of memory while trying to allocate 8 bytes", "OOM"])
@pytest.mark.parametrize("fits", [1, 3, 4])
def test_a_full_device_gets_smaller_batches(
    make_dataset: Make,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    fits: int,
    said: str,
) -> None:
    class ResourceExhaustedError(Exception):
        pass

    root = make_dataset(each=7)
    expected = values(run(root, batch_size=10, cache_dir=root.parent / "other"))
    real, sizes = KerasTrunk.__call__, []

    def call(self: KerasTrunk, images: Any) -> Any:
        sizes.append(len(images))
        if len(images) > fits:
            raise ResourceExhaustedError(said)
        return real(self, images)

    monkeypatch.setattr(KerasTrunk, "__call__", call)
    done = run(root, batch_size=10)
    np.testing.assert_allclose(values(done), expected, rtol=1e-3)
    halves = [10, 5, 3, 2, 1]
    assert set(sizes) == set(halves[: next(n for n, size in enumerate(halves) if size <= fits) + 1])
    assert sizes.count(10) == 1 and "the device has not memory enough for the batch" in caplog.text


def test_any_other_error_of_the_trunk_comes_out(make_dataset: Make, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(self: KerasTrunk, images: Any) -> Any:
        raise RuntimeError("bug")

    monkeypatch.setattr(KerasTrunk, "__call__", fails)
    with pytest.raises(RuntimeError, match="bug"):
        run(make_dataset(each=3))


def test_the_batch_size_is_the_trunks_if_none_is_given(make_dataset: Make, run: Run, counted: list[int]) -> None:
    run(make_dataset(each=20), batch_size=None)
    assert counted == [32, 32]


def test_files_too_fresh_at_first_are_noted_by_the_next_run(
    make_dataset: Make, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that had just been written is read again by the next run, but not by every one after that."""
    root = make_dataset(each=3)
    run(root)
    read: list[Path] = []
    real = census_module.read_file
    monkeypatch.setattr(census_module, "read_file", lambda path: (read.append(path), real(path))[1])
    monkeypatch.setattr(census_module, "RACY_NS", 0)
    assert run(root).computed == 0 and len(read) == 6
    assert run(root).computed == 0 and len(read) == 6
    (root / "lying" / "000.png").write_bytes((root / "standing" / "000.png").read_bytes())
    assert run(root).reused == 6 and len(read) == 7, "what has changed is read"
    assert load_features(run(root).features_path).ids[0] == load_features(run(root).features_path).ids[3]


@pytest.mark.parametrize("edit", ['{"digest": "0"}', "[" * 100_000, '{"stat": 5}', "other"])
def test_an_edited_note_of_files_is_not_believed(
    make_dataset: Make, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, edit: str
) -> None:
    root = make_dataset(each=3)
    run(root)
    monkeypatch.setattr(census_module, "RACY_NS", 0)
    run(root)
    (memo,) = (tmp_path / "cache").glob("stat-*.json")
    first, second = load_features(run(root).features_path).ids[:2]
    memo.write_text(memo.read_text().replace(str(first), str(second)) if edit == "other" else edit)
    assert load_features(run(root).features_path).ids.tolist()[:2] == [first, second]


def test_a_draft_is_another_spec(make_dataset: Make, run: Run) -> None:
    root = make_dataset(each=3)
    assert run(root).computed == 6 == run(root, draft=True).computed
    assert run(root, draft=True).computed == 0 == run(root).computed
    assert run(root, draft=True).spec["decoder"] == "pillow-rgb-1-draft-1"


def test_large_jpegs_are_drafted_for_extraction_and_for_prediction(tmp_path: Path, run: Run) -> None:
    for number in range(8):
        (tmp_path / "photos" / f"{number % 2}").mkdir(parents=True, exist_ok=True)
        picture(number % 2, number, (400, 300)).save(
            tmp_path / "photos" / f"{number % 2}" / f"{number}.jpg", quality=95
        )
    full, draft = (run(tmp_path / "photos", draft=d, dtype="float32") for d in (False, True))
    assert not np.array_equal(values(full), values(draft))
    features = load_features(draft.features_path)
    classifier = featx.fit(features, "logreg", input="flat", validation=0)
    assert classifier.recipe.draft and classifier.doctor(features).ok
