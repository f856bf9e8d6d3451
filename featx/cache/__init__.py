"""The cache: feature files, and the folder they lie in. Knows nothing of pictures and networks."""

from featx.cache.blocks import BlockWriter, StatRow
from featx.cache.feature_file import (
    Features,
    Place,
    RowKey,
    Spec,
    Stat,
    load_features,
    made_by,
    require_same_spec,
    row_key,
    rows_per_block,
    spec_difference,
)
from featx.cache.folder import CacheFolder, remove, size_on_disk
from featx.cache.writing import MissingRowsError, gather, require_room, write_features

__all__ = [
    "BlockWriter",
    "CacheFolder",
    "Features",
    "MissingRowsError",
    "Place",
    "RowKey",
    "Spec",
    "Stat",
    "StatRow",
    "gather",
    "load_features",
    "made_by",
    "remove",
    "require_room",
    "require_same_spec",
    "row_key",
    "rows_per_block",
    "size_on_disk",
    "spec_difference",
    "write_features",
]
