"""Evaluation of a classification model."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medvision.callbacks import ClassProbabilities
from medvision.data import ClassificationData
from medvision.evaluation.base import (
    NUM_TYPICAL,
    NUM_WORST,
    Evaluation,
    Score,
    middle,
    or_none,
    shrunk,
)
from medvision.files import write_table
from medvision.metrics import (
    calibration_bins,
    choose_threshold,
    classification_intervals,
    classification_scores,
    precision_recall_points,
    roc_points,
)
from medvision.metrics.operating_points import operating_points
from medvision.reports.classification import write_class_curves, write_classification_plots
from medvision.reports.html import Case
from medvision.types import Stage


class ClassificationEvaluation(Evaluation):
    """Accuracy, AUROC and their kin with intervals over images (or groups), and probabilities.

    Args:
        folder: Run folder.
        data: The prepared data module.
        threshold: Probability of the positive class from which on it is predicted, or
            ``validation``: of those within one standard error of the best balanced accuracy on
            the validation images the one nearest 0.5.
        chosen_on: Where a threshold that is a number comes from: ``val`` or ``fixed``.
        validation: Probability of the positive class and class index of the validation images,
            where they are known and not watched.

    Attributes:
        threshold: The number in use; for ``validation``, from the scores of validation on.
    """

    shown = (
        "accuracy",
        "balanced_accuracy",
        "auroc",
        "average_precision",
        "precision",
        "recall",
        "specificity",
        "f1",
        "ece",
    )

    def __init__(
        self,
        *,
        folder: Path,
        data: ClassificationData,
        threshold: float | Literal["validation"],
        validation: tuple[NDArray[np.float64], NDArray[np.int64]] | None = None,
        chosen_on: Literal["val", "fixed"] = "fixed",
    ) -> None:
        super().__init__(folder=folder)
        self.data = data
        self.validation = validation
        self.chosen_on = "val" if threshold == "validation" else chosen_on
        self.choose = threshold == "validation"
        self.threshold = 0.5 if threshold == "validation" else float(threshold)
        self._watched: dict[Stage, ClassProbabilities] = {}
        self._test_scores: dict[str, float] = {}

    def watch(self, stage: Stage) -> ClassProbabilities:
        self._watched[stage] = ClassProbabilities()
        return self._watched[stage]

    def scores(self, stage: Stage, logged: Mapping[str, float]) -> dict[str, Score]:
        seen = self._watched[stage]
        if not len(seen.index):
            return {}
        names, probability, target = self.data.class_names, seen.probability, seen.target
        if stage == "val" and self.choose:
            self.threshold = choose_threshold(probability[:, 1], target, standard_errors=1)
            self.notes.append(
                f"{names[1]} is predicted from a probability of {self.threshold:.4f} on: of the"
                " thresholds within one standard error of the best balanced accuracy on the"
                " validation images the one nearest 0.5; the test images had no part in it"
            )
        rows = self._rows(stage, seen)
        write_table(self.folder / f"predictions_{stage}.csv", rows)
        options: dict[str, Any] = {"class_names": names, "threshold": self.threshold}
        found = classification_scores(probability, target, **options)
        if stage == "test":
            self._test_scores = found
        scores: dict[str, Score] = {f"{stage}/loss": or_none(logged[f"{stage}/loss"])}
        scores |= {f"{stage}/{name}": or_none(value) for name, value in found.items()}
        intervals = classification_intervals(
            probability, target, groups=self.data.groups_of(rows), **options
        )
        for name, ends in intervals.items():
            low, high = (or_none(end) for end in ends)
            scores[f"{stage}/{name}_ci95"] = None if low is None or high is None else [low, high]
        absent = sorted(set(names) - {str(row["target"]) for row in rows})
        if absent:
            self.notes.append(
                f"{stage} holds no {', no '.join(absent)}: AUROC and recall of a class are"
                " undefined where the split lacks it or holds nothing else"
            )
        return scores

    def details(self) -> dict[str, Any]:
        test, validation = self._watched.get("test"), self._watched.get("val")
        if len(self.data.class_names) != 2 or test is None or not len(test.index):
            return {}
        known = self.validation or (np.empty(0), np.empty(0, np.int64))
        if validation is not None and len(validation.index):
            known = (validation.probability[:, 1], validation.target)
        points = operating_points(
            *known,
            test.probability[:, 1],
            test.target,
            threshold_in_use=self.threshold,
            chosen_on=self.chosen_on,
        )
        return {"operating_points": points}

    def plot(self, history: Sequence[Mapping[str, float | int | None]]) -> None:
        test = self._watched.get("test")
        if history:
            write_class_curves(
                self.folder,
                history=history,
                synthetic=self.data.synthetic,
                protocol=self.data.protocol,
            )
        if test is None or not len(test.index):
            return
        names, probability, target = self.data.class_names, test.probability, test.target
        curves = {
            name: (
                roc_points(probability[:, k], target == k),
                precision_recall_points(probability[:, k], target == k),
            )
            for k, name in enumerate(names)
        }
        write_classification_plots(
            self.folder,
            probability=probability,
            target=target,
            class_names=names,
            threshold=self.threshold,
            rows=self._rows("test", test),
            read=self.data.read_file,
            roc={name: roc[:2] for name, (roc, _) in curves.items()},
            precision_recall={name: (found[1], found[0]) for name, (_, found) in curves.items()},
            confusion=_confusion(target, self._predicted(probability), len(names)),
            calibration=calibration_bins(probability, target),
            scores=self._test_scores,
            synthetic=self.data.synthetic,
            protocol=self.data.protocol,
        )

    def cases(self) -> tuple[list[Case], list[Case]]:
        test = self._watched.get("test")
        if test is None or not len(test.index):
            return [], []
        rows, target = self._rows("test", test), test.target
        of_true = test.probability[np.arange(len(target)), target]
        order = np.argsort(of_true, kind="stable").tolist()
        worst, rest = order[:NUM_WORST], order[NUM_WORST:]
        return (
            [self._case(rows[row]) for row in worst],
            [self._case(rows[row]) for row in middle(rest, NUM_TYPICAL)],
        )

    def _case(self, row: Mapping[str, Any]) -> Case:
        """One test image, with what it is and what was made of it."""
        predicted, true = row["predicted"], row["target"]
        caption = f"predicted {predicted} {100 * row[f'probability/{predicted}']:.1f} %"
        if predicted != true:
            caption += f", true {true} {100 * row[f'probability/{true}']:.1f} %"
        return Case(
            title=row["path"],
            caption=caption,
            picture=shrunk(self.data.read_file(row["path"])),
            wrong=predicted != true,
        )

    def _rows(self, stage: Stage, seen: ClassProbabilities) -> list[dict[str, Any]]:
        """A row per image: path, target, predicted class and the probability of each."""
        names, probability = self.data.class_names, seen.probability
        predicted = self._predicted(probability)
        samples = self.data.tables[stage]
        return [
            {
                "path": samples[row].path,
                "target": samples[row].target,
                "predicted": names[choice],
                **{f"probability/{name}": float(p) for name, p in zip(names, values, strict=True)},
            }
            for row, choice, values in zip(seen.index, predicted, probability, strict=True)
        ]

    def _predicted(self, probability: NDArray[np.float64]) -> NDArray[np.int64]:
        """Class index of each image (N,), of probabilities (N, K)."""
        if probability.shape[1] == 2:
            return (probability[:, 1] >= self.threshold).astype(np.int64)
        return probability.argmax(axis=1)


def _confusion(
    target: NDArray[np.int64], predicted: NDArray[np.int64], num_classes: int
) -> NDArray[np.int64]:
    """Images by true and by predicted class, (K, K)."""
    cells = np.bincount(target * num_classes + predicted, minlength=num_classes**2)
    return cells.reshape(num_classes, num_classes).astype(np.int64)
