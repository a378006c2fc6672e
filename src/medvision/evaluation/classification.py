"""Evaluate a classifier: scores with intervals, and threshold and temperature from validation."""

import math
from collections.abc import Hashable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from scipy import special

from medvision.callbacks import ClassProbabilities
from medvision.data import ClassificationData
from medvision.evaluation.base import (
    Evaluation,
    FinishedRun,
    Score,
    interval_or_none,
    or_none,
)
from medvision.evaluation.parts import Rows, Tested, several_per_group
from medvision.files import read_rows, write_table
from medvision.metrics import (
    apply_temperature,
    calibration_bins,
    calibration_intervals,
    classification_intervals,
    classification_scores,
    fit_temperature,
    logits_of,
    precision_recall_points,
    roc_points,
    threshold_by_rule,
)
from medvision.metrics.calibration import Calibration, calibration_line
from medvision.metrics.conventions import classification_conventions
from medvision.metrics.intervals import group_numbers
from medvision.metrics.thresholds import (
    SENSITIVITY,
    decision_curve,
    net_benefit_interval,
    net_benefits,
    operating_points,
)
from medvision.reports.plots.overlays import as_rgb, shrunk
from medvision.reports.run_page import Case
from medvision.scores import names_at
from medvision.types import Stage

Groups = Sequence[Hashable] | None
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

SHOWN_PX = 480  # longer side of a test image in the report


def read_class_predictions(path: Path, class_names: Sequence[str]) -> tuple[Floats, Ints]:
    """Read class probabilities (N, K) and class indices (N,) of all images at full precision.

    Args:
        path: A ``predictions_<split>.csv``.
        class_names: The K classes.
    """
    rows = read_rows(path)
    names = list(class_names)
    probability = [[float(row[f"probability/{name}"]) for name in names] for row in rows]
    target = np.array([names.index(row["target"]) for row in rows], np.int64)
    return np.array(probability).reshape(len(rows), len(names)), target


class ValidationChoices:
    """Threshold and temperature of a run, each fixed or chosen once on validation images.

    Args:
        class_names: The K >= 2 classes.
        threshold: Probability from which the second of two classes is predicted, or the rule of
            ``medvision.metrics.thresholds.RULES`` that chooses it.
        chosen_on: Source of a numeric threshold.
        sensitivity: Requested sensitivity in (0, 1], for the rule of that name.
        temperature: Temperature stored with the run, if any.

    Attributes:
        threshold: Threshold in use; for a rule 0.5 until ``learn`` is called.
        temperature: Temperature in use; None until ``learn`` is called, or if there is none.
        notes: Remarks for readers of the scores.
    """

    def __init__(
        self,
        class_names: Sequence[str],
        *,
        threshold: float | str = 0.5,
        chosen_on: Literal["val", "fixed"] = "fixed",
        sensitivity: float = SENSITIVITY,
        temperature: float | None = None,
    ) -> None:
        self.class_names = tuple(class_names)
        self.rule = threshold if isinstance(threshold, str) else None
        self.threshold = 0.5 if isinstance(threshold, str) else float(threshold)
        self.chosen_on: Literal["val", "fixed"] = "val" if self.rule else chosen_on
        self.sensitivity, self.temperature = sensitivity, temperature
        self.notes: list[str] = []
        self._details: dict[str, Any] = {}
        if len(self.class_names) == 2 and self.rule is None and chosen_on == "fixed":
            self._details["threshold_rule"] = {"rule": "fixed", "chosen_on": "fixed"}

    def learn(self, logits: Floats, target: Ints, *, probability: Floats | None = None) -> None:
        """Choose threshold and temperature on validation images, unless they are fixed.

        Args:
            logits: Logits of the validation images, (N, K); for two classes columns 0 and the logit
                of the second class.
            target: Class indices (N,).
            probability: Class probabilities (N, K); if None, no threshold is chosen.
        """
        if probability is not None and self.rule is not None:
            self._choose_threshold(self.rule, probability[:, 1], target)
        if self.temperature is None:
            self._fit_temperature(logits, target)

    def details(self) -> dict[str, Any]:
        """Build ``threshold_rule`` and ``calibration`` of summary.json, if known."""
        found = dict(self._details)
        if "calibration" in found and len(self.class_names) == 2:
            # threshold for calibrated probabilities that gives the same decisions
            moved = special.expit(special.logit(self.threshold) / self.temperature)
            found["calibration"] = {**found["calibration"], "threshold_calibrated": float(moved)}
        return found

    def _choose_threshold(self, rule: str, positive: Floats, target: Ints) -> None:
        self.threshold, words = threshold_by_rule(
            rule, positive, target, sensitivity=self.sensitivity
        )
        self.notes.append(
            f"{self.class_names[1]} is predicted at a probability of {self.threshold:.4f} or more:"
            f" {words}; test images were not used"
        )
        rate = {"sensitivity": self.sensitivity} if rule == "sensitivity" else {}
        self._details["threshold_rule"] = {
            "rule": rule,
            "chosen_on": "val",
            "num_images": len(target),
            **rate,
        }

    def _fit_temperature(self, logits: Floats, target: Ints) -> None:
        if len(np.unique(target)) < 2:
            self.notes.append(
                "no temperature is fitted and the probabilities are unchanged: all validation"
                " images have the same class"
            )
            return
        fitted = fit_temperature(logits, target)
        self.temperature = fitted.value
        self.notes += [fitted.note] if fitted.note else []
        self._details["calibration"] = {
            "temperature": fitted.value,
            "fitted_on": "val",
            "num_images": fitted.num_images,
        }


class ClassificationEvaluation(Evaluation):
    """Classification scores with intervals over images (or groups), and probabilities.

    A temperature calibrates the probabilities on the validation images; with it, calibration error
    and Brier score are computed once more. It does not change any prediction: predictions,
    thresholds and all other scores use the raw probabilities.

    Args:
        folder: Run folder.
        data: The prepared data module.
        threshold: Probability from which the positive class is predicted, or the rule of
            ``medvision.metrics.thresholds.RULES`` that chooses it on the validation images.
        chosen_on: Source of a numeric threshold: ``val`` or ``fixed``.
        validation: Class probabilities (N, K) and class indices (N,) of the validation images,
            if known and not computed in this evaluation.
        sensitivity: Requested sensitivity on the validation images in (0, 1], for the rule of
            that name; 0.95 if None.
        prevalence: Share of positives, in (0, 1), at which PPV and NPV are also stated.
        temperature: Temperature stored with the run; if None, it is fitted on validation images.
        ordered: True if the classes are in a meaningful order.
    """

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
        ordered: bool = False,
    ) -> None:
        super().__init__(folder=folder)
        self.data, self.prevalence, self.ordered = data, prevalence, ordered
        self.choices = ValidationChoices(
            data.class_names,
            threshold=threshold,
            chosen_on=chosen_on,
            sensitivity=SENSITIVITY if sensitivity is None else sensitivity,
            temperature=temperature,
        )
        self.threshold = self.choices.threshold
        self._validation = validation
        self._watched: dict[Stage, ClassProbabilities] = {}
        self._test_scores: Mapping[str, Any] = {}

    @classmethod
    def of_run(
        cls,
        *,
        folder: Path,
        data: ClassificationData,
        options: Mapping[str, Any],
        finished: FinishedRun | None = None,
    ) -> Self:
        requested = options.get("threshold", 0.5)
        rates: Any = {name: options.get(name) for name in ("sensitivity", "prevalence")}
        rates["ordered"] = bool(options.get("ordered_classes"))
        if finished is None:
            return cls(folder=folder, data=data, threshold=requested, **rates)
        validation = finished.path / "predictions_val.csv"
        known = validation.exists()
        return cls(
            folder=folder,
            data=data,
            threshold=float(finished.summary.get("threshold", 0.5)),
            validation=read_class_predictions(validation, data.class_names) if known else None,
            chosen_on="val" if isinstance(requested, str) else "fixed",
            temperature=(finished.summary.get("calibration") or {}).get("temperature"),
            **rates,
        )

    def watch(self, stage: Stage) -> ClassProbabilities:
        self._watched[stage] = ClassProbabilities()
        return self._watched[stage]

    def scores(self, stage: Stage, logged: Mapping[str, float]) -> dict[str, Score]:
        seen = self._watched[stage]
        if not len(seen.index):
            return {}
        names, probability, target = self.data.class_names, seen.probability, seen.target
        self.scored[stage] = {
            "num_images": len(target),
            "class_counts": {name: int((target == k).sum()) for k, name in enumerate(names)},
        }
        not_finite = int((~seen.is_finite).sum())
        if not_finite:
            self.not_finite[stage] = not_finite
            write_table(self.folder / f"predictions_{stage}.csv", self._rows(stage, seen))
            return {f"{stage}/{name}": None for name in self._undefined_scores()}
        self._learn(stage, seen)
        rows = self._rows(stage, seen)
        write_table(self.folder / f"predictions_{stage}.csv", rows)
        groups = self.data.groups_of(rows)
        found = self._class_scores(probability, target, groups)
        found |= self._further_scores(probability, target, groups)
        self._note_answers(stage, self._predicted(probability), target)
        if self.choices.temperature is not None:
            found |= self._calibrated_scores(seen, self.choices.temperature, groups)
        scores: dict[str, Score] = {f"{stage}/loss": or_none(logged[f"{stage}/loss"])}
        scores |= {f"{stage}/{name}": value for name, value in found.items()}
        self.note_missing_intervals(stage, scores)
        if stage == "test":
            self._test_scores = found
        absent = sorted(set(names) - {str(row["target"]) for row in rows})
        if absent:
            self.notes.append(
                f"{stage} has no {', no '.join(absent)}: AUROC and recall of a class are"
                " undefined if the split has no image of it, or only images of it"
            )
        return scores

    def _note_answers(
        self, stage: Stage, predicted: NDArray[np.int64], target: NDArray[np.int64]
    ) -> None:
        """Add a note if labelled classes are never predicted, or all images as one class."""
        answers, names = np.unique(predicted), self.data.class_names
        never = {
            name: int((target == k).sum())
            for k, name in enumerate(names)
            if k not in answers and (target == k).any()
        }
        if never and len(answers) == 1 < len(target):
            name, count = names[answers[0]], int((target == answers[0]).sum())
            self.note(
                f"all {len(target):,} {stage} images are predicted as {name}, the true class of"
                f" {count:,}",
                about=f"all {name}",
            )
        else:
            self.note_never_predicted(stage, never)

    def _undefined_scores(self) -> list[str]:
        """Names of the scores of a split that has images without a finite output."""
        names = self.data.class_names
        nothing = np.empty((0, len(names))), np.empty(0, np.int64)
        return ["loss", *self._class_scores(*nothing, None)]

    def conventions(self, stage: Stage) -> list[dict[str, Any]]:
        seen = self._watched[stage]
        if self.not_finite.get(stage):
            return []
        return classification_conventions(
            seen.probability,
            seen.target,
            class_names=self.data.class_names,
            threshold=self.choices.threshold,
        )

    def details(self) -> dict[str, Any]:
        found, test = self.choices.details(), self._measured_test
        if len(self.data.class_names) != 2 or test is None:
            return found
        val_probability, val_target = self._validation or (np.empty((0, 2)), np.empty(0, np.int64))
        found["operating_points"] = operating_points(
            val_probability[:, 1],
            val_target,
            test.probability[:, 1],
            test.target,
            threshold_in_use=self.choices.threshold,
            chosen_on=self.choices.chosen_on,
            sensitivity=self.choices.sensitivity,
            prevalence=self.prevalence,
            groups=self.data.groups_of(self._rows("test", test)),
        )
        found["decision_curve"] = self._decision_curve
        return found

    @cached_property
    def _decision_curve(self) -> list[dict[str, Any]]:
        """Net benefit of the test images of two classes; empty for more."""
        test = self._measured_test
        if test is None or len(self.data.class_names) > 2:
            return []
        groups = self.data.groups_of(self._rows("test", test))
        return decision_curve(test.probability[:, 1], test.target, groups=groups)

    def tested(self) -> Tested | None:
        test = self._measured_test
        if test is None:
            return None
        rows = self._rows("test", test)
        groups = self.data.groups_of(rows)

        def scores(chosen: Rows) -> dict[str, Any]:
            of_chosen = None if groups is None else [groups[row] for row in chosen]
            found = self._class_scores(test.probability[chosen], test.target[chosen], of_chosen)
            apart = names_at("near-duplicates", "classification")
            names = [f"{name}{end}" for name in apart for end in ("", "_ci95")]
            return {name: found[name] for name in names}

        return Tested(paths=[row["path"] for row in rows], scores=scores, groups=groups)

    def _class_scores(self, probability: Floats, target: Ints, groups: Groups) -> dict[str, Score]:
        """Compute ``classification_scores``, and their intervals under ``<name>_ci95``.

        Args:
            probability: Class probabilities (N, K).
            target: Class indices (N,).
            groups: Group of each image, or None if unknown.
        """
        options: Any = {"class_names": self.data.class_names, "threshold": self.choices.threshold}
        options["ordered"] = self.ordered
        found = classification_scores(probability, target, **options)
        intervals = classification_intervals(probability, target, groups=groups, **options)
        return {name: or_none(value) for name, value in found.items()} | {
            f"{name}_ci95": interval_or_none(ends) for name, ends in intervals.items()
        }

    def _further_scores(
        self, probability: Floats, target: Ints, groups: Groups
    ) -> dict[str, Score]:
        """Compute calibration slope and intercept, and for two classes the net benefit."""
        names, found = self.data.class_names, dict[str, Score]()
        two = len(names) == 2
        for k, name in enumerate(names):
            if two and k == 0:
                continue
            line = calibration_line(probability[:, k], target == k, groups=groups)
            for key, value in line.items():
                score = key.removesuffix("_ci95")
                full = (score if two else f"{score}/{name}") + key[len(score) :]
                found[full] = (
                    interval_or_none(value) if isinstance(value, tuple) else or_none(value)
                )
        if two and self.choices.threshold < 1:
            each = net_benefits(probability[:, 1], target, self.choices.threshold)
            found["net_benefit"] = or_none(each.mean())
            interval = net_benefit_interval(each, self.choices.threshold, groups)
            found["net_benefit_ci95"] = interval_or_none(interval)
        return found

    def _calibrated_scores(
        self, seen: ClassProbabilities, temperature: float, groups: Groups
    ) -> dict[str, Score]:
        """Compute calibration error and Brier score at a temperature, with their intervals."""
        calibrated = apply_temperature(seen.logits, temperature)
        found = Calibration(calibrated, seen.target).scores()
        intervals = calibration_intervals(calibrated, seen.target, groups=groups)
        return {f"{name}_calibrated": or_none(value[0]) for name, value in found.items()} | {
            f"{name}_calibrated_ci95": interval_or_none(ends) for name, ends in intervals.items()
        }

    def patient_scores(self) -> dict[str, Any]:
        """Score the mean probability of each group; empty unless each group has one class."""
        test = self._measured_test
        groups = None if test is None else self.data.groups_of(self._rows("test", test))
        if test is None or groups is None or not several_per_group(groups):
            return {}
        number = group_numbers(groups, len(groups))
        size = np.bincount(number)
        target = np.zeros(len(size), np.int64)
        target[number] = test.target
        found: dict[str, Any] = {"num_groups": len(size), "num_images": len(groups)}
        if (target[number] != test.target).any():
            return {**found, "mixed_groups": len(set(number[target[number] != test.target]))}
        probability = np.stack(
            [np.bincount(number, column) / size for column in test.probability.T], axis=1
        )
        scores = self._class_scores(probability, target, None)
        names = names_at("near-duplicates", "classification")
        return found | {f"{n}{end}": scores[f"{n}{end}"] for n in names for end in ("", "_ci95")}

    @property
    def _measured_test(self) -> ClassProbabilities | None:
        """Outputs of the test images; None if there are none, or they are not all finite."""
        test = self._watched.get("test")
        known = test is not None and len(test.index) and not self.not_finite.get("test")
        return test if known else None

    def _learn(self, stage: Stage, seen: ClassProbabilities) -> None:
        """Choose threshold and temperature once validation images are available."""
        known = len(self.choices.notes)
        if stage == "val":
            self._validation = seen.probability, seen.target
            self.choices.learn(seen.logits, seen.target, probability=seen.probability)
        elif self._validation is not None and "val" not in self._watched:
            self.choices.learn(logits_of(self._validation[0]), self._validation[1])
        self.threshold = self.choices.threshold
        self.notes += self.choices.notes[known:]

    def plot(self, history: Sequence[Mapping[str, float | int | None]]) -> None:
        from medvision.reports.plots.classification import write_classification_plots  # matplotlib
        from medvision.reports.plots.style import write_curves

        test = self._measured_test
        if history:
            write_curves(
                self.folder,
                task="classification",
                history=history,
                synthetic=self.data.synthetic,
                protocol=self.data.protocol,
            )
        if test is None:
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
            threshold=self.choices.threshold,
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
            net_benefit=self._decision_curve,
            scores=self._test_scores,
            synthetic=self.data.synthetic,
            protocol=self.data.protocol,
        )

    def _worst_first(self) -> list[int]:
        test = self._measured_test
        if test is None:
            return []
        of_true = test.probability[np.arange(len(test.index)), test.target]
        return np.argsort(of_true, kind="stable").tolist()

    def _case(self, row: int) -> Case:
        """Build one test image with its true and predicted class."""
        record = self._rows("test", self._watched["test"])[row]
        predicted, true = record["predicted"], record["target"]
        caption = f"predicted {predicted} {100 * record[f'probability/{predicted}']:.1f} %"
        if predicted != true:
            caption += f", true {true} {100 * record[f'probability/{true}']:.1f} %"
        return Case(
            title=record["path"],
            caption=caption,
            picture=as_rgb(shrunk(self.data.read_file(record["path"]), SHOWN_PX)),
            wrong=predicted != true,
        )

    def _rows(self, stage: Stage, seen: ClassProbabilities) -> list[dict[str, Any]]:
        """Build a row per image: path, target, predicted class and class probabilities."""
        names, probability = self.data.class_names, seen.probability
        predicted = self._predicted(probability)
        samples = self.data.tables[stage]
        return [
            {
                "path": samples[row].path,
                "target": samples[row].target,
                "predicted": names[choice] if math.isfinite(values[0]) else "",
                **{f"probability/{name}": float(p) for name, p in zip(names, values, strict=True)},
            }
            for row, choice, values in zip(seen.index, predicted, probability, strict=True)
        ]

    def _predicted(self, probability: NDArray[np.float64]) -> NDArray[np.int64]:
        """Predict the class index of each image (N,) from probabilities (N, K)."""
        if probability.shape[1] == 2:
            return (probability[:, 1] >= self.choices.threshold).astype(np.int64)
        return probability.argmax(axis=1)


def _confusion(
    target: NDArray[np.int64], predicted: NDArray[np.int64], num_classes: int
) -> NDArray[np.int64]:
    """Count images by true and predicted class, (K, K)."""
    cells = np.bincount(target * num_classes + predicted, minlength=num_classes**2)
    return cells.reshape(num_classes, num_classes).astype(np.int64)
