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
from medvision.evaluation.by_twin import Rows, Tested
from medvision.evaluation.class_scores import calibrated_scores, class_scores
from medvision.evaluation.validation_choices import ValidationChoices
from medvision.files import write_table
from medvision.metrics import (
    apply_temperature,
    calibration_bins,
    logits_of,
    precision_recall_points,
    roc_points,
)
from medvision.metrics.operating_points import operating_points
from medvision.metrics.thresholds import SENSITIVITY
from medvision.reports.classification import write_class_curves, write_classification_plots
from medvision.reports.html import Case
from medvision.types import Stage

BY_TWIN = ("accuracy", "balanced_accuracy", "auroc")
"""Scores of test images with and without a twin in training."""

BY_TWIN = ("accuracy", "balanced_accuracy", "auroc")
"""Scores that are also given with and without a twin in training."""


class ClassificationEvaluation(Evaluation):
    """Accuracy, AUROC and their kin with intervals over images (or groups), and probabilities.

    A temperature makes the probabilities of the validation images as sure as they are right; with
    it the calibration error and the Brier score are measured once more. It moves no image over
    the threshold: predictions, thresholds and all else are those of the raw probabilities.

    Args:
        folder: Run folder.
        data: The prepared data module.
        threshold: Probability of the positive class from which on it is predicted, or the rule
            of ``medvision.metrics.thresholds.RULES`` by which the validation images choose it.
        chosen_on: Where a threshold that is a number comes from: ``val`` or ``fixed``.
        validation: Probability of each class (N, K), or of the positive one (N,), and class index
            of the validation images, where they are known and not watched.
        sensitivity: What the rule of that name asks for on the validation images, in (0, 1];
            0.95 if not given.
        prevalence: Share of positives, in (0, 1), at which PPV and NPV are stated as well.
        temperature: That of the run, where it has one; otherwise validation gives it.
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
        "ece_calibrated",
        "brier",
        "brier_calibrated",
    )

    def __init__(
        self,
        *,
        folder: Path,
        data: ClassificationData,
        threshold: float | str,
        validation: tuple[NDArray[np.float64], NDArray[np.int64]] | None = None,
        chosen_on: Literal["val", "fixed"] = "fixed",
        sensitivity: float | None = None,
        prevalence: float | None = None,
        temperature: float | None = None,
    ) -> None:
        super().__init__(folder=folder)
        self.data, self.prevalence = data, prevalence
        self.choices = ValidationChoices(
            data.class_names,
            threshold=threshold,
            chosen_on=chosen_on,
            sensitivity=SENSITIVITY if sensitivity is None else sensitivity,
            temperature=temperature,
        )
        self.threshold = self.choices.threshold
        self._validation = _of_each_class(validation, len(data.class_names))
        self._watched: dict[Stage, ClassProbabilities] = {}
        self._test_scores: Mapping[str, Any] = {}

    def watch(self, stage: Stage) -> ClassProbabilities:
        self._watched[stage] = ClassProbabilities()
        return self._watched[stage]

    def scores(self, stage: Stage, logged: Mapping[str, float]) -> dict[str, Score]:
        seen = self._watched[stage]
        if not len(seen.index):
            return {}
        names, probability, target = self.data.class_names, seen.probability, seen.target
        self._learn(stage, seen)
        rows = self._rows(stage, seen)
        write_table(self.folder / f"predictions_{stage}.csv", rows)
        groups = self.data.groups_of(rows)
        found = class_scores(
            probability, target, class_names=names, threshold=self.threshold, groups=groups
        )
        temperature = self.choices.temperature
        if temperature is not None:
            found |= calibrated_scores(seen.logits, target, temperature=temperature, groups=groups)
        scores: dict[str, Score] = {f"{stage}/loss": or_none(logged[f"{stage}/loss"])}
        scores |= {f"{stage}/{name}": value for name, value in found.items()}
        if stage == "test":
            self._test_scores = found
        absent = sorted(set(names) - {str(row["target"]) for row in rows})
        if absent:
            self.notes.append(
                f"{stage} holds no {', no '.join(absent)}: AUROC and recall of a class are"
                " undefined where the split lacks it or holds nothing else"
            )
        return scores

    def details(self) -> dict[str, Any]:
        found, test = self.choices.details(), self._watched.get("test")
        if len(self.data.class_names) != 2 or test is None or not len(test.index):
            return found
        val_probability, val_target = self._validation or (np.empty((0, 2)), np.empty(0, np.int64))
        found["operating_points"] = operating_points(
            val_probability[:, 1],
            val_target,
            test.probability[:, 1],
            test.target,
            threshold_in_use=self.threshold,
            chosen_on=self.choices.chosen_on,
            sensitivity=self.choices.sensitivity,
            prevalence=self.prevalence,
            groups=self.data.groups_of(self._rows("test", test)),
        )
        return found

    def tested(self) -> Tested | None:
        test = self._watched.get("test")
        if test is None or not len(test.index):
            return None
        rows = self._rows("test", test)
        groups = self.data.groups_of(rows)

        def scores(chosen: Rows) -> dict[str, Any]:
            found = class_scores(
                test.probability[chosen],
                test.target[chosen],
                class_names=self.data.class_names,
                threshold=self.threshold,
                groups=None if groups is None else [groups[row] for row in chosen],
            )
            names = [f"{name}{end}" for name in BY_TWIN for end in ("", "_ci95")]
            return {name: found[name] for name in names}

        return Tested(paths=[row["path"] for row in rows], scores=scores, groups=groups)

    def _learn(self, stage: Stage, seen: ClassProbabilities) -> None:
        """Let validation images choose threshold and temperature, if it is their turn."""
        told = len(self.choices.notes)
        if stage == "val":
            self._validation = seen.probability, seen.target
            self.choices.learn(seen.logits, seen.target, probability=seen.probability)
        elif self._validation is not None and "val" not in self._watched:
            self.choices.learn(logits_of(self._validation[0]), self._validation[1])
        self.threshold = self.choices.threshold
        self.notes += self.choices.notes[told:]

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
        temperature = self.choices.temperature
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
            calibrated=None
            if temperature is None
            else calibration_bins(apply_temperature(test.logits, temperature), target),
            temperature=temperature,
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


def _of_each_class(
    validation: tuple[NDArray[np.float64], NDArray[np.int64]] | None, num_classes: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]] | None:
    """Probabilities (N, K) and targets; None where one class of several is all that is known."""
    if validation is None or validation[0].ndim == 2:
        return validation
    positive, target = validation
    return (np.stack([1 - positive, positive], axis=1), target) if num_classes == 2 else None
