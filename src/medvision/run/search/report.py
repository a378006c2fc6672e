"""Files of a search: the trials, the best experiment, the page."""

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
from medvision.run.multirun.summary import write_rows
from medvision.run.search.settings import Settings, text_of
from medvision.search.study import Study, Trial, best_of

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


TRIALS = "trials.csv"
PAGE = "sweep.html"


def write_trials(settings: Settings, study: Study) -> None:
    """Write ``trials.csv``, a row per trial; what a trial does not have is a blank cell."""
    rows = [
        {
            "number": trial.number,
            "state": trial.state,
            "value": trial.value,
            "epochs": trial.epochs,
            "seconds": None if trial.seconds is None else round(trial.seconds, 1),
            **trial.values,
            "error": trial.error,
        }
        for trial in study.trials()
    ]
    write_rows(settings.folder / TRIALS, rows)


def write_search(settings: Settings, study: Study, loader: ConfigLoader) -> Path | None:
    """Write the table, the page and the best config.

    Returns:
        The experiment file of the best config; None where no trial is complete.
    """
    from medvision.reports.sweep import sweep_page
    from medvision.search.importance import METHOD, importance_of

    write_trials(settings, study)
    trials = study.trials()
    best = best_of(trials, settings.definition.mode)
    path = None if best is None else write_best(settings, best, trials, loader)
    importance = importance_of(study)
    content: dict[str, Any] = {
        "name": settings.name,
        "folder": str(settings.folder),
        **settings.definition.plain(),
        "num_trials": settings.num_trials,
        "keys": [
            {"name": key.name, "described": key.values.described(), **key.values.plain()}
            for key in settings.definition.keys
        ],
        "trials": [trial.plain() for trial in trials],
        "best": None if best is None else best.number,
        "command": None if best is None else command_of_best(settings),
        "importance": {
            "method": METHOD,
            "shares": dict(importance.shares),
            "num_trials": importance.num_trials,
            "reason": importance.reason,
        },
        "notes": notes_of(settings.folder, [trial.number for trial in trials]),
    }
    write_atomically(settings.folder / PAGE, sweep_page(content))
    return path


def notes_of(folder: Path, numbers: list[int]) -> list[str]:
    """What a reader must know about the data of the trials."""
    import json

    found = [
        json.loads(path.read_text())
        for number in numbers
        if (path := folder / str(number) / "summary.json").exists()
    ]
    data = [summary["dataset"] for summary in found]
    notes = []
    if any(dataset["synthetic"] for dataset in data):
        notes.append("synthetic data: images drawn by code, which say nothing about patients")
    if any(dataset.get("protocol") == "merged" for dataset in data):
        notes.append("merged protocol: images were split at random, whatever is alike among them")
    if len({dataset["fingerprint"] for dataset in data}) > 1:
        notes.append("the trials did not all see the same data: compare their values with care")
    return notes
