"""The commands that train more than a head, and that say whether it is worth it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from featx._internal.choices import HEADS, TUNED_HEADS, Kept, Optimizer, Schedule, Scratch
from featx._internal.options import option_of
from featx._internal.text import percent
from featx.cli import completion
from featx.cli.classifier import on_validation_rows
from featx.cli.options import (
    CACHE,
    VALIDATION,
    CacheDir,
    Dataset,
    Unfreeze,
    Validation,
    extraction_options,
    head_options,
    network_options,
    not_none,
    view_options,
)
from featx.cli.places import after_training, in_cache, save
from featx.cli.program import HEAD, NETWORK, OUTPUT, TRAIN, TRAINING, VIEWS, app, command, option
from featx.cli.terminal import Report, columns, note, progress

if TYPE_CHECKING:
    from featx.classifier import Fitting
    from featx.finetuning.comparison import Comparison


def training_options(
    epochs: Annotated[int | None, option(TRAINING, "At most. Default: 20.", min=1)] = None,
    batch_size: Annotated[int | None, option(TRAINING, "Pictures per step. Default: 32.", min=1)] = None,
    optimizer: Annotated[Optimizer | None, option(TRAINING, "Default: adamw.")] = None,
    learning_rate: Annotated[
        float | None, option(TRAINING, "At its height. Default: 0.0001; with --from-scratch 0.001.")
    ] = None,
    momentum: Annotated[float | None, option(TRAINING, "sgd. Default: 0.9.")] = None,
    weight_decay: Annotated[float | None, option(TRAINING, "adamw, sgd. Default: 0.0001.")] = None,
    schedule: Annotated[Schedule | None, option(TRAINING, "Of the learning rate. Default: cosine.")] = None,
    label_smoothing: Annotated[
        float | None, option(TRAINING, "Share of each target spread over all classes. Default: 0.")
    ] = None,
    patience: Annotated[int | None, option(TRAINING, "Epochs to wait for a better one. Default: 10.", min=1)] = None,
    keep: Annotated[
        Kept | None, option(TRAINING, "Epoch to keep: the best on validation rows, or the last. Default: best.")
    ] = None,
) -> dict[str, Any]:
    """Settings of training; those left out have no entry."""
    training = not_none(epochs=epochs, batch_size=batch_size, optimizer=optimizer, learning_rate=learning_rate)
    training |= not_none(momentum=momentum, weight_decay=weight_decay, schedule=schedule)
    return training | not_none(label_smoothing=label_smoothing, patience=patience, keep=keep)


@command(
    app,
    "featx finetune photos/ --unfreeze block5_conv1 --views 5 --flip",
    TRAIN,
    network=network_options,
    views=view_options,
    of_head=head_options,
    training=training_options,
)
def finetune(
    dataset: Dataset,
    *,
    unfreeze: Unfreeze = "auto",
    from_scratch: Annotated[Scratch | None, option(NETWORK, "A small network, trained from nothing.")] = None,
    init: Annotated[
        Path | None,
        option(
            NETWORK,
            "A classifier whose head, and network, to start from.",
            autocompletion=completion.models,
        ),
    ] = None,
    network: dict[str, Any],
    live_augment: Annotated[bool, option(VIEWS, "Decode and augment anew in every epoch, without a cache.")] = False,
    views: dict[str, Any],
    head: Annotated[
        str | None,
        option(
            HEAD,
            f"On the network: {', '.join(TUNED_HEADS[:-1])} or {TUNED_HEADS[-1]}. Default: logreg.",
            autocompletion=completion.one_of(*TUNED_HEADS),
        ),
    ] = None,
    of_head: dict[str, Any],
    head_epochs: Annotated[
        int | None, option(HEAD, "Epochs of the head alone, first; 0: it starts at random.", min=0)
    ] = None,
    training: dict[str, Any],
    validation: Validation = VALIDATION,
    cache_dir: CacheDir = CACHE,
    out: Annotated[Path | None, option(OUTPUT, "Folder to write. Default: models/DATASET-NETWORK-tail.")] = None,
    tensorboard: Annotated[Path | None, option(OUTPUT, "Also log each epoch there for TensorBoard.")] = None,
) -> Report:
    """Train the last layers of a network and a head together, on what its first layers gave once.

    Everything before --unfreeze runs once and is cached. With `--unfreeze all`, or with --live-augment, pictures are
    decoded in every epoch instead. With `--validation 0` it trains on all pictures, for all epochs.
    Interrupted, the same command goes on from the last checkpoint.
    """
    from featx.classifier import refuse_foreign
    from featx.finetuning.finetune import finetune
    from featx.pictures import Views
    from featx.tail import discard_checkpoints

    folder = out or Path("models") / _name(dataset, from_scratch or (init and init.name) or network["backbone"])
    refuse_foreign(folder)  # now, and not after hours
    checkpoints = folder.with_name(f"{folder.name}.partial")
    classifier = finetune(
        dataset,
        unfreeze=unfreeze,
        from_scratch=from_scratch,
        init=init,
        head=head,
        head_params={**of_head, **not_none(epochs=head_epochs or None)},
        head_first=head_epochs != 0,
        live_augment=live_augment,
        views=Views(**(_varied(views) if live_augment else views)),
        validation=validation,
        cache_dir=cache_dir,
        checkpoints=checkpoints,
        tensorboard=tensorboard,
        progress=progress,
        on_epoch=_say,
        **network,
        **training,
    )
    save(classifier, folder)
    discard_checkpoints(checkpoints)
    record = classifier.fitting
    fields = {"model": str(folder), **record.to_json()}
    return Report(fields, f"{_summary(record)}\n{folder}", next=after_training(classifier, folder))


def _varied(views: dict[str, Any]) -> dict[str, Any]:
    """View options whose number is 2 or more if a setting varies views: live, each epoch has another view."""
    varies = any(value for name, value in views.items() if name not in ("n", "random_state"))
    return {**views, "n": max(views["n"], 2)} if varies else views


def _name(dataset: Path, network: str) -> str:
    return f"{dataset.resolve().stem}-{Path(network).name.removesuffix('.keras')}-tail"


def _say(epoch: int, logs: dict[str, float]) -> None:
    line = f"epoch {epoch}: loss {logs['loss']:.4f}, {percent(logs['accuracy'])}"
    if "val_loss" in logs:
        line += f", validation loss {logs['val_loss']:.4f}, {percent(logs['val_accuracy'])}"
    note(line)


def _summary(record: Fitting) -> str:
    trained = f"{on_validation_rows(record)}, {percent(record.train_accuracy)} on training rows"
    if record.unfreeze == "none":
        return f"{record.head}, no layer unfrozen: {trained}, {record.seconds:.1f} s"
    before = record.start_validation_accuracy
    head_alone = f" (the head alone: {percent(before)})" if before is not None else ""
    return (
        f"{record.network} behind {record.cut}, {record.head}: {trained}{head_alone}\n"
        f"{record.epochs} epochs of {record.seconds_per_epoch:.2f} s, the best was {record.best_epoch}; "
        f"{record.features_seconds:.1f} s for features, {record.seconds:.1f} s for training"
    )


@command(
    app,
    "featx compare photos/ --backbone mobilenetv2",
    TRAIN,
    network=network_options,
    computing=extraction_options,
)
def compare(
    dataset: Dataset,
    network: dict[str, Any],
    computing: dict[str, Any],
    heads: Annotated[str, option(HEAD, "Frozen heads to try, with commas.")] = ",".join(HEADS),
    unfreeze: Unfreeze = "auto",
    end_to_end: Annotated[bool, option(TRAINING, "Also train the whole network, which takes long.")] = False,
    epochs: Annotated[int, option(TRAINING, "Of fine-tuning.", min=1)] = 10,
    repeats: Annotated[int, option(TRAINING, "Trainings of each method, on rows drawn anew.", min=2)] = 3,
    validation: Validation = VALIDATION,
    cache_dir: CacheDir = CACHE,
) -> Report:
    """Is fine-tuning worth it on your pictures? Heads on frozen features beside fine-tuning, on the same rows.

    Test rows are not looked at. Ends with a recommendation in a sentence.
    """
    from featx.finetuning.comparison import END_TO_END, compare

    recipe = {**network, **computing}
    comparison = compare(
        dataset, heads=[name.strip() for name in heads.split(",")], unfreeze=unfreeze, end_to_end=end_to_end,
        repeats=repeats, epochs=epochs, validation=validation, cache_dir=cache_dir, progress=progress,
        **recipe,
    )  # fmt: skip
    fields = asdict(comparison)
    for method in fields["methods"]:
        del method["right"]
    best = "all" if comparison.best_tuned == END_TO_END else unfreeze
    next_command = _finetune(dataset, network, best, cache_dir) if comparison.worth_it else ()
    return Report(fields, _table(comparison), next=next_command)


def _table(comparison: Comparison) -> str:
    rows = [
        [m.name, percent(m.accuracy), f"{percent(m.ci95[0])} to {percent(m.ci95[1])}", m.log_loss]
        + [f"{m.features_seconds:.1f}", f"{m.seconds:.2f}"]
        for m in comparison.methods
    ]
    header = ["method", "accuracy", "95 % interval", "log loss", "features, s", "training, s"]
    return f"{columns(rows, header)}\n\n{comparison.recommendation}"


def _finetune(dataset: Path, network: dict[str, Any], unfreeze: str, cache_dir: Path) -> list[str | Path]:
    """Words of the command that fine-tunes the network that was compared."""
    usual = {**network_options(), "unfreeze": "auto"}
    words: list[str | Path] = ["finetune", dataset]
    for name, value in {**network, "unfreeze": unfreeze}.items():
        words += [option_of(name), str(value)] if value != usual[name] else []
    return words + in_cache(cache_dir)
