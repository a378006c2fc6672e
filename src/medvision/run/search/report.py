"""Results of a search: its files, its page, and its screen output."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.core.config_loader import ConfigLoader
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from rich import box
from rich.table import Table
from rich.text import Text

from medvision.command_line import training
from medvision.console import counted, print_line, screen
from medvision.files import read_plain, write_atomically, write_table
from medvision.run.search.settings import Settings, text_of
from medvision.search.definition import Definition
from medvision.search.space import Value
from medvision.search.study import METHOD, Study, Trial, best_of, importance_of


def write_best(
    settings: Settings, trial: Trial, trials: Sequence[Trial], loader: ConfigLoader
) -> str:
    """Write ``experiment/<name>_best.yaml`` into the folder of the search.

    Args:
        settings: Settings of the search.
        trial: Best trial.
        trials: All trials.
        loader: Hydra's loader of config groups.

    Returns:
        Command that trains and tests the best config.
    """
    definition = settings.definition
    own = OverridesParser.create().parse_overrides(
        [key.override(trial.values[key.name]) for key in definition.keys]
    )
    defaults: list[Any] = [definition.experiment]
    values = OmegaConf.create({})
    rest = []  # cannot be written to a file
    for override in (*settings.fixed, *own):
        key, value = override.key_or_group, override.value()
        is_group = loader.get_group_options(key, results_filter=ObjectType.CONFIG) != []
        plain = override.package is None and not override.is_delete()
        if key == "experiment":
            continue
        if is_group and plain and isinstance(value, str) and not override.is_add():
            defaults.append({f"override /{key}": value})
        elif is_group or not plain:
            rest.append(text_of(override))
        else:
            OmegaConf.update(values, key, value, merge=False, force_add=True)
    nested: Any = OmegaConf.to_container(values)
    content = {"defaults": [*defaults, "_self_"], **nested}
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=100)
    path = settings.folder / "experiment" / f"{settings.name}_best.yaml"
    path.parent.mkdir(exist_ok=True)
    command = training("--config-dir", settings.folder, f"experiment={path.stem}", *rest)
    best, of = trial.best_epoch, trial.epochs
    epoch = "" if best is None else f" at epoch {best + 1} of {of}"
    header = [
        "@package _global_",
        "",
        f"The best of {counted(sum(one.ended for one in trials), 'trial')} of the search"
        f" {settings.name}: trial {trial.number}.",
        f"  command   {command}",
        f"  value     {definition.metric} {trial.value}{epoch}; optimistic, because it is the",
        "            best of many. The search did not use the test split, this command does",
    ]
    write_atomically(path, "".join(f"# {line}".rstrip() + "\n" for line in header) + text)
    return command


TRIALS = "trials.csv"
PAGE = "sweep.html"


def write_trials(settings: Settings, study: Study) -> None:
    """Write ``trials.csv``, a row per trial; missing values are blank cells."""
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
    write_table(settings.folder / TRIALS, rows)


def end_search(settings: Settings, study: Study, loader: ConfigLoader) -> None:
    """Write the table, the page and the best config; print the best trials and the next command.

    Args:
        settings: Settings of the search.
        study: Study with at least one ended trial.
        loader: Hydra's loader of config groups.
    """
    from medvision.reports.sweep import sweep_page

    write_trials(settings, study)
    trials = study.trials()
    best = best_of(trials, settings.definition.mode)
    command = None if best is None else write_best(settings, best, trials, loader)
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
        "command": command,
        "importance": {"method": METHOD, **vars(importance_of(study))},
        "notes": notes_of(settings.folder, [trial.number for trial in trials]),
    }
    write_atomically(settings.folder / PAGE, sweep_page(content))
    screen().print(_table(settings, trials))
    if best is not None:
        print_line(
            "validation values of a search are optimistic: the best trial is selected from many;"
            " the test split was not used"
        )
        print_line(f"train and test the best trial: {command}")
        run = settings.folder / str(best.number)
        print_line(f"or evaluate its weights on the test split: medvision evaluate {run}")
    print_line(f"{settings.folder / PAGE}")
    print_line(str(settings.folder))


def notes_of(folder: Path, numbers: list[int]) -> list[str]:
    """Limitations of the data of the trials that the reader must know."""
    found = [
        read_plain(path)
        for number in numbers
        if (path := folder / str(number) / "summary.json").exists()
    ]
    data = [summary["dataset"] for summary in found]
    notes = []
    if any(dataset["synthetic"] for dataset in data):
        notes.append("synthetic data: the values of generated images do not apply to patients")
    if any(dataset.get("protocol") == "merged" for dataset in data):
        notes.append("merged protocol: near-duplicates can be in both train and val (data leakage)")
    if len({dataset["fingerprint"] for dataset in data}) > 1:
        notes.append("the trials used different data, so their values are not directly comparable")
    return notes


MOST_ROWS = 15
MARKS = {"complete": "", "pruned": "pruned", "failed": "failed", "running": "not ended"}
MOST_ERROR = 60  # characters of an error in the table; the file has the full text


def trial_line(trial: Trial, num_trials: int) -> str:
    """Line printed when a trial starts."""
    given = " ".join(f"{name}={shown(value)}" for name, value in trial.values.items())
    return f"trial {trial.number} ({trial.number + 1} of {num_trials}): {given}"


def ending_line(trial: Trial, trials: Sequence[Trial], definition: Definition) -> str:
    """Line printed when a trial ends."""
    best = best_of(list(trials), definition.mode)
    known = "" if best is None else f"; best is trial {best.number} with {best.value:.4f}"
    if trial.state == "failed":
        return f"trial {trial.number} failed: {trial.error}{known}"
    if trial.state == "running":
        return f"trial {trial.number} was stopped and will continue"
    value = "undefined" if trial.value is None else f"{trial.value:.4f}"
    how = f" pruned after {counted(trial.epochs or 0, 'epoch')}:" if trial.state == "pruned" else ""
    return f"trial {trial.number}{how} {definition.metric} {value}{known}"


def ranked(trials: Sequence[Trial], mode: str) -> list[Trial]:
    """Complete trials, best first, then pruned, failed and running ones."""
    order = ("complete", "pruned", "failed", "running")
    sign = -1 if mode == "max" else 1

    def rank(trial: Trial) -> tuple[int, float, int]:
        value = float("inf") if trial.value is None else sign * trial.value
        return order.index(trial.state), value, trial.number

    return sorted(trials, key=rank)


def shown(value: Value) -> str:
    """Format a value, floats with four significant digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _table(settings: Settings, trials: Sequence[Trial]) -> Table:
    definition = settings.definition
    counts = {state: sum(trial.state == state for trial in trials) for state in MARKS}
    words = [f"{counts[state]} {state}" for state in ("complete", "pruned", "failed")]
    table = Table(
        title=Text(f"{settings.name}: {', '.join(words)}; {definition.metric}, {definition.mode}"),
        box=box.MINIMAL,
        show_edge=False,
        padding=(0, 1, 0, 0),
    )
    table.add_column("trial", justify="right")
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("epochs", justify="right", no_wrap=True)
    for key in definition.keys:
        table.add_column(Text(key.name.replace(".", ".\n")), justify="right", overflow="fold")
    has_marks = any(trial.state != "complete" for trial in trials)
    if has_marks:
        table.add_column("")
    rows = ranked(trials, definition.mode)
    for trial in rows[:MOST_ROWS]:
        mark = MARKS[trial.state]
        if trial.error:
            cut = trial.error[:MOST_ERROR] + "..." * (len(trial.error) > MOST_ERROR)
            mark = f"{mark}: {cut}"
        table.add_row(
            str(trial.number),
            "-" if trial.value is None else f"{trial.value:.4f}",
            "-" if trial.epochs is None else str(trial.epochs),
            *(Text(shown(trial.values[key.name])) for key in definition.keys),
            *([Text(mark)] if has_marks else []),
        )
    if len(rows) > MOST_ROWS:
        table.caption = f"{len(rows) - MOST_ROWS} more in trials.csv"
    return table
