"""Schema of the config in a run folder, which may come from anywhere.

Such a config is values, not instructions: classes come from the lists of ``medvision.registry``,
folders are derived from the place of the run, and no number may ask for more memory than a run
needs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from medvision.data.shards.location import place_of
from medvision.errors import MedvisionError, printable
from medvision.files import MOST_TEXT, runs_in_spreadsheets
from medvision.registry import KEYS, PARTS, PATH_KEYS, Purpose, check_classes
from medvision.run.config.schema import check_values

LIMITS = {
    "data.batch_size": 65_536,
    "data.folds": 10_000,
    "data.num_images": 10_000_000,
    "model.base_channels": 4096,
}
"""Largest values of numbers that decide how much memory a run takes."""

MOST = 2**63
"""Largest absolute value of any other integer."""

MOST_BATCH_PIXELS = 2**32
"""Largest number of pixels in a batch."""

MOST_PX = 16_384
"""Largest number among the arguments of transforms, some of which are sizes of images."""

MOST_SCALE = 100
"""Largest factor among them, by which the sides of images may grow."""

LONGEST_TEXT = MOST_TEXT

NEEDED = ("checkpoint", *(part for part in PARTS if part not in ("logger", "metrics")))
"""Parts that a run cannot continue without."""

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""Control characters, which steer a terminal; a class name may hold a line break."""

_NAMES = re.compile(r"(name|version|experiment_name|run_name|project|prefix)")
"""Keys of a logger of which it makes names of files."""


def check_stored_config(cfg: DictConfig, purpose: Purpose, *, where: str, hint: str) -> None:
    """Check the values of a stored config.

    Args:
        cfg: Content of ``config.yaml``, or some of its parts.
        purpose: Purpose of reading it.
        where: The file, for messages.
        hint: Action if it names a class of a package that cannot be trusted.

    Raises:
        MedvisionError: If it names a class or sets a key that a file may not, or a value is out of
            range.
    """
    config: Any = OmegaConf.to_container(cfg)
    needed = NEEDED if purpose >= Purpose.RESUME else ()
    for part in (*needed, *config):
        node = config.get(part)
        if not isinstance(node, Mapping) and (
            part in needed or (part in PARTS and node is not None)
        ):
            raise _odd(f"{part} is {str(node)[:60]!r}", where)
    for name, node in (config.get("callbacks") or {}).items():
        if node is not None and not isinstance(node, Mapping):
            raise _odd(f"callbacks.{name} is {str(node)[:60]!r}", where)
    option = "--trust " if purpose < Purpose.RESUME else "trust="
    check_classes(config, purpose, where=where, hint=hint, option=option)
    for key, value in _values(config, ""):
        if not _holds(value):
            raise _odd(f"{key} is {str(value)[:60]!r}", where)
        if key == "data.class_names" and ("\n" in str(value) or runs_in_spreadsheets(str(value))):
            raise _odd(f"{key} holds {str(value)[:60]!r}", where)
        if "_transforms." in key:
            last = key.rpartition(".")[2]
            most = MOST_SCALE if "scale" in last else MOST_PX
            if abs(_number(value)) > most:
                raise _odd(f"{key} is {str(value)[:60]!r}, more than {most}", where)
            if last.endswith("path"):
                raise _odd(f"{key} names a file", where)
        if value is not None and key in LIMITS and not 0 <= _number(value) <= LIMITS[key]:
            raise _odd(f"{key} is {str(value)[:60]!r}, more than {LIMITS[key]}", where)
    for key, value in _logger_of(config).items():
        leads_away = re.search(r"[/\\]|\.\.", str(value))
        if _NAMES.fullmatch(str(key)) and leads_away:
            raise _odd(f"logger.{key} is {str(value)[:60]!r}, which leads to another folder", where)
    try:
        check_values(cfg)
    except MedvisionError as fault:
        raise _odd(f"{fault.where}: {fault.what}", where) from fault
    data = config.get("data")
    if isinstance(data, Mapping):
        size, batch = (_number(data.get(key, 1)) for key in ("image_size", "batch_size"))
        if size * size * batch > MOST_BATCH_PIXELS:
            raise _odd(f"a batch of {batch:.0f} images of {size:.0f} x {size:.0f} pixels", where)


def derive_folders(config: dict[str, Any], run: Path) -> None:
    """Let a config name the folder in which the run lies now, whatever it says.

    Callbacks and loggers of packages that the user trusts keep their own.
    """
    config["run_dir"] = str(run)
    for node in (*_nodes(config.get("callbacks")), _logger_of(config)):
        if str(node.get("_target_")) in KEYS:
            node.update({key: str(run) for key in PATH_KEYS if key in node})


def check_root(cfg: DictConfig, *, named: str | None, is_own: bool, where: str, hint: str) -> None:
    """Check that a stored config fetches nothing that the user has not asked for.

    Folders of this machine are read. An address is used if the user has named it again, or has
    started the run; where neither is so, nothing is downloaded to a folder that does not exist.

    Args:
        cfg: Stored config; changed in place.
        named: Data set that the command names; None if it names none.
        is_own: True if this user has started the run.
        where: The file, for messages.
        hint: How to name the data set.

    Raises:
        MedvisionError: If the config alone names an address.
    """
    root = OmegaConf.select(cfg, "data.root")
    if root is None or is_own or (named is not None and place_of(named) == place_of(str(root))):
        return
    if not isinstance(place_of(str(root)), Path):
        raise MedvisionError(
            f"the config of the run names data at {printable(str(root))}, an address that is used"
            " only on request, because you did not start this run",
            where=where,
            hint=hint.replace("ROOT", printable(str(root))),
        )
    if OmegaConf.select(cfg, "data.download") is not None:
        cfg.data.download = None


def _holds(value: Any) -> bool:
    """Return True if a plain value is small, and a text does not steer a terminal."""
    if isinstance(value, str):
        return len(value) <= LONGEST_TEXT and not _CONTROL.search(value)
    return not isinstance(value, int) or abs(value) < MOST


def _number(value: Any) -> float:
    """Return a number; 0 for anything else, which the schema refuses."""
    return value if type(value) in (int, float) else 0


def _values(node: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Every plain value at any depth, with its full name; keys are values too."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield f"{path[:100]} (a key)", key
            yield from _values(value, f"{path}.{key}".lstrip("."))
    elif isinstance(node, list):
        for value in node:
            yield from _values(value, path)
    else:
        yield path, node


def _nodes(node: Any) -> list[dict[str, Any]]:
    values = node.values() if isinstance(node, dict) else ()
    return [value for value in values if isinstance(value, dict)]


def _logger_of(config: Mapping[str, Any]) -> dict[str, Any]:
    logger = config.get("logger")
    return logger if isinstance(logger, dict) else {}


def _odd(what: str, where: str) -> MedvisionError:
    return MedvisionError(
        f"invalid value in the config of the run: {printable(what)}",
        where=where,
        hint="correct the file",
    )
