"""Evaluation of a segmentation model."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medvision.callbacks import SegmentationPredictions
from medvision.data import SegmentationData
from medvision.evaluation.base import Evaluation, Score, or_none
from medvision.metrics import bootstrap_mean_interval
from medvision.reports.figures import write_curves, write_test_plots
from medvision.types import Stage

WITH_INTERVAL = ("dice", "iou", "dice_original", "iou_original")


class SegmentationEvaluation(Evaluation):
    """Dice and IoU with intervals over images (or groups), pixel rates, probability maps.

    Args:
        folder: Run folder.
        data: The prepared data module.
    """

    shown = (*WITH_INTERVAL, "accuracy", "precision", "recall", "auroc")

    def __init__(self, *, folder: Path, data: SegmentationData) -> None:
        super().__init__(folder=folder)
        self.data = data
        self._watched: dict[Stage, SegmentationPredictions] = {}
        self._auroc: float | None = None

    def watch(self, stage: Stage) -> SegmentationPredictions:
        self._watched[stage] = SegmentationPredictions(
            folder=self.folder,
            stage=stage,
            samples=self.data.tables[stage],
            source=self.data.source,
            class_names=self.data.class_names,
        )
        return self._watched[stage]

    def scores(self, stage: Stage, logged: Mapping[str, float]) -> dict[str, Score]:
        rows = self._watched[stage].rows
        if not rows:
            return {}
        scores: dict[str, Score] = {name: or_none(value) for name, value in logged.items()}
        groups = self.data.groups_of(rows)
        for name in WITH_INTERVAL:
            values = [row[name] for row in rows]
            scores[f"{stage}/{name}"] = scores.get(f"{stage}/{name}", float(np.mean(values)))
            scores[f"{stage}/{name}_ci95"] = [*bootstrap_mean_interval(values, groups=groups)]
        if stage == "test":
            self._auroc = or_none(logged["test/auroc"])
        return scores

    def plot(self, history: Sequence[Mapping[str, float | int | None]]) -> None:
        synthetic = self.data.synthetic
        write_curves(self.folder, history=history, synthetic=synthetic)
        test: Any = self._watched.get("test")
        if test is not None and test.rows:
            write_test_plots(
                self.folder,
                roc=test.roc,
                auroc=self._auroc,
                rows=test.rows,
                read=self.data.read_at_network_size,
                synthetic=synthetic,
            )
