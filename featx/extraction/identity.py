"""Identity of a trunk: the spec of its features, noted in the cache folder so that no run need build it."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

from featx._internal.hashing import digest
from featx._internal.progress import Progress
from featx.cache import CacheFolder, Spec
from featx.errors import CacheError
from featx.extraction.recipe import Recipe

MEMO = "trunks.json"


@dataclass(frozen=True)
class TrunkIdentity:
    """Identity of a recipe's trunk.

    Attributes:
        spec: everything that decides a feature's value.
        feature_shape: ``(h, w, c)`` or ``(c,)``.
        engine: name of the engine that computed such features last.
    """

    spec: Spec
    feature_shape: tuple[int, ...]
    engine: str


def identify(recipe: Recipe, store: CacheFolder, progress: Progress) -> TrunkIdentity:
    """Identity of a recipe's trunk; as an earlier run has noted it if one has, since building takes seconds."""
    key = digest(recipe.trunk_key())
    memo = store.read_memo(MEMO)
    try:
        known = memo[key]
        spec = {**known["spec"], **recipe.pictures_spec}
        return TrunkIdentity(spec, tuple(known["shape"]), str(known["engine"]))
    except (KeyError, TypeError):  # not known yet, or somebody's edit
        pass
    progress("building the trunk", 0, 0)
    trunk = recipe.trunk()
    identity = TrunkIdentity(recipe.spec(trunk), trunk.info.feature_shape, trunk.info.engine)
    _note(store, memo, key, {"spec": identity.spec, "shape": identity.feature_shape, "engine": identity.engine})
    return identity


def note_engine(recipe: Recipe, store: CacheFolder, engine: str) -> None:
    """Note what computed, so that a run that has nothing to compute can say it."""
    key = digest(recipe.trunk_key())
    memo = store.read_memo(MEMO)
    if isinstance(memo.get(key), dict):
        _note(store, memo, key, {**memo[key], "engine": engine})


def forget_identities(store: CacheFolder) -> None:
    """Forget all identities: a trunk was not what was noted of it."""
    store.write_memo(MEMO, {})


def _note(store: CacheFolder, memo: dict[str, Any], key: str, known: dict[str, Any]) -> None:
    with contextlib.suppress(CacheError):  # it only saves work
        store.write_memo(MEMO, {**memo, key: known})
