"""What every room builds on: files replaced whole, and memory that can be released."""

from __future__ import annotations

import gc
import os
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import featx
from featx._internal.files import remove_unfinished, replacing, write_whole
from featx.extraction import share as share_module
from featx.extraction import transformer as transformer_module


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_in_the_last_instant(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("old")
    with replacing(tmp_path / "f") as unfinished:
        unfinished.write_text("new")
        assert (tmp_path / "f").read_text() == "old" and unfinished.name.startswith(".f.")
    assert _names(tmp_path) == ["f"] and (tmp_path / "f").read_text() == "new"


@pytest.mark.parametrize("folder", [False, True])
def test_what_fails_leaves_nothing(tmp_path: Path, folder: bool) -> None:
    write_whole(tmp_path / "old", b"old")
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "old") as unfinished:
        unfinished.mkdir() if folder else unfinished.write_text("half")
        raise KeyboardInterrupt
    assert _names(tmp_path) == ["old"] and (tmp_path / "old").read_bytes() == b"old"


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    for content in ("one", "two"):
        with replacing(tmp_path / "d") as unfinished:
            unfinished.mkdir()
            (unfinished / content).write_text(content)
    assert _names(tmp_path) == ["d"] and _names(tmp_path / "d") == ["two"]


def test_of_two_that_write_a_folder_the_first_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.replace

    def other_first(source: Path, target: Path) -> None:
        target.mkdir()
        (target / "theirs").write_text("theirs")
        real(source, target)

    monkeypatch.setattr(os, "replace", other_first)
    with replacing(tmp_path / "d") as unfinished:
        unfinished.mkdir()
        (unfinished / "mine").write_text("mine")
    assert _names(tmp_path) == ["d"] and _names(tmp_path / "d") == ["theirs"]


def test_a_folder_that_cannot_be_renamed_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise PermissionError("refused")

    monkeypatch.setattr(os, "replace", refused)
    with pytest.raises(PermissionError), replacing(tmp_path / "d") as unfinished:
        unfinished.mkdir()
    assert _names(tmp_path) == []


def test_what_a_killed_writer_left_is_removed(tmp_path: Path) -> None:
    for name in (".f[1].h5.0123", ".f[1].h5.89ab", "f[1].h5", ".f1.h5.0123", ".f[1].h5x"):
        (tmp_path / name).touch()
    remove_unfinished(tmp_path / "f[1].h5")
    assert _names(tmp_path) == [".f1.h5.0123", ".f[1].h5x", "f[1].h5"]


def test_memory_is_released(make_dataset: Callable[..., Path], tiny_backbone: str, tmp_path: Path) -> None:
    """Networks, features, tables of files and compiled trainings are gone; all is as it was when used again."""
    from featx.heads.network import trainer as trainer_module

    recipe = featx.Recipe(tiny_backbone, preprocess="rescale")
    root = make_dataset(each=4)
    done = featx.extract(root, recipe=recipe, cache_dir=tmp_path / "cache")
    extractor = featx.FeatureExtractor(tiny_backbone, preprocess="rescale").fit()
    rows = extractor.transform([root / "lying/000.png"])
    probabilities = featx.fit(done.features_path, "mlp", epochs=1).predict_proba(
        featx.load_features(done.features_path)
    )
    trunk = weakref.ref(recipe.trunk())
    ids = weakref.ref(featx.load_features(done.features_path).ids)
    assert trunk() is not None and ids() is not None and trainer_module._idle and transformer_module._MEMORY._rows
    featx.clear_memory()
    gc.collect()
    assert trunk() is None and ids() is None and not trainer_module._idle and not transformer_module._MEMORY._rows
    assert share_module.PROCESS._trunk is None
    assert np.array_equal(extractor.transform([root / "lying/000.png"]), rows)
    again = featx.fit(done.features_path, "mlp", epochs=1).predict_proba(featx.load_features(done.features_path))
    np.testing.assert_allclose(again, probabilities, atol=1e-6)
