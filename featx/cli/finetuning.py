"""The commands that train more than a head, and that say whether it is worth it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from featx.cli.commands import CacheDir, Seed, app, on_validation_rows, percent, recipe_options
from featx.cli.terminal import Report, columns, command, note, progress


def network_options(
    backbone: Annotated[str, typer.Option(help="A name of `featx backbones`, or a .keras file.")] = "vgg16",
    alpha: Annotated[float | None, typer.Option(help="Width of a MobileNet, such as 0.35.")] = None,
    layer: Annotated[str | None, typer.Option(help="Where the network ends. Default: its last map.")] = None,
    size: Annotated[int | None, typer.Option(min=1, help="Side in pixels. Default: the network's.")] = None,
    resize: Annotated[Literal["stretch", "crop", "pad"], typer.Option(help="How pictures get that size.")] = "stretch",
    preprocess: Annotated[
        Literal["auto", "rescale", "caffe", "tf", "torch", "none"],
        typer.Option(help="auto: the network's own rule; rescale: x/255."),
    ] = "auto",
    weights: Annotated[str, typer.Option(help="imagenet, random, or a .weights.h5, .h5 or .keras file.")] = "imagenet",
    dtype: Annotated[Literal["float16", "float32"], typer.Option(help="As which features are cached.")] = "float16",
    live_augment: Annotated[
        bool, typer.Option("--live-augment", help="Decode and augment anew in every epoch, as elsewhere.")
    ] = False,
    views: Annotated[int, typer.Option(min=1, help="Views of each training picture to cache; 1: itself only.")] = 1,
    flip: Annotated[bool, typer.Option("--flip", help="Augmentation: mirror about half left to right.")] = False,
    zoom: Annotated[float, typer.Option(help="Augmentation: magnify or shrink by up to this share.")] = 0.0,
    rotate: Annotated[float, typer.Option(help="Augmentation: turn by up to so many degrees.")] = 0.0,
    shift: Annotated[float, typer.Option(help="Augmentation: move by up to this share of the side.")] = 0.0,
    brightness: Annotated[float, typer.Option(help="Augmentation: brighten or darken by up to this share.")] = 0.0,
    seed: Seed = 0,
) -> dict[str, Any]:
    """The fields of a recipe, and its views, cached or live."""
    varies = flip or any((zoom, rotate, shift, brightness))
    n = max(views, 2) if live_augment and varies else views
    given = recipe_options(
        backbone, alpha, layer, "none", size, resize, preprocess, weights, dtype,
        views=n, flip=flip, zoom=zoom, rotate=rotate, shift=shift, brightness=brightness, seed=seed,
    )  # fmt: skip
    return {**given, "live_augment": live_augment}


@command(app, "featx finetune photos/ --unfreeze block5_conv1 --views 5 --flip", options=network_options)
def finetune(
    dataset: Annotated[Path, typer.Argument(help="Folder of CLASS/*, of train/CLASS/* ..., or a label file.")],
    settings: dict[str, Any],
    unfreeze: Annotated[
        str,
        typer.Option(help="First layer to train, or its index; all; none; auto: half of the weights."),
    ] = "auto",
    from_scratch: Annotated[
        Literal["cnn4", "alexnet"] | None, typer.Option(help="A small network, trained from nothing.")
    ] = None,
    init: Annotated[Path | None, typer.Option(help="A classifier whose head, and network, to start from.")] = None,
    head: Annotated[str | None, typer.Option(help="On the network: logreg, svm, ridge, mlp or bn-mlp.")] = None,
    input: Annotated[Literal["flat", "avg", "max"] | None, typer.Option(help="What becomes of maps.")] = None,
    C: Annotated[float | None, typer.Option("--C", help="logreg, svm, ridge: inverse penalty.")] = None,
    hidden: Annotated[int | None, typer.Option(min=1, help="bn-mlp, mlp: width of hidden layers.")] = None,
    layers: Annotated[int | None, typer.Option(min=1, help="bn-mlp, mlp: hidden layers.")] = None,
    dropout: Annotated[float | None, typer.Option(help="bn-mlp, mlp.")] = None,
    head_epochs: Annotated[
        int | None, typer.Option(min=0, help="Epochs of the head alone, first; 0: it starts at random.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="At most. Default: 20.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Pictures a step. Default: 32.")] = None,
    optimizer: Annotated[Literal["adamw", "adam", "sgd"] | None, typer.Option(help="Default: adamw.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Default: 1e-4; 1e-3 from nothing.")] = None,
    momentum: Annotated[float | None, typer.Option(help="sgd. Default: 0.9.")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="adamw, sgd. Default: 1e-4.")] = None,
    schedule: Annotated[Literal["cosine", "constant"] | None, typer.Option(help="Default: cosine.")] = None,
    label_smoothing: Annotated[float | None, typer.Option(help="Share spread over all classes.")] = None,
    patience: Annotated[int | None, typer.Option(min=1, help="Epochs to wait for a better one. Default: 10.")] = None,
    keep: Annotated[
        Literal["best", "last"] | None, typer.Option(help="Which epoch: the best on validation rows, or the last.")
    ] = None,
    tensorboard: Annotated[Path | None, typer.Option(help="Also log each epoch there for TensorBoard.")] = None,
    validation: Annotated[
        float, typer.Option(help="Share to hold out if the data set does not say; 0: train on all, for all epochs.")
    ] = 0.2,
    out: Annotated[Path | None, typer.Option(help="Folder to write. Default: models/DATASET-NETWORK-tail.")] = None,
    cache_dir: CacheDir = Path("cache"),
) -> Report:
    """Train the last layers of a network and a head together, on what its first layers gave once.

    Everything before --unfreeze runs once and is cached. With `--unfreeze all`, or with --live-augment, pictures are
    decoded in every epoch instead, as elsewhere. Interrupted, the same command goes on from the last checkpoint.
    """
    given: dict[str, Any] = {
        "epochs": epochs,
        "batch_size": batch_size,
        "optimizer": optimizer,
        "learning_rate": learning_rate,
    }
    given |= {"momentum": momentum, "weight_decay": weight_decay, "schedule": schedule, "patience": patience}
    given |= {"label_smoothing": label_smoothing, "keep": keep}
    of_head = {"input": input, "C": C, "hidden": hidden, "layers": layers, "dropout": dropout}
    of_head |= {"epochs": head_epochs or None}
    from featx.classifier import refuse_foreign
    from featx.finetuning.finetune import finetune

    folder = out or Path("models") / _name(dataset, from_scratch or (init and init.name) or settings["backbone"])
    refuse_foreign(folder)  # now, and not after hours
    checkpoints = folder.with_name(f"{folder.name}.partial")
    classifier = finetune(
        dataset,
        unfreeze=unfreeze,
        from_scratch=from_scratch,
        init=init,
        head=head,
        head_params={name: value for name, value in of_head.items() if value is not None},
        head_first=head_epochs != 0,
        validation=validation,
        cache_dir=cache_dir,
        checkpoints=checkpoints,
        tensorboard=tensorboard,
        progress=progress,
        on_epoch=_say,
        **settings,
        **{name: value for name, value in given.items() if value is not None},
    )
    if folder.exists():
        note(f"{folder} is replaced")
    classifier.save(folder, done_with=checkpoints)
    report = classifier.fitting.to_json()
    return Report({"model": str(folder), **report}, f"{_summary(report)}\n{folder}")


def _name(dataset: Path, network: str) -> str:
    return f"{dataset.resolve().stem}-{Path(network).name.removesuffix('.keras')}-tail"


def _say(epoch: int, told: dict[str, float]) -> None:
    held_out = (
        f", validation loss {told['val_loss']:.4f}, {percent(told['val_accuracy'])}" if "val_loss" in told else ""
    )
    note(f"epoch {epoch}: loss {told['loss']:.4f}, {percent(told['accuracy'])}{held_out}")


def _summary(report: dict[str, Any]) -> str:
    trained = f"{on_validation_rows(report)}, {percent(report['train_accuracy'])} on training rows"
    if report["unfreeze"] == "none":
        return f"{report['head']}, no layer unfrozen: {trained}, {report['seconds']:.1f} s"
    before = report["start_validation_accuracy"]
    head_alone = f" (the head alone: {percent(before)})" if before is not None else ""
    return (
        f"{report['network']} behind {report['cut']}, {report['head']}: {trained}{head_alone}\n"
        f"{report['epochs']} epochs of {report['seconds_per_epoch']:.2f} s, the best was {report['best_epoch']}; "
        f"{report['features_seconds']:.1f} s for features, {report['seconds']:.1f} s for training"
    )


@command(app, "featx compare photos/ --backbone mobilenetv2", options=recipe_options)
def compare(
    dataset: Annotated[Path, typer.Argument(help="Folder of CLASS/*, of train/CLASS/* ..., or a label file.")],
    settings: dict[str, Any],
    heads: Annotated[str, typer.Option(help="Frozen heads to try, with commas.")] = "logreg,svm,ridge,knn,mlp,bn-mlp",
    unfreeze: Annotated[
        str, typer.Option(help="First layer to train when fine-tuning; auto: half of the weights.")
    ] = "auto",
    end_to_end: Annotated[
        bool, typer.Option("--end-to-end", help="Also train the whole network, which takes long.")
    ] = False,
    repeats: Annotated[int, typer.Option(min=2, help="Trainings of each method, on rows drawn anew.")] = 3,
    epochs: Annotated[int, typer.Option(min=1, help="Of fine-tuning.")] = 10,
    validation: Annotated[float, typer.Option(help="Share to measure on if the data set does not say.")] = 0.2,
    cache_dir: CacheDir = Path("cache"),
) -> Report:
    """Is fine-tuning worth it on your pictures? Heads on frozen features beside fine-tuning, on the same rows.

    Test rows are not looked at. Ends with a recommendation in a sentence.
    """
    from featx.errors import TrainingError
    from featx.finetuning.comparison import compare

    if settings.pop("views").n > 1:
        raise TrainingError("compare takes no views; `featx finetune --views 5 --flip` does")
    found = compare(
        dataset, heads=[name.strip() for name in heads.split(",")], unfreeze=unfreeze, end_to_end=end_to_end,
        repeats=repeats, epochs=epochs, validation=validation, cache_dir=cache_dir, progress=progress,
        **settings,
    )  # fmt: skip
    rows = [
        [m.name, percent(m.accuracy), f"{percent(m.ci95[0])} to {percent(m.ci95[1])}", m.log_loss]
        + [f"{m.features_seconds:.1f}", f"{m.seconds:.2f}"]
        for m in found.methods
    ]
    header = ["method", "accuracy", "95 % interval", "log loss", "features, s", "training, s"]
    fields = asdict(found)
    for method in fields["methods"]:
        del method["right"]
    return Report(fields, f"{columns(rows, header)}\n\n{found.recommendation}")
