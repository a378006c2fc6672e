"""Finished runs as their folders tell of them: scores, settings, epochs and test images.

Reads text files only; no torch.
"""

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvision.reports.run_files import RunFiles
from medvision.types import MedvisionError

Points = tuple[NDArray[np.float64], NDArray[np.float64]]
"""False and true positive rate, (T,) each, from the strictest threshold down."""

EpochRow = Mapping[str, float | int | None]


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """What one run folder tells.

    Attributes:
        path: The folder, as it was named.
        files: What it holds.
        settings: Its config, a value for each dotted key, without seeds and with the run folder
            written as ``<run_dir>``: equal for runs that differ in their seed only.
    """

    path: Path
    files: RunFiles
    settings: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The folder and the one that it lies in: the experiment, or the command, and the time."""
        return "/".join(self.path.resolve().parts[-2:])

    @property
    def summary(self) -> Mapping[str, Any]:
        """What ``summary.json`` holds."""
        return self.files.summary

    @property
    def experiment(self) -> str:
        """Name of the experiment."""
        return str(self.summary["experiment"])

    @property
    def seed(self) -> int:
        """Seed of weights, order and augmentation."""
        return int(self.summary["seed"])

    @property
    def task(self) -> str:
        """``classification`` or ``segmentation``."""
        return self.files.task

    @property
    def dataset(self) -> Mapping[str, Any]:
        """What the summary says about the data."""
        return self.files.dataset

    @property
    def protocol(self) -> str | None:
        """How images were split; None where runs of older versions do not say."""
        found = self.dataset.get("protocol", self.settings.get("data.protocol"))
        return None if found is None else str(found)

    @property
    def fold(self) -> int | None:
        """Which part of a k-fold split was tested; None for other protocols."""
        fold = self.settings.get("data.fold")
        return int(fold) if self.protocol == "kfold" and fold is not None else None

    @cached_property
    def scores(self) -> dict[str, float | None]:
        """Every metric but the intervals, by name; None where it is undefined."""
        return {
            name: value
            for name, value in self.files.metrics.items()
            if not (name.endswith("_ci95") or isinstance(value, list))
        }

    def interval(self, metric: str) -> list[float] | None:
        """The 95 % interval of a metric over test images; None where there is none."""
        ends: list[float] | None = self.files.metrics.get(f"{metric}_ci95")
        return ends

    @cached_property
    def history(self) -> list[EpochRow]:
        """A row per epoch, as metrics.csv holds them; None where a value is undefined."""
        path = self.path / "metrics.csv"
        numbers = [
            {name: _number(path, cell) for name, cell in row.items()}
            for row in _rows(path, "epoch")
        ]
        return [{**row, "epoch": int(row["epoch"] or 0)} for row in numbers]

    @cached_property
    def test_images(self) -> frozenset[str] | None:
        """Paths of the images that were tested; None where the run tested none."""
        return frozenset(row["path"] for row in self.tested) or None

    @property
    def tested(self) -> Sequence[Mapping[str, str]]:
        """A row per test image, as ``predictions_test.csv`` holds them."""
        return self.files.predictions

    def roc(self) -> Points | None:
        """ROC of the test pixels, or of the test images: for several classes their macro mean.

        Returns:
            None where the run wrote none, or where it is undefined: no positives or no negatives.
        """
        curves = self._image_roc() if self.task == "classification" else self._pixel_roc()
        known = [curve for curve in curves if np.isfinite(curve).all()]
        if len(known) < 2:
            return known[0] if known else None
        from medvision.reports.classification import macro_mean  # draws too: loads matplotlib

        return macro_mean(known)

    def _pixel_roc(self) -> Iterator[Points]:
        path = self.path / "roc_test.csv"
        if path.is_file():  # runs of older versions have none
            rows = _rows(path, "false_positive_rate", "true_positive_rate")
            yield (
                np.array([_number(path, row["false_positive_rate"]) for row in rows], float),
                np.array([_number(path, row["true_positive_rate"]) for row in rows], float),
            )

    def _image_roc(self) -> Iterator[Points]:
        from medvision.metrics import roc_points

        path, rows = self.path / "predictions_test.csv", self.files.predictions
        columns = [name for name in (rows[0] if rows else ()) if name.startswith("probability/")]
        for column in columns[1:] if len(columns) == 2 else columns:
            score = np.array([_number(path, row[column]) for row in rows], float)
            positive = np.array([row["target"] == column.partition("/")[2] for row in rows])
            yield roc_points(score, positive)[:2]


def read_run(path: Path) -> FinishedRun:
    """Read the summary and the config of a finished run.

    Raises:
        MedvisionError: If the folder is not that of a run, or the run has not finished.
    """
    if not (path / "summary.json").is_file():
        raise _no_run(path, "summary.json")
    files = RunFiles.read(path)
    if "evaluated" in files.summary:
        raise MedvisionError(
            "this folder holds an evaluation, not a run",
            where=str(path),
            hint="name the run that was evaluated",
        )
    if not (path / "config.yaml").is_file():
        raise _no_run(path, "config.yaml")
    missing = {"experiment", "seed", "status", "task", "metrics"} - set(files.summary)
    if missing:
        raise MedvisionError(
            f"summary.json lacks {', '.join(sorted(missing))}",
            where=str(path),
            hint="name a folder that training wrote",
        )
    status = files.summary["status"]
    if status != "finished":
        raise MedvisionError(
            f"the run has not finished: its status is {status}",
            where=str(path),
            hint=f"go on with it by resume={path}",
        )
    return FinishedRun(path=path, files=files, settings=settings_of(files.config))


def _no_run(path: Path, name: str) -> MedvisionError:
    return MedvisionError(
        f"not a run folder: it holds no {name}",
        where=str(path),
        hint="name folders that training wrote, such as runs/<experiment>/<time>",
    )


NO_SETTINGS = (("run_dir",), ("resume",), ("checkpoint", "every_minutes"))
"""Keys of a config that change nothing in what is learned."""


def settings_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a config by dotted key, without what differs between runs of one setting.

    Every ``seed`` is left out, and so is what says where, when and for which search a run was
    made; paths below the run folder begin with ``<run_dir>``. What is built stands under the name
    of its place: ``model`` for ``model._target_``. ``data.split_seed`` stays: it changes which
    images are tested.
    """
    run_dir = config.get("run_dir")
    found: dict[str, Any] = {}
    for key, value in _leaves(config, ()):
        if key[-1] == "seed" or key[0] == "sweep" or key in NO_SETTINGS:
            continue
        place = key[:-1] if key[-1] == "_target_" else key
        if isinstance(run_dir, str) and isinstance(value, str):
            inside = value == run_dir or value.startswith(f"{run_dir}/")
            value = f"<run_dir>{value[len(run_dir) :]}" if inside else value
        found[".".join(place)] = value
    return found


def _leaves(node: Mapping[str, Any], above: tuple[str, ...]) -> Iterator[tuple[Any, Any]]:
    for name, value in node.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, (*above, str(name)))
        else:
            yield (*above, str(name)), value


def _rows(path: Path, *needed: str) -> list[dict[str, str]]:
    if not path.is_file():
        raise MedvisionError(
            f"the run has no {path.name}", where=str(path.parent), hint="train it again"
        )
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        missing = [name for name in needed if name not in (reader.fieldnames or ())]
        if missing:
            raise MedvisionError(f"there is no column {', '.join(missing)}", where=str(path))
        return list(reader)


def _number(path: Path, cell: str) -> float | None:
    try:
        return float(cell) if cell else None
    except (TypeError, ValueError) as error:
        raise MedvisionError(f"expected a number, got {cell!r}", where=str(path)) from error
