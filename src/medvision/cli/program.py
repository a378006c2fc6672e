"""Verbs of the command and their arguments; heavy imports wait until a verb needs them."""

import enum
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from medvision.errors import MedvisionError
from medvision.types import RESEARCH_ONLY

data_app = typer.Typer(help="Public data sets: what there is, getting one; shards of a folder.")


class Kind(enum.StrEnum):
    """What a folder of images is for."""

    segmentation = "segmentation"
    classification = "classification"


class OnError(enum.StrEnum):
    """What becomes of files that cannot be used."""

    fail = "fail"
    skip = "skip"


@data_app.command("list")
def data_list() -> None:
    """Name, task, size, licence and home page of each set."""
    from medvision.cli.screen import list_data

    list_data()


@data_app.command("download")
def data_download(
    name: Annotated[str, typer.Argument(metavar="NAME", help="as `medvision data list` shows")],
    root: Annotated[Path, typer.Option(metavar="DIR", help="new folder for the set")],
) -> None:
    """Fetch a set, check it and lay it out as medvision reads it."""
    from medvision.cli.screen import download_data

    download_data(name, root=root)


@data_app.command(
    "shard",
    help="Pack a folder into tar files (WebDataset's) that a training reads from disk or network."
    " Every file goes in as it is, and the folder stays as it was. The shards hold the names of the"
    " files, and the groups: where those name patients, so do the shards.",
)
def data_shard(
    root: Annotated[Path, typer.Argument(metavar="ROOT", help="class folders, or images + masks")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="folder for the shards, new or empty")],
    task: Annotated[
        Kind | None, typer.Option(help="default: what the layout of the folder says")
    ] = None,
    shard_mb: Annotated[int, typer.Option(min=1, help="largest size of a shard, in MB")] = 256,
    group_pattern: Annotated[
        str | None, typer.Option(help=r"what names the patient in a path, as '(person\d+)_'")
    ] = None,
    mask_suffix: Annotated[
        str, typer.Option(help="what the names of masks have beyond those of images")
    ] = "",
    num_classes: Annotated[
        int, typer.Option(min=2, max=255, help="of the masks, the background included")
    ] = 2,
    color: Annotated[
        list[str] | None,
        typer.Option(metavar="R,G,B", help="colour of each class in the masks; give it for each"),
    ] = None,
    value_range: Annotated[
        tuple[float, float] | None,
        typer.Option(help="values of deeper than 8-bit files that become black and white"),
    ] = None,
    on_error: Annotated[
        OnError, typer.Option(help="fail on an unusable file, or skip it and say so")
    ] = OnError.fail,
) -> None:
    """Hand the options on."""
    from medvision.cli.screen import shard_on_screen

    shard_on_screen(
        root,
        out,
        task=None if task is None else task.value,
        shard_mb=shard_mb,
        group_pattern=group_pattern,
        mask_suffix=mask_suffix,
        num_classes=num_classes,
        colors=color or [],
        value_range=value_range,
        on_error=on_error.value,
    )


app = typer.Typer(
    help=f"Train, check and compare 2-D medical-image models. {RESEARCH_ONLY}",
    add_completion=False,
)
app.add_typer(data_app, name="data")

ClickException: Any = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")
"""Base of typer's usage errors: newer releases carry their own click inside."""


INTERRUPTED = 130
"""Exit code that typer makes of Ctrl-C."""


class Format(enum.StrEnum):
    """What a model can be exported to."""

    onnx = "onnx"
    safetensors = "safetensors"


class Split(enum.StrEnum):
    """Which images are measured."""

    test = "test"
    val = "val"
    all = "all"


@app.callback(invoke_without_command=True)
def _no_verb(context: typer.Context) -> None:
    """Print the help when no verb is given."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command(
    context_settings={"ignore_unknown_options": True, "help_option_names": []},
    help="Train, test and write a run folder, as `python train.py` does in a checkout.",
)
def train(
    arguments: Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE...")] = None,
) -> None:
    """Hand the overrides to the one Hydra program."""
    from medvision.run import main as train_main

    raise typer.Exit(train_main(arguments or []))


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(metavar="RUN|MODEL", help="run, .ckpt, .onnx, ...")],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE_OR_FOLDER...")],
    out: Annotated[Path, typer.Option(help="folder for the results, new or empty")],
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="write foreground probabilities as PNG too")
    ] = False,
    overlays: Annotated[bool, typer.Option(help="write the image with contours")] = True,
    tta: Annotated[bool, typer.Option("--tta", help="average over mirrored images")] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="write Grad-CAM heat maps (classifiers)")
    ] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="images of a batch")] = 8,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="write into a folder that holds something")
    ] = False,
) -> None:
    """Predict new images of any size: masks and overlays, or classes, and a table."""
    from medvision.cli.screen import predict_on_screen

    for path in images:
        _refuse_shards(path, "predict reads image files", hint="unpack them first: tar -xf SHARD")
    raise typer.Exit(
        predict_on_screen(
            model,
            images,
            out=out,
            probabilities=probabilities,
            overlays=overlays,
            tta=tta,
            explain=explain,
            batch_size=batch_size,
            overwrite=overwrite,
        )
    )


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="folder of a finished run")],
    data: Annotated[
        Path | None, typer.Option(metavar="ROOT", help="another data set of the same kind")
    ] = None,
    split: Annotated[
        Split | None, typer.Option(help="test, val or all; of another set without a split all")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="default: RUN/evaluation/...")] = None,
    conventions: Annotated[
        bool,
        typer.Option("--conventions", help="score the same predictions as other tools do, too"),
    ] = False,
    accelerator: Annotated[
        str | None, typer.Option(help="cpu, gpu, tpu or tpu_rehearsal; default: the run's own")
    ] = None,
) -> None:
    """Measure a finished run on its test images, or on another data set."""
    from medvision.cli.screen import evaluate_on_screen

    evaluate_on_screen(
        run,
        root=data,
        split=None if split is None else split.value,
        out=out,
        conventions=conventions,
        accelerator=accelerator,
    )


@app.command()
def export(
    model: Annotated[Path, typer.Argument(metavar="RUN|MODEL", help="a run folder or a .ckpt")],
    format: Annotated[Format, typer.Option(help="what to write")],  # noqa: A002  the option's name
    out: Annotated[Path | None, typer.Option(help="default: beside the checkpoint")] = None,
    images: Annotated[
        list[Path] | None, typer.Option(help="images to check it on; default: test images")
    ] = None,
) -> None:
    """Write a model that other programs can run, checked against this one."""
    from medvision.cli.screen import export_on_screen

    export_on_screen(model, format=format.value, out=out, images=images or [])


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN RUN...")],
    out: Annotated[Path, typer.Option(help="folder for the page and tables")] = Path("comparison"),
) -> None:
    """Say who is better on the same test images, by how much and how surely; one page."""
    from medvision.cli.screen import compare_on_screen

    compare_on_screen(runs, out=out)


@app.command()
def audit(
    root: Annotated[Path, typer.Argument(metavar="ROOT", help="class folders, or images + masks")],
    against: Annotated[
        Path | None,
        typer.Option(metavar="ROOT2", help="a test set: ROOT is then held to be train"),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="default: audit/<name of ROOT>")
    ] = None,
    group_pattern: Annotated[
        str | None, typer.Option(help=r"what names the patient in a path, as '(person\d+)_'")
    ] = None,
    mask_suffix: Annotated[
        str, typer.Option(help="what the names of masks have beyond those of images")
    ] = "",
    num_classes: Annotated[
        int, typer.Option(min=2, max=255, help="of the masks, the background included")
    ] = 2,
) -> None:
    """Look for what makes scores untrue: duplicates, leaks, conflicts, shortcuts."""
    from medvision.cli.screen import audit_on_screen

    for path in (root, against) if against is not None else (root,):
        _refuse_shards(
            path,
            "the audit reads a folder of images",
            hint="audit the folder they were made of; a training on shards audits them itself",
        )
    raise typer.Exit(
        audit_on_screen(
            root,
            against=against,
            out=out,
            group_pattern=group_pattern,
            mask_suffix=mask_suffix,
            num_classes=num_classes,
        )
    )


def _refuse_shards(path: Path, what: str, *, hint: str) -> None:
    """Say that a verb reads plain files, where it is given shards."""
    from medvision.data.shards.location import holds_shards

    if holds_shards(path.expanduser()):
        raise MedvisionError(f"{what}, these are shards", where=str(path), hint=hint)


def main() -> None:
    """Run the command; every error is one line, with the exit code of its kind."""
    from medvision.run.quick_imports import defer_matplotlib

    defer_matplotlib()
    sys.exit(_code())


def _code() -> int:
    try:
        code = int(app(standalone_mode=False) or 0)
    except ClickException as error:
        message = error.format_message().rstrip(".")
        sys.stderr.write(f"error: {message} (command line); see medvision --help\n")
        return 2
    except Exception as error:
        from medvision.run.processes.errors import report

        return report(error)
    if code == INTERRUPTED and sys.argv[1] != "train":  # which has said so itself
        sys.stderr.write("interrupted\n")
    return code
