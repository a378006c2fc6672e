"""The verbs below `medvision data`; nothing heavy is imported before one of them needs it."""

import enum
from pathlib import Path
from typing import Annotated

import typer

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
    from medvision.cli.shard_screen import shard_on_screen

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
