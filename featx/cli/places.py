"""Files and folders that commands read and write by default, and notes about them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from featx.cli.terminal import note

if TYPE_CHECKING:
    from featx.classifier import Classifier


def features_or_newest(features: Path | None, cache_dir: Path) -> Path:
    """Feature file that was named, else the newest in the cache folder."""
    if features is not None:
        return features
    from featx.cache import CacheFolder

    newest = CacheFolder(cache_dir).newest()
    note(f"using {newest}, the newest feature file")
    return newest


def save(classifier: Classifier, folder: Path) -> None:
    """Save a classifier, and say so if that replaces one."""
    if folder.exists():
        note(f"{folder} is replaced")
    classifier.save(folder)


def require_folder_of(option: str, file: Path | None) -> None:
    """Refuse, before the work, a file in a folder that does not exist.

    Raises:
        SettingError: no such folder.
    """
    from featx.errors import SettingError

    if file and not file.absolute().parent.is_dir():
        folder = file.absolute().parent
        raise SettingError(f"{option} {file}: there is no folder {folder}; make it, or name another file")


def after_training(classifier: Classifier, folder: Path) -> tuple[str | Path, ...]:
    """Words of the next command: to measure, or, where all labelled pictures were trained on, to check."""
    return ("evaluate", folder) if _can_be_measured(classifier) else ("doctor", folder)


def _can_be_measured(classifier: Classifier) -> bool:
    from featx.cache import load_features

    if len(classifier.validation_ids):
        return True
    features = load_features(classifier.fitting.features_path)
    trained_on = set(classifier.train_ids.tolist())
    labelled = features.ids[(features.y >= 0) & features.pictures].tolist()
    return any(picture not in trained_on for picture in labelled)


def where_else(source: Path | None, cache_dir: Path, weights: str | None) -> list[str | Path]:
    """Words by which the next command finds pictures, features and weights where this one did."""
    words: list[str | Path] = [source] if source else []
    words += ["--weights", weights] if weights else []
    return words + in_cache(cache_dir) if source and source.suffix != ".h5" else words


def in_cache(cache_dir: Path) -> list[str | Path]:
    """Words for the next command to use the same cache folder; none if it would by itself."""
    usual = Path(os.environ.get("FEATX_CACHE") or "cache")
    return ["--cache-dir", cache_dir] if cache_dir != usual else []
