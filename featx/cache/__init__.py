"""The cache: feature files, and the folder they lie in. Knows nothing of pictures and networks."""

from featx.cache.blocks import BlockWriter, StatRow
from featx.cache.feature_file import Features, Stat, StoredRows, load_features
from featx.cache.folder import CacheFolder, remove, size_on_disk
from featx.cache.layout import rows_per_block
from featx.cache.spec import (
    Place,
    RowKey,
    Spec,
    require_same_spec,
    row_key,
    settings_key,
    spec_difference,
)
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
    "StoredRows",
    "gather",
    "load_features",
    "remove",
    "require_room",
    "require_same_spec",
    "row_key",
    "rows_per_block",
    "settings_key",
    "size_on_disk",
    "spec_difference",
    "write_features",
]
