"""A saved classifier is the same, is whole or not there, and is harmless."""

from __future__ import annotations

import errno
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shared_classifier import CLASSES, Stripes

import featx
from featx._internal.hashing import content_id
from featx.classifier import Classifier
from featx.classifier.folder import about_digest
from featx.errors import ModelError, SettingError, SpecMismatchError, WeightsError

pytest_plugins = ["shared_classifier"]


# --------------------------------------------------------------------------------------------------------------- saving


def _litter(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def _arrays(folder: Path) -> Path:
    (only,) = folder.glob("arrays-*.npz")
    return only


def test_a_foreign_folder_is_not_touched(ridge: Classifier, tmp_path: Path) -> None:
    foreign = tmp_path / "photos"
    foreign.mkdir()
    (foreign / "precious.txt").write_text("mine")
    for place in (foreign, foreign / "precious.txt"):
        with pytest.raises(ModelError, match="exists and is not a classifier; give another `out`"):
            ridge.save(place)
    assert (foreign / "precious.txt").read_text() == "mine"
    assert _litter(tmp_path) == ["photos"]


def test_an_old_classifier_is_replaced(ridge: Classifier, fitted: dict[str, Classifier], tmp_path: Path) -> None:
    fitted["bn-mlp"].save(tmp_path / "deep/er/model")
    ridge.save(tmp_path / "deep/er/model")
    assert Classifier.load(tmp_path / "deep/er/model").fitting.head == "ridge"
    assert _litter(tmp_path / "deep/er/model") == [_arrays(tmp_path / "deep/er/model").name, "classifier.json"]
    assert _litter(tmp_path / "deep/er") == ["model"]


def test_an_empty_folder_is_filled(ridge: Classifier, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    ridge.save(tmp_path / "model")
    assert Classifier.load(tmp_path / "model").fitting.head == "ridge"


@pytest.mark.parametrize("before", [True, False], ids=["replacing", "new"])
def test_a_disk_that_fills_up_leaves_things_as_they_were(
    ridge: Classifier,
    fitted: dict[str, Classifier],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    before: bool,
) -> None:
    if before:
        ridge.save(tmp_path / "model")

    def full(self: Path, data: bytes) -> int:
        real(self, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    real = Path.write_bytes
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ModelError, match="model cannot be written: no space left on device"):
        fitted["logreg"].save(tmp_path / "model")
    assert _litter(tmp_path) == (["model"] if before else [])
    if before:
        assert Classifier.load(tmp_path / "model").fitting.head == "ridge"


def test_a_folder_that_could_not_be_loaded_afterwards_is_not_saved_into(ridge: Classifier, tmp_path: Path) -> None:
    (ridge.save(tmp_path / "model") / "thesis.tex").write_text("mine")
    with pytest.raises(ModelError, match="thesis.tex is no part of a classifier"):
        ridge.save(tmp_path / "model")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/classifier.json").write_text("{}")
    with pytest.raises(ModelError, match="exists and is not a classifier"):
        ridge.save(tmp_path / "other")
    assert (tmp_path / "other/classifier.json").read_text() == "{}"


def test_notes_in_the_folder_outlive_a_second_fit(ridge: Classifier, tmp_path: Path) -> None:
    (ridge.save(tmp_path / "model") / "notes.md").write_text("mine")
    ridge.save(tmp_path / "model")
    assert (tmp_path / "model/notes.md").read_text() == "mine"


# A save that dies at its first, second, ... sync, rename or removal, before or after it; then what is there. Each time
# from the same state.
DYING = """
import os, shutil, signal, sys
from pathlib import Path
from featx.backbones import KerasTrunk
from featx.classifier import Classifier

new, place = Classifier.load(sys.argv[1]), sys.argv[2]
calls = 0

def deadly(function, moment):
    def call(*arguments, **options):
        global calls
        for done in (False, True):
            calls += 1
            if calls == moment:
                os.kill(os.getpid(), signal.SIGKILL)
            if not done:
                result = function(*arguments, **options)
        return result
    return call

for moment in range(1, 99):
    shutil.rmtree(place + "-dying", ignore_errors=True)
    if os.path.exists(place):
        shutil.copytree(place, place + "-dying")
    pid = os.fork()
    if pid == 0:
        for name in ("fsync", "replace", "unlink"):
            setattr(os, name, deadly(getattr(os, name), moment))
        new.save(place + "-dying")
        os._exit(0)
    if os.waitpid(pid, 0)[1] == 0:
        break
    there = Path(place + "-dying", "classifier.json").exists()
    print(Classifier.load(place + "-dying").fitting.head if there else "none")
    new.save(place + "-dying")
print(len(os.listdir(place + "-dying")))
"""


@pytest.mark.parametrize("before", [True, False], ids=["replacing", "new"])
def test_a_save_killed_at_any_instant(
    ridge: Classifier, fitted: dict[str, Classifier], tmp_path: Path, before: bool
) -> None:
    """Then the old classifier is there whole, or the new one is; and the next save is not stopped by what is left."""
    fitted["logreg"].save(tmp_path / "new")
    if before:
        ridge.save(tmp_path / "model")
    done = subprocess.run(
        [sys.executable, "-c", DYING, tmp_path / "new", tmp_path / "model"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(featx.__file__).parents[1])},
    )
    assert done.returncode == 0, done.stderr
    *found, files = done.stdout.split()
    old = "ridge" if before else "none"
    turn = found.index("logreg")
    assert turn > 3 and found == [old] * turn + ["logreg"] * (len(found) - turn)
    assert files == "2"


def test_a_folder_that_may_not_be_written(ridge: Classifier, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match="cannot be written: not a directory"):
        ridge.save(tmp_path / "file/model")


def test_parameters_that_are_numpys_numbers_are_kept(stripes: Stripes, tmp_path: Path) -> None:
    """As they come from a grid, ``for k in np.arange(1, 9)``."""
    model = featx.fit(stripes.features, "knn", n_neighbors=np.int64(3), temperature=np.float32(0.5))
    again = Classifier.load(model.save(tmp_path / "model"))
    assert again.head.n_neighbors == 3
    np.testing.assert_array_equal(again.predict_proba(stripes.features), model.predict_proba(stripes.features))


# -------------------------------------------------------------------------------------------------------------- loading


@pytest.fixture
def saved(ridge: Classifier, tmp_path: Path) -> Path:
    return ridge.save(tmp_path / "model")


def _edit(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """As somebody would who knows how to make the digest fit."""
    about = json.loads((folder / "classifier.json").read_text())
    del about["digest"]
    change(about)
    (folder / "classifier.json").write_text(json.dumps({**about, "digest": about_digest(about)}))


def test_names_that_were_exchanged(saved: Path) -> None:
    text = (saved / "classifier.json").read_text()
    (saved / "classifier.json").write_text(text.replace("lying", "LYING").replace("standing", "lying"))
    with pytest.raises(ModelError, match=r"classifier\.json is not the file that was saved; fit again"):
        Classifier.load(saved)


def test_no_classifier_there(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(ModelError, match="is not a classifier: it has no classifier.json. `featx fit` makes one"):
            Classifier.load(folder)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "null", "3", '{"schema": 1}', '{"schema": 1, "arrays": 5}', "[" * 100_000, "\0\0\0"],
    ids=["empty", "list", "null", "number", "no more", "odd types", "deep", "zeros"],
)
def test_a_text_that_is_no_classifiers(saved: Path, text: str) -> None:
    (saved / "classifier.json").write_text(text)
    with pytest.raises(ModelError, match="fit again"):
        Classifier.load(saved)


def test_a_truncated_text(saved: Path) -> None:
    text = (saved / "classifier.json").read_bytes()
    for length in range(1, len(text), len(text) // 20):
        (saved / "classifier.json").write_bytes(text[:length])
        with pytest.raises(ModelError, match="damaged or was altered .* fit again"):
            Classifier.load(saved)


def test_another_schema(saved: Path) -> None:
    _edit(saved, lambda about: about.update(schema=99))
    with pytest.raises(ModelError, match="has schema 99, this featx reads 1; fit again"):
        Classifier.load(saved)


@pytest.mark.parametrize("field", ["head", "class_names", "spec", "recipe", "report", "arrays"])
def test_a_missing_field(saved: Path, field: str) -> None:
    _edit(saved, lambda about: about.pop(field))
    with pytest.raises(ModelError, match=f"damaged or was altered .*{field}.*; fit again"):
        Classifier.load(saved)


def test_settings_that_no_head_or_recipe_has(saved: Path) -> None:
    sound = (saved / "classifier.json").read_bytes()
    changes: list[Callable[[dict[str, Any]], Any]] = [
        lambda about: about["head"].update(name="os.system"),
        lambda about: about["head"]["params"].update(evil=1),
        lambda about: about["recipe"].update(evil=1),
        lambda about: about["recipe"].update(pooling="evil"),
    ]
    for change in changes:
        (saved / "classifier.json").write_bytes(sound)
        _edit(saved, change)
        with pytest.raises(ModelError, match=r"model is damaged or was altered \(.*(evil|os\.system).*\); fit again$"):
            Classifier.load(saved)


def test_weights_that_are_no_file_of_weights_are_the_askers(saved: Path) -> None:
    with pytest.raises(
        SettingError, match="^unknown `weights` 'moved.txt'; expected imagenet, random, or a "
    ) as caught:
        Classifier.load(saved, weights="moved.txt")
    assert caught.value.setting == "weights"


def test_class_names_of_another_number(saved: Path) -> None:
    _edit(saved, lambda about: about["class_names"].pop())
    with pytest.raises(ModelError):
        Classifier.load(saved)


def test_arrays_that_are_gone(saved: Path) -> None:
    _arrays(saved).unlink()
    with pytest.raises(ModelError, match="damaged or was altered"):
        Classifier.load(saved)


def test_a_flipped_bit(saved: Path) -> None:
    file = _arrays(saved)
    data = bytearray(file.read_bytes())
    for at in (0, len(data) // 2, len(data) - 1):
        data[at] ^= 1
        file.write_bytes(data)
        with pytest.raises(ModelError, match=r"arrays-\w+\.npz is not the file that was saved; fit again"):
            Classifier.load(saved)
        data[at] ^= 1
    file.write_bytes(data)
    assert Classifier.load(saved).fitting.head == "ridge"


class _Hostile:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def test_the_hostile_pickle_works(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(_Hostile(tmp_path / "ran")))
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("form", ["pickle", "npy", "npz"])
@pytest.mark.parametrize("signed", [False, True])
def test_a_pickle_in_place_of_the_arrays_is_not_run(saved: Path, tmp_path: Path, form: str, signed: bool) -> None:
    """Not even if the digest in classifier.json is the pickle's."""
    ran, file = tmp_path / "ran", io.BytesIO()
    hostile = np.array([_Hostile(ran)], object)
    if form == "pickle":
        pickle.dump(_Hostile(ran), file)
    elif form == "npy":
        np.save(file, hostile, allow_pickle=True)
    else:
        with np.load(_arrays(saved)) as stored:
            np.savez(file, **{**{name: stored[name] for name in stored.files}, "head/coef_": hostile})
    _arrays(saved).write_bytes(file.getvalue())
    if signed:
        content = content_id(file.getvalue())
        _arrays(saved).rename(saved / f"arrays-{content}.npz")
        _edit(saved, lambda about: about.update(arrays=content))
    with pytest.raises(ModelError, match="damaged or was altered" if signed else "not the file that was saved"):
        Classifier.load(saved)
    assert not ran.exists()


def _evil_model(path: Path, ran: Path) -> Path:
    """A Keras file with a Lambda that makes a file when it is run."""
    from featx._internal.keras import load_keras

    keras = load_keras()
    x = keras.Input((32, 32, 3))
    touch = keras.layers.Lambda(lambda t, p=str(ran): (__import__("pathlib").Path(p).touch(), t)[1])
    keras.Model(x, keras.layers.Conv2D(8, 8, strides=8)(touch(x))).save(path)
    assert ran.exists()  # it does run when it is let
    ran.unlink()
    return path


@pytest.mark.parametrize(
    "name",
    [
        "head.pkl",
        "HEAD.PKL",
        "deep/down/head.joblib",
        "sitecustomize.py",
        "x.so",
        "m.keras",
        "old.h5",
        "more.npz",
        "head",
    ],
)
def test_a_file_that_could_carry_code_is_refused(saved: Path, tmp_path: Path, name: str) -> None:
    file = saved / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(pickle.dumps(_Hostile(tmp_path / "ran")))
    with pytest.raises(ModelError, match=f"was refused: {name} is no part of a classifier and could carry code"):
        Classifier.load(saved)
    assert not (tmp_path / "ran").exists()


def test_arrays_that_would_swell_are_refused(saved: Path) -> None:
    file = io.BytesIO()
    with np.load(_arrays(saved)) as stored:
        np.savez_compressed(file, **{name: stored[name] for name in stored.files}, more=np.zeros(10**8, np.int8))
    content = content_id(file.getvalue())
    (saved / f"arrays-{content}.npz").write_bytes(file.getvalue())
    _edit(saved, lambda about: about.update(arrays=content))
    with pytest.raises(ModelError, match="arrays are compressed"):
        Classifier.load(saved)


def test_arrays_outside_the_folder_are_not_read(saved: Path, tmp_path: Path) -> None:
    _edit(saved, lambda about: about.update(arrays=f"/../../{about['arrays']}"))
    with pytest.raises(ModelError, match="damaged or was altered|not the file that was saved"):
        Classifier.load(saved)


@pytest.mark.parametrize(
    "name", ["README.md", "LICENSE", ".gitignore", "report.html", "plots/confusion.png", ".DS_Store", "Thumbs.db"]
)
def test_notes_and_pictures_may_lie_in_the_folder(saved: Path, name: str) -> None:
    file = saved / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"anything")
    assert Classifier.load(saved).fitting.head == "ridge"


def test_a_keras_file_in_the_folder_is_refused(saved: Path, tmp_path: Path) -> None:
    _evil_model(saved / "head.keras", tmp_path / "ran")
    with pytest.raises(ModelError, match="head.keras is no part of a classifier and could carry code"):
        Classifier.load(saved)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("field", ["backbone", "weights"])
def test_a_recipe_that_points_to_a_hostile_model_runs_nothing(
    stripes: Stripes, saved: Path, tmp_path: Path, field: str
) -> None:
    evil = _evil_model(tmp_path / "evil.keras", tmp_path / "ran")
    _edit(saved, lambda about: about["recipe"].update({field: str(evil)}))
    for use in (lambda c: c.predict([stripes.root / "test"]), lambda c: c.doctor(stripes.features)):
        with pytest.raises(WeightsError, match="evil.keras was refused as a model of layers and weights only"):
            use(Classifier.load(saved))
    assert not (tmp_path / "ran").exists()


def test_a_backbone_that_was_exchanged_is_not_used(stripes: Stripes, saved: Path, tmp_path: Path) -> None:
    """A file of the same name and shape, with other weights."""
    from featx._internal.keras import load_keras

    keras = load_keras()
    model = keras.saving.load_model(stripes.settings["backbone"], compile=False)
    model.set_weights([value + 1 for value in model.get_weights()])
    model.save(tmp_path / "tiny.keras")
    _edit(saved, lambda about: about["recipe"].update(backbone=str(tmp_path / "tiny.keras")))
    with pytest.raises(SpecMismatchError, match="the trunk that the classifier's recipe builds was made by another sp"):
        Classifier.load(saved).predict([stripes.root / "test"])


def test_weights_that_moved(stripes: Stripes, tmp_path: Path) -> None:
    from featx._internal.keras import load_keras

    keras = load_keras()
    base = keras.applications.MobileNetV2((32, 32, 3), 0.35, include_top=False, weights=None)
    base.save_weights(tmp_path / "w.weights.h5")
    settings = {"backbone": "mobilenetv2-0.35", "size": 32, "preprocess": "auto", "pooling": "avg", "dtype": "float32"}
    features = stripes.extract(weights=str(tmp_path / "w.weights.h5"), **settings)
    folder = featx.fit(features, "ridge").save(tmp_path / "model")
    moved = (tmp_path / "w.weights.h5").rename(tmp_path / "moved.weights.h5")
    base.set_weights([value * 1.1 for value in base.get_weights()])
    base.save_weights(tmp_path / "other.weights.h5")
    with pytest.raises(
        WeightsError,
        match=r"w\.weights\.h5 cannot be read: no such file or directory.*, `weights=FILE` says where they are",
    ):
        Classifier.load(folder).predict([stripes.root / "test"])
    found, _ = Classifier.load(folder, weights=str(moved)).predict([stripes.root / "test"])
    rows = np.flatnonzero(features.splits == "test")
    wanted = Classifier.load(folder).predict_proba(features, rows)
    live = [[p.probabilities[name] for name in CLASSES] for p in found]
    np.testing.assert_allclose(live, wanted, atol=1e-3)
    with pytest.raises(SpecMismatchError, match="weights is [0-9a-f]{32}, not [0-9a-f]{32}"):
        Classifier.load(folder, weights=str(tmp_path / "other.weights.h5")).predict([stripes.root / "test"])


def test_a_backbone_file_that_moved_is_found_once_features_are_extracted_again(
    stripes: Stripes, tmp_path: Path
) -> None:
    """The same weights give the same features, so nothing is computed; but they are elsewhere now."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    file = Path(shutil.copy(stripes.settings["backbone"], tmp_path / "a/tiny.keras"))
    stripes.extract(backbone=str(file), cache_dir=tmp_path / "cache")
    file = file.rename(tmp_path / "b/tiny.keras")
    features = stripes.extract(backbone=str(file), cache_dir=tmp_path / "cache")
    predictions, _ = featx.fit(features, "ridge").predict([stripes.root / "test"])
    assert len(predictions) == 18
