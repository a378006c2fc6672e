"""What `medvision data shard` shows while it works, and what it says at the end."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from medvision.console import progress_bar, say
from medvision.errors import MedvisionError

MEGABYTE = 10**6
OPTIONS = {
    "data.group_pattern": "--group-pattern",
    "data.mask_suffix=": "--mask-suffix ",
    "data.on_error=skip": "--on-error skip",
    "data.value_range": "--value-range",
    "data.class_names": "--num-classes",
    "data.color_map": "--color",
    "data.root": "ROOT",
}
"""Keys of a training's config that errors of shared code name, and what they are called here."""


def shard_on_screen(
    root: Path,
    out: Path,
    *,
    task: Literal["segmentation", "classification"] | None,
    shard_mb: int,
    group_pattern: str | None,
    mask_suffix: str,
    num_classes: int,
    colors: Sequence[str],
    value_range: tuple[float, float] | None,
    on_error: Literal["fail", "skip"],
) -> None:
    """Make shards of a folder, and say how many they are and how to train on them."""
    from medvision.data.shards.create import make_shards

    color_map = [_color(text) for text in colors] or None
    with progress_bar() as advance:
        try:
            made = make_shards(
                root,
                out,
                task=task,
                shard_bytes=shard_mb * MEGABYTE,
                group_pattern=group_pattern,
                mask_suffix=mask_suffix,
                num_classes=num_classes if color_map is None else len(color_map),
                color_map=color_map,
                value_range=value_range,
                on_error=on_error,
                advance=advance,
            )
        except MedvisionError as error:
            raise _in_words_of_the_command(error) from error
    manifest = made.manifest
    for note in manifest.notes:
        say(f"note: {_told(note)}")
    say(
        f"{_counted(len(manifest.shards), 'shard')}, {_counted(manifest.num_images, 'image')}"
        f"{' with masks' if manifest.task == 'segmentation' else ''},"
        f" {made.num_bytes / MEGABYTE:.1f} MB"
    )
    say(f"train on them: python train.py experiment=NAME data.root={shlex.quote(str(made.out))}")


def _color(text: str) -> tuple[int, int, int]:
    parts = text.split(",")
    if len(parts) != 3 or not all(p.strip().isdecimal() and int(p) < 256 for p in parts):
        raise MedvisionError(
            f"{text} is no colour", where="--color", hint="give red,green,blue from 0 to 255"
        )
    red, green, blue = (int(part) for part in parts)
    return red, green, blue


def _in_words_of_the_command(error: MedvisionError) -> MedvisionError:
    """The error with options of the command in the place of config keys."""
    where = None if error.where is None else _told(error.where)
    hint = None if error.hint is None else _told(error.hint)
    return MedvisionError(_told(error.what), where=where, hint=hint, exit_code=error.exit_code)


def _told(text: str) -> str:
    for key, option in OPTIONS.items():
        text = text.replace(key, option)
    return text


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
