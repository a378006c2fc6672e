"""Load a finished run: config, summary and history."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from medvision.errors import MedvisionError, first_line
from medvision.files import (
    check_finished,
    has_undefined_scores,
    is_there,
    read_plain,
    read_rows,
    run_status,
    way_to_run,
)
from medvision.registry import Purpose, untrusted, without_sources
from medvision.run.config.store import keys_of
from medvision.run.config.stored import check_stored_config
from medvision.task_definition import task_names, task_of

if TYPE_CHECKING:
    pass  # imports NumPy

MEASURED = ("data", "loss", "metrics", "task", "trainer")
"""Parts of the config that measuring needs."""


@dataclass(frozen=True, kw_only=True)
class StoredRun:
    """Finished run.

    Attributes:
        path: Run folder.
        cfg: Resolved config, without the parts of ``unmeasured``.
        summary: Content of ``summary.json``.
        unmeasured: Names of values that cannot be computed, ``loss`` or metrics of the user's own,
            and the class that would do so, whose package is not trusted.
    """

    path: Path
    cfg: DictConfig
    summary: dict[str, Any]
    unmeasured: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> StoredRun:
        """Read a run folder.

        Raises:
            MedvisionError: If this is not a run folder, the run did not finish, or its config names
                classes that may not be built.
        """
        path = path.expanduser()
        try:
            summary, config = (read_plain(path / name) for name in ("summary.json", "config.yaml"))
            defaults = _later_keys(str(summary.get("task")))
            if not isinstance(config.get("data"), dict):
                raise ValueError("config.yaml has no key data")
            config["data"] = {**defaults, **config["data"]}
            unmeasured = _leave_out_untrusted(config)
            as_config(config)
            if run_status(path, summary) == "finished":
                (path / "checkpoints" / "best.ckpt").stat()
        except (OSError, ValueError) as error:
            reason = first_line(error)
            if isinstance(error, OSError):
                name = Path(error.filename or "").name
                missing = isinstance(error, FileNotFoundError)
                reason = f"{name} is missing" if missing else f"{name}: {error.strerror}"
            raise MedvisionError(
                f"not a run folder: {reason}",
                where=str(path),
                hint=way_to_run(path),
            ) from error
        if not has_undefined_scores(path, summary):  # evaluated again, it says so again
            check_finished(path, summary)
        for key in MEASURED:
            check_stored_config(
                DictConfig({key: config.get(key)}),
                Purpose.EVALUATE,
                where=f"{path / 'config.yaml'}, {key}",
                hint="evaluate it in Python, where its class is known",
            )
        cfg = as_config({**config, **{key: without_sources(config.get(key)) for key in MEASURED}})
        return cls(path=path, cfg=cfg, summary=summary, unmeasured=unmeasured)


def _leave_out_untrusted(config: dict[str, Any]) -> dict[str, str]:
    """Remove the loss and the metrics of packages that are not trusted; return their classes.

    Everything else is measured without them. A class that cannot be trusted at all stays, and is
    refused.
    """
    left_out: dict[str, str] = {}
    if (found := untrusted(config.get("loss"), Purpose.EVALUATE, part="loss")) is not None:
        left_out["loss"], config["loss"] = found[0], None
    metrics = config.setdefault("metrics", {})
    for name in list(metrics if isinstance(metrics, dict) else ()):
        found = untrusted(metrics[name], Purpose.EVALUATE, part="metrics")
        if found is not None:
            left_out[name] = found[0]
            del metrics[name]
    return left_out


def read_history(run: Path) -> list[dict[str, float | int | None]]:
    """Rows of metrics.csv in a run folder, one per epoch; empty if there is no file."""
    path = run / "metrics.csv"
    if not is_there(path):
        return []
    try:
        rows = [
            {name: float(text) if text else None for name, text in row.items()}
            for row in read_rows(path)
        ]
        return [{**row, "epoch": int(row["epoch"] or 0)} for row in rows]
    except (KeyError, ValueError, TypeError, OverflowError) as fault:
        raise MedvisionError(
            f"not a table of epochs: {fault!r}", where=str(path), hint="fix or remove the file"
        ) from fault


def largest_difference(
    stored: Mapping[str, Any], measured: Mapping[str, Any]
) -> tuple[int, float, str]:
    """Compare the scores that both contain.

    Returns:
        Number of values compared (both ends of an interval count), the largest absolute difference,
        and the name of that score. The difference to an undefined value is infinite.
    """
    worst, worst_name, count = 0.0, "", 0
    for name in [name for name in measured if name in stored]:
        for a, b in zip_longest(_flat(stored[name]), _flat(measured[name])):
            count += 1
            difference = 0.0 if a == b else abs(a - b) if None not in (a, b) else float("inf")
            if difference > worst:
                worst, worst_name = difference, name
    return count, worst, worst_name


def _flat(score: Any) -> Sequence[Any]:
    return score if isinstance(score, list) else [score]


def as_config(values: dict[str, Any]) -> DictConfig:
    """Config of a run from resolved values, without interpolations.

    Raises:
        ValueError: If a value refers to another one, or to something outside of the file.
    """
    if "${" in json.dumps(values, default=str):
        raise ValueError("config.yaml contains references (${...})")
    try:
        return DictConfig(values)
    except OmegaConfBaseException as fault:
        raise ValueError(f"config.yaml: {fault}") from fault


def _later_keys(task: str) -> dict[str, Any]:
    """Defaults of data keys, for runs made before a key existed.

    Raises:
        ValueError: If there is no such task.
    """
    if task not in task_names():
        raise ValueError(
            f"unknown task {task[:40]!r} in summary.json, name its package with --trust PACKAGE"
        )
    file = task_of(task).folder_config
    if file is None:
        return {}
    keys = keys_of("data", file)
    return {key: value for key, value in keys.items() if "${" not in str(value)}
