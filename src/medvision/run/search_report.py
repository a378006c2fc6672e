"""What a search leaves in its folder: the trials, the best experiment, the page."""

from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader

from medvision.files import write_atomically
from medvision.run.multirun import write_rows
from medvision.run.search_best import command_of_best, write_best
from medvision.run.search_settings import Settings
from medvision.sweeps.study import Study
from medvision.sweeps.trial import best_of

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
    from medvision.sweeps.importance import METHOD, importance_of

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
