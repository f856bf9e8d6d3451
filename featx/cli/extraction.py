"""The command that turns pictures into features."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

from featx.cli.options import (
    CACHE,
    BatchSize,
    CacheDir,
    Dataset,
    PoolingRule,
    extraction_options,
    network_options,
    view_options,
)
from featx.cli.program import PICTURES, PREPARE, RUN, app, command, option
from featx.cli.terminal import Report, by_shape, columns, escaped, note, progress

if TYPE_CHECKING:
    from featx.cache import Features
    from featx.extraction import Extraction

SHOWN = 10  # quarantined pictures, and classes
STAGES = {
    "list": "finding the files and reading those that are new",
    "read": "reading files, all threads together",
    "decode": "decoding them",
    "resize": "resizing them",
    "trunk": "the network",
    "waiting": "the network had no pictures to work on",
    "write": "writing blocks",
    "assemble": "putting the feature file together",
}


@command(
    app,
    "featx extract photos/ --backbone resnet50",
    PREPARE,
    network=network_options,
    computing=extraction_options,
    views=view_options,
)
def extract(
    dataset: Dataset,
    network: dict[str, Any],
    computing: dict[str, Any],
    views: dict[str, Any],
    pooling: PoolingRule = "none",
    strict: Annotated[bool, option(PICTURES, "Fail on the first unreadable picture.")] = False,
    batch_size: BatchSize = None,
    workers: Annotated[
        str, option(RUN, "A number of processes, gpus (one each), dask://HOST:PORT or ray://HOST:PORT.")
    ] = "1",
    profile: Annotated[bool, option(RUN, "Print where the time went.")] = False,
    cache_dir: CacheDir = CACHE,
) -> Report:
    """Run a frozen network over pictures once, and keep its features in a file.

    Pictures whose features are in the cache folder already are not computed again. Unreadable ones go to the
    quarantine, with the reason.
    """
    from featx.cache import load_features
    from featx.extraction import extract
    from featx.pictures import Views

    recipe = {**network, **computing, "pooling": pooling}
    done = extract(
        dataset, views=Views(**views), cache_dir=cache_dir, batch_size=batch_size, workers=workers, strict=strict,
        progress=progress, **recipe,
    )  # fmt: skip
    _note_quarantined(done)
    features = load_features(done.features_path)
    fields = asdict(done) | {"quarantine": [{"path": path, "reason": reason} for path, reason in done.quarantine]}
    fields["features"] = fields.pop("features_path")
    text = _text(done, features) + (f"\n\n{_profile(done)}" if profile else "")
    next_command = "fit" if _can_be_fitted(features) else "inspect"
    return Report(fields, text, next=(next_command, done.features_path))


def _note_quarantined(done: Extraction) -> None:
    for path, reason in done.quarantine[:SHOWN]:
        note(f"quarantined: {path!r}: {reason}")
    if len(done.quarantine) > SHOWN:
        note(f"quarantined: {len(done.quarantine) - SHOWN} more; `featx cache show {done.features_path}` lists all")


def _text(done: Extraction, features: Features) -> str:
    engine = f" by {done.engine}" if done.computed else ""
    rate = f", {done.images_per_second:.1f} pictures/s" if done.computed else ""
    ignored = f" ({done.ignored} other files ignored)" if done.ignored else ""
    views = f"; {done.view_rows} rows of views 1 to {done.views - 1}" if done.view_rows else ""
    return (
        f"{done.listed} listed = {done.rows} rows + {done.quarantined} quarantined{ignored}{views}\n"
        f"{_counts(features)}\n"
        f"{done.computed} computed{engine}, {done.reused} reused in {done.seconds:.1f} s{rate}\n"
        f"{done.features_path}: {by_shape(done.shape)} {done.dtype}"
    )


def _counts(features: Features) -> str:
    """Number of pictures of each class and each split, in a line."""
    first = features.pictures
    classes = Counter(features.class_names[label] for label in features.y[first].tolist() if label >= 0)
    shown = ", ".join(f"{escaped(name)} {count}" for name, count in list(classes.items())[:SHOWN])
    more = f", ... and {len(classes) - SHOWN} more" if len(classes) > SHOWN else ""
    splits = Counter(features.splits[first].tolist())
    marked = ", ".join(f"{name or 'no split'} {count}" for name, count in splits.items())
    return f"{len(classes)} classes: {shown}{more}; {marked}" if classes else f"no labels; {marked}"


def _can_be_fitted(features: Features) -> bool:
    """Whether there are two classes or more, and pictures of each to train on."""
    trains = (features.y >= 0) & ((features.splits == "") | (features.splits == "train"))
    classes = len(features.class_names)
    return classes > 1 and len(set(features.y[trains].tolist())) == classes


def _profile(done: Extraction) -> str:
    """Table of an extraction's seconds by stage, and what would make it quicker."""
    about = {**STAGES, "trunk": f"{STAGES['trunk']}, by {done.engine}"}
    rows = [[stage, round(done.profile[stage], 2), text] for stage, text in about.items() if stage in done.profile]
    return f"{columns(rows, ['stage', 'seconds', ''])}\n{_slowest(done)}"


def _slowest(done: Extraction) -> str:
    if not done.computed:
        return "nothing was computed"
    if done.profile["waiting"] <= done.profile["trunk"]:
        return "the network is what takes the time"
    loading = sum(done.profile.get(stage, 0.0) for stage in ("read", "decode", "resize"))
    if done.profile["decode"] <= loading / 2:
        return "reading pictures is what takes the time"
    hint = "" if "draft" in done.spec["decoder"] else "; --draft decodes large JPEGs faster"
    return f"decoding pictures is what takes the time{hint}"
