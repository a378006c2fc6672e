"""The best trial as an experiment file that is ready to run."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from hydra.core.config_loader import ConfigLoader
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

from medvision.files import write_atomically
from medvision.run.search_keys import text_of
from medvision.run.search_settings import Settings
from medvision.sweeps.trial import Trial

PACKAGE = "# @package _global_\n#\n"


@dataclass
class _Parts:
    """An experiment in the making.

    Attributes:
        groups: Options by group.
        values: Nested values.
        rest: Overrides that a file cannot hold.
    """

    groups: dict[str, str]
    values: dict[str, Any]
    rest: list[str]


def experiment_name(settings: Settings) -> str:
    """What the file of the best trial is called."""
    return f"{settings.name}_best"


def write_best(settings: Settings, trial: Trial, trials: Sequence[Trial], loader: Any) -> Path:
    """Write ``experiment/<name>_best.yaml`` into the folder of the search.

    Args:
        settings: Of the search.
        trial: The best one.
        trials: All of them.
        loader: Of Hydra; knows the config groups.
    """
    parts = _sorted(_overrides(settings, trial), loader)
    path = settings.folder / "experiment" / f"{experiment_name(settings)}.yaml"
    path.parent.mkdir(exist_ok=True)
    defaults: list[Any] = [settings.definition.experiment]
    defaults += [{f"override /{group}": option} for group, option in parts.groups.items()]
    content = {"defaults": [*defaults, "_self_"], **parts.values}
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=100)
    write_atomically(path, PACKAGE + _header(settings, trial, trials, parts.rest) + text)
    return path


def command_of_best(settings: Settings, rest: Sequence[str] = ()) -> str:
    """What trains the best config, and tests it."""
    where = f"--config-dir {shlex.quote(str(settings.folder))}"
    given = shlex.join([f"experiment={experiment_name(settings)}", *rest])
    return f"python train.py {where} {given}"


def _overrides(settings: Settings, trial: Trial) -> list[Override]:
    """The fixed overrides, and the values of the trial."""
    own = [key.override(trial.values[key.name]) for key in settings.definition.keys]
    fixed = [o for o in settings.given.fixed if o.key_or_group != "experiment"]
    return [*fixed, *OverridesParser.create().parse_overrides(own)]


def _sorted(overrides: Sequence[Override], loader: ConfigLoader) -> _Parts:
    parts = _Parts(groups={}, values={}, rest=[])
    for override in overrides:
        key, value = override.key_or_group, override.value()
        is_group = loader.get_group_options(key, results_filter=ObjectType.CONFIG) != []
        plain = override.package is None and not override.is_delete()
        if is_group and plain and isinstance(value, str) and not override.is_add():
            parts.groups[key] = value
        elif is_group or not plain:
            parts.rest.append(text_of(override))
        else:
            _put(parts.values, key.split("."), value)
    return parts


def _put(values: dict[str, Any], path: Sequence[str], value: Any) -> None:
    *parents, last = path
    for name in parents:
        inner = values.setdefault(name, {})
        if not isinstance(inner, dict):
            inner = values[name] = {}
        values = inner
    values[last] = value


def _header(settings: Settings, trial: Trial, trials: Sequence[Trial], rest: Sequence[str]) -> str:
    definition = settings.definition
    ended = sum(one.ended for one in trials)
    epoch = (
        "" if trial.best_epoch is None else f" at epoch {trial.best_epoch + 1} of {trial.epochs}"
    )
    lines = [
        f"The best of {ended} trials of the search {settings.name}: trial {trial.number}.",
        f"  command   {command_of_best(settings, rest)}",
        f"  value     {definition.metric} {trial.value}{epoch}; the best of many, so it is",
        "            optimistic. The search did not touch the test split, this command does",
    ]
    return "".join(f"# {line}\n" for line in lines)
