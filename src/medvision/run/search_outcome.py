"""How a trial ended, from what its run folder holds."""

import csv
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from medvision.run.jobs import JOBS, STOPPED, read_result
from medvision.run.messages import nearest
from medvision.sweeps.definition import Definition
from medvision.sweeps.trial import Ending

SILENT = "its process ended without a word, as a killed one does: look at the memory it needed"


def ending_of(base: Path, number: int, definition: Definition) -> Ending | None:
    """How a trial ended; None where it has not, or its process was stopped or killed.

    Args:
        base: Folder of the search.
        number: Of the trial.
        definition: Says which metric counts.
    """
    run, said = base / str(number), read_result(base / JOBS, number)
    summary = _summary(run)
    status = summary.get("status")
    if status in ("finished", "pruned"):
        facts = _facts(run, summary)
        rows = _values(run, definition.metric)
        if status == "pruned":
            return Ending(state="pruned", value=_best(rows, definition.mode), facts=facts)
        value = rows.get(int(summary["best_epoch"]))
        if value is not None:
            return Ending(state="complete", value=value, facts=facts)
        return Ending(state="failed", facts={**facts, "error": _missing(run, definition.metric)})
    if said is not None and said.code not in (0, *STOPPED):
        facts = {**_facts(run, summary), "error": said.error or SILENT}
        return Ending(state="failed", facts=facts)
    return None


def silent_ending(base: Path, number: int, cause: str | None) -> Ending:
    """Of a trial whose process was killed."""
    run = base / str(number)
    return Ending(state="failed", facts={**_facts(run, _summary(run)), "error": cause or SILENT})


def _summary(run: Path) -> dict[str, Any]:
    path = run / "summary.json"
    return json.loads(path.read_text()) if path.exists() else {}


def _facts(run: Path, summary: Mapping[str, Any]) -> dict[str, Any]:
    """What the run folder says of epochs and time."""
    rows = _rows(run)
    config = run / "config.yaml"
    asked = yaml.safe_load(config.read_text()) if config.exists() else {}
    return {
        "epochs": len(rows),
        "max_epochs": asked.get("trainer", {}).get("max_epochs"),
        "seconds": summary.get("timing", {}).get("fit_s"),
        "best_epoch": summary.get("best_epoch"),
    }


def _rows(run: Path) -> list[dict[str, str]]:
    path = run / "metrics.csv"
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _values(run: Path, metric: str) -> dict[int, float]:
    """The metric by epoch, where it is defined."""
    known = {int(row["epoch"]): row.get(metric) for row in _rows(run)}
    values = {epoch: float(text) for epoch, text in known.items() if text}
    return {epoch: value for epoch, value in values.items() if math.isfinite(value)}


def _best(values: Mapping[int, float], mode: str) -> float | None:
    if not values:
        return None
    return max(values.values()) if mode == "max" else min(values.values())


def _missing(run: Path, metric: str) -> str:
    """Why a finished run has no value."""
    columns = list(_rows(run)[0]) if _rows(run) else []
    if metric in columns:
        return f"{metric} is undefined at the best epoch (sweep.metric)"
    logged = [name for name in columns if "/" in name]
    return f"no logged value is called {metric} (sweep.metric); {nearest(metric, logged)}"
