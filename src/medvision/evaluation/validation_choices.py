"""What the validation images of a classifier decide: the threshold and the temperature."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import special

from medvision.metrics import fit_temperature, threshold_by_rule
from medvision.metrics.thresholds import SENSITIVITY

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class ValidationChoices:
    """Threshold and temperature of one run, each fixed or chosen on validation, once.

    Args:
        class_names: The K >= 2 classes.
        threshold: Probability of the second of two classes from which on it is predicted, or the
            rule of ``medvision.metrics.thresholds.RULES`` by which it is chosen.
        chosen_on: Where a threshold that is a number comes from.
        sensitivity: What the rule of that name asks for, in (0, 1].
        temperature: That of the run, where it has one.

    Attributes:
        threshold: The number in use; of a rule 0.5 until ``learn``.
        temperature: The one in use; None until ``learn``, and where nothing gives one.
        notes: What a reader of the scores should know.
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
        """Choose what is to be chosen.

        Args:
            logits: Of the validation images, (N, K); of two classes columns 0 and that of the
                second.
            target: Their class indices (N,).
            probability: Of each class, (N, K); without it no threshold is chosen.
        """
        if probability is not None and self.rule is not None:
            self._choose_threshold(self.rule, probability[:, 1], target)
        if self.temperature is None:
            self._fit_temperature(logits, target)

    def details(self) -> dict[str, Any]:
        """``threshold_rule`` and ``calibration`` as summary.json holds them, where known here."""
        found = dict(self._details)
        if "calibration" in found and len(self.class_names) == 2:
            # the same decisions from calibrated probabilities
            moved = special.expit(special.logit(self.threshold) / self.temperature)
            found["calibration"] = {**found["calibration"], "threshold_calibrated": float(moved)}
        return found

    def _choose_threshold(self, rule: str, positive: Floats, target: Ints) -> None:
        self.threshold, words = threshold_by_rule(
            rule, positive, target, sensitivity=self.sensitivity
        )
        self.notes.append(
            f"{self.class_names[1]} is predicted from a probability of {self.threshold:.4f} on:"
            f" {words}; the test images had no part in it"
        )
        asked = {"sensitivity": self.sensitivity} if rule == "sensitivity" else {}
        self._details["threshold_rule"] = {
            "rule": rule,
            "chosen_on": "val",
            "num_images": len(target),
            **asked,
        }

    def _fit_temperature(self, logits: Floats, target: Ints) -> None:
        if len(np.unique(target)) < 2:
            self.notes.append(
                "no temperature is fitted, and the probabilities stay as they are: the validation"
                " images are all of one class"
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
