"""List the configuration files for the user; reads text and imports nothing slow."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medvision.command_line import train_command


def _find_conf() -> Path:
    inside_wheel = Path(__file__).parents[2] / "conf"
    return inside_wheel if inside_wheel.is_dir() else Path(__file__).parents[4] / "conf"


CONF = _find_conf()
"""Folder of the configuration: inside the installed package, or beside ``src`` in a checkout."""

USAGE = """\
usage: {train} experiment=NAME [key=value ...]
       {train} -m experiment=NAME seed=0,1,2,3,4
       {train} resume=RUN_FOLDER
       {train} sweep=tpe experiment=NAME 'optimizer.lr=tag(log,interval(1e-5,1e-2))'

Trains, tests the best checkpoint and writes runs/<experiment>/<time>/. For research use only.
"""

COMMON_KEYS = """\
Common keys
  data.root=FOLDER          your own data (default: phantoms): FOLDER/images and FOLDER/masks,
                            or a folder of images for each class
  data.image_size=256       pixels          data.batch_size=8
  trainer.max_epochs=20                     optimizer.lr=1e-4
  model.base_channels=64                    seed=0
  trainer.precision=32      default: the fastest safe precision of the device
  data.protocol=grouped     official, merged, grouped or kfold: how the data are split
  model.weights=FILE        weights of a finished run; ckpt_path=FILE: optimizer state too

All keys of a choice:   {train} experiment=NAME --cfg job
"""


def keys_of(group: str, option: str) -> dict[str, Any]:
    """Keys and unresolved values of an option, including those of the options it builds on."""
    import yaml  # keeps help_text() fast

    own = yaml.safe_load((CONF / group / f"{option}.yaml").read_text())
    found: dict[str, Any] = {}
    for base in own.pop("defaults", ()):
        found |= {} if base == "_self_" else keys_of(group, base)
    return {**found, **own}


def options(group: str, *folders: Path) -> list[str]:
    """Names of the options in a config group, also of further folders of configuration."""
    found = (path.stem for conf in (CONF, *folders) for path in (conf / group).glob("*.yaml"))
    return sorted({*found})


def groups(*folders: Path) -> list[str]:
    """Names of the config groups, also of further folders of configuration."""
    below = (path for conf in (CONF, *folders) if conf.is_dir() for path in conf.iterdir())
    return sorted({path.name for path in below if path.is_dir() and any(path.glob("*.yaml"))})


def config_folders(arguments: Sequence[str]) -> list[Path]:
    """Folder that the option ``--config-dir`` of a command adds, if it is given."""
    given = list(arguments)
    for position, argument in enumerate(given):
        name, equals, value = argument.partition("=")
        if name in ("--config-dir", "-cd"):
            following = given[position + 1 : position + 2]
            return [Path(value)] if equals else [Path(folder) for folder in following]
    return []


def run_name(experiment: str, root: object) -> str:
    """Name for the run folders of an experiment.

    An experiment that works with any data is named after a task: the name of the data folder is
    added.

    Args:
        experiment: Name of the experiment.
        root: ``data.root``, a folder or an address; None for phantoms.
    """
    if root is None or experiment not in options("task"):
        return experiment
    place = str(root).partition("?")[0].rstrip("/")
    if "://" not in place:
        place = os.path.abspath(os.path.expanduser(str(root)))  # noqa: PTH100, PTH111  links stay
    data = re.sub(r"[^A-Za-z0-9_.-]+", "-", place.rpartition("/")[2]).strip("-.")
    return f"{experiment}-{data[:80] or 'data'}"


def help_text(arguments: Sequence[str] = ()) -> str:
    """Text that ``--help`` prints; what a folder of ``--config-dir`` adds comes first."""
    train, added = train_command(), config_folders(arguments)
    lines = [USAGE.format(train=train)]
    for folder in added:
        lines += _listing(folder, f" of {folder}") or [f"No configuration in {folder}", ""]
    lines += _listing(CONF)
    return "\n".join([*lines, COMMON_KEYS.format(train=train)])


def _listing(conf: Path, where: str = "") -> list[str]:
    """Lines that list the experiments and the other options in a folder of configuration."""
    experiments = sorted(conf.glob("experiment/*.yaml"))
    others = [
        (path.name, sorted(file.stem for file in path.glob("*.yaml")))
        for path in sorted(conf.glob("*"))
        if path.is_dir() and path.name != "experiment"
    ]
    lines = []
    if experiments:
        width = max(len(path.stem) for path in experiments)
        lines.append(f"Experiments{where}")
        lines += [
            f"  {path.stem:<{width}}  {_first_sentence(path)}".rstrip() for path in experiments
        ]
        lines.append("")
    chosen = [f"  {group + '=':<12} {', '.join(names)}" for group, names in others if names]
    if chosen:
        lines += [f"Choices{where} (key=option)", *chosen, ""]
    return lines


def _first_sentence(path: Path) -> str:
    comments = (line[1:].strip() for line in path.read_text().splitlines() if line.startswith("#"))
    return next((line for line in comments if line and not line.startswith("@")), "")
