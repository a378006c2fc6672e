"""Table of scores: one row for each, with its definition, direction and places.

A score is logged as ``stage/name``, that of one class as ``stage/name/class``, and its 95 %
interval under its name with ``_ci95``; an interval is shown wherever its score is. To add a score,
write its function in ``medvision.metrics`` and one row here; a further task names its rows in its
``TaskDefinition``. Values that a callback logs under a name without a row can be monitored like any
other score, and are shown under "Other values".
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeGuard

from medvision.task_definition import task_names, task_of

Place = Literal[
    "log",  # first columns of metrics.csv; the first of them in the line of each epoch
    "curve",  # plotted over the epochs
    "terminal",  # table at the end of a run
    "headline",  # stands out in the report, leads tables of several runs; the first: test ledger
    "tile",  # large number at the top of the report; with two classes, with more:
    "tile of two classes",
    "tile of many classes",
    "class scale",  # drawn as a bar in the table of classes
    "near-duplicates",  # also measured separately for images with a near-duplicate in training
    "checked",  # compared between train, validation and test
    "folds",  # table of a cross-validation
    "comparison",  # table of groups in the terminal
    "comparison page",
    "hidden",  # none of the above, nor in the table of the report
]
"""Place where a score is shown, in addition to the table of all scores in the report."""

UNDEFINED = "undefined"

METRIC_DEFINITIONS = 4
"""Version of the definitions below, in ``summary.json``. It increases when one changes."""

INTERVALS, INTERVALS_CHANGED = "intervals", 4
"""Name that stands for the intervals of all scores, and the version in which they changed last."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """Change of the definition of a score.

    Attributes:
        version: First version of the definitions with the change.
        what: New definition, in a few words.
        more_classes: True if the score of two classes did not change.
    """

    version: int
    what: str
    more_classes: bool = False


@dataclass(frozen=True, kw_only=True)
class Score:
    """Definition and presentation of a score.

    Attributes:
        name: Name in logs, without the stage.
        title: Name within a sentence.
        definition: Exact definition, in sentences.
        formula: Definition in symbols, if useful.
        unit: Unit of the value.
        better: Direction of improvement.
        bounded: True if it lies in [0, 1], so that it can be drawn on that scale.
        places: Places where it is shown.
        per_image: True if each image has its own value, a column of the predictions.
        may_be_undefined: True if images may lack that value; the mean excludes them, and
            ``stage/name_undefined`` counts them.
        of_predicted_classes: True if it is computed from predicted classes, not probabilities.
        chance: Value of guessing; None if there is none, or it is not worth mentioning.
        changes: Changes of the definition, which set ``METRIC_DEFINITIONS``.
    """

    name: str
    title: str
    definition: str
    formula: str = ""
    unit: str = ""
    better: Literal["higher", "lower"] = "higher"
    bounded: bool = True
    places: tuple[Place, ...] = ()
    per_image: bool = False
    may_be_undefined: bool = False
    of_predicted_classes: bool = False
    chance: float | None = None
    changes: tuple[Change, ...] = ()

    @property
    def mode(self) -> Literal["max", "min"]:
        """Direction of improvement, as a monitor calls it."""
        return "max" if self.better == "higher" else "min"

    @property
    def capitalized(self) -> str:
        """Title with a capital letter."""
        return self.title[:1].upper() + self.title[1:]

    @property
    def heading(self) -> str:
        """Capitalized title with the unit, for the head of a table."""
        return f"{self.capitalized}, {self.unit}" if self.unit else self.capitalized

    @property
    def anchor(self) -> str:
        """Id of its definition on a page."""
        return f"define-{self.name.replace('_', '-')}"

    def text(self, value: float | None, *, sign: bool = False) -> str:
        """Format a value with three decimals, or with one if the score has a unit."""
        if not is_number(value):
            return UNDEFINED
        digits = 1 if self.unit else 3
        # adding 0.0 turns -0.0 into 0.0
        return f"{round(value, digits) + 0.0:{'+' * sign}.{digits}f}"

    def interval_text(self, ends: Sequence[float]) -> str:
        """Format the low and high end of an interval."""
        return " to ".join(map(self.text, ends))


def is_number(value: Any) -> TypeGuard[float]:
    """Return True if a value is a finite number."""
    return isinstance(value, int | float) and math.isfinite(value)


def is_interval(ends: Any) -> TypeGuard[Sequence[float]]:
    """Return True if a value is a pair of finite numbers."""
    return isinstance(ends, Sequence) and len(ends) == 2 and all(map(is_number, ends))


OF_A_RUN: tuple[Place, ...] = ("log", "curve", "terminal")
OF_SEVERAL_RUNS: tuple[Place, ...] = (
    "headline",
    "near-duplicates",
    "folds",
    "comparison",
    "comparison page",
)

LOSS = Score(
    name="loss",
    title="loss",
    definition="Training objective; the configuration names the loss. Not bounded to [0, 1]. "
    "It is an objective, not a score, and has no interval.",
    better="lower",
    bounded=False,
    places=("log", "curve"),
)

_PRESENT_ONLY = Change(
    version=3, what="the mean of a class is over the images that contain it", more_classes=True
)
_NEVER_PREDICTED = Change(
    version=3, what="a class that is labelled and never predicted has precision 0"
)
_RANKED = Change(version=3, what="pixels are ranked by their logit, not in 256 bins of probability")
_NO_TIES = Change(version=4, what="images whose probability is rounded to 1 are no ties")

SEGMENTATION = (
    Score(
        name="dice",
        title="Dice",
        formula="(2 |A ∩ B| + 10⁻⁷) / (|A| + |B| + 10⁻⁷)",
        definition="Overlap of the predicted foreground A and the labelled foreground B of an "
        "image, at the input size of the network and threshold 0.5, averaged over images. An image "
        "in which both are empty scores 1. With more than two classes, that of a class is averaged "
        "over the images that contain it, and the overall one over images, each with the mean of "
        "the foreground classes that it contains.",
        places=(*OF_A_RUN, *OF_SEVERAL_RUNS, "tile", "class scale", "checked"),
        per_image=True,
        changes=(_PRESENT_ONLY,),
    ),
    Score(
        name="iou",
        title="IoU",
        formula="(|A ∩ B| + 10⁻⁷) / (|A \N{UNION} B| + 10⁻⁷)",
        definition="Intersection over union of A and B, measured and averaged like Dice.",
        places=(*OF_A_RUN, *OF_SEVERAL_RUNS, "tile"),
        per_image=True,
        changes=(_PRESENT_ONLY,),
    ),
    Score(
        name="dice_present",
        title="Dice of images with a lesion",
        definition="Dice averaged over the images with labelled foreground only, so that images "
        "without a lesion neither raise nor lower it.",
        places=("terminal",),
        per_image=True,
        may_be_undefined=True,
    ),
    Score(
        name="absence",
        title="absence detected",
        definition="Share of the images without labelled foreground in which none is predicted. "
        "With more than two classes, of each class, and the overall one averaged over images, each "
        "with the mean of the foreground classes that it does not contain. Undefined where every "
        "image contains the foreground.",
        places=("terminal",),
        per_image=True,
        may_be_undefined=True,
    ),
    Score(
        name="dice_original",
        title="Dice at file size",
        definition="Dice at the size of the file: the output of the network is enlarged "
        "bilinearly before the threshold and compared with the original mask.",
        places=("terminal", "near-duplicates", "folds"),
        per_image=True,
        changes=(_PRESENT_ONLY,),
    ),
    Score(
        name="iou_original",
        title="IoU at file size",
        definition="IoU at the size of the file, measured like Dice at file size.",
        places=("terminal", "near-duplicates", "folds"),
        per_image=True,
        changes=(_PRESENT_ONLY,),
    ),
    Score(
        name="dice_global",
        title="Dice over all pixels",
        definition="Dice computed once from the pixels of all images together, so that large "
        "lesions count more.",
    ),
    Score(
        name="iou_global",
        title="IoU over all pixels",
        definition="IoU computed once from the pixels of all images together.",
    ),
    Score(
        name="hd95_px",
        title="HD95",
        unit="px",
        better="lower",
        bounded=False,
        definition="95th percentile of the Hausdorff distance: distances of the pixels of each "
        "outline, predicted and true, to the other one, in pixels; the larger of the two "
        "directions, averaged over the images. 0 is the best. Undefined for an image in which one "
        "of the masks is empty: missed lesions are excluded, so interpret it together with HD95 "
        "with missed lesions.",
        places=("terminal", "tile", "comparison page"),
        per_image=True,
        may_be_undefined=True,
    ),
    Score(
        name="hd95_px_penalised",
        title="HD95 with missed lesions",
        unit="px",
        better="lower",
        bounded=False,
        definition="HD95 in which an image with a lesion and without a prediction counts as the "
        "diagonal of the image. Undefined for an image without a lesion.",
        places=("terminal",),
        per_image=True,
        may_be_undefined=True,
    ),
    Score(
        name="nsd_2px",
        title="surface Dice at 2 px",
        definition="Normalised surface Dice: share of the pixels of both outlines that lie "
        "within 2 pixels of the other one, averaged over the images. 0 for an image in which one "
        "mask is empty; undefined where both are.",
        places=("terminal",),
        per_image=True,
        may_be_undefined=True,
    ),
    Score(
        name="lesion_recall",
        title="lesions found",
        formula="lesions found / lesions",
        definition="Share of the lesions of all images of which at least one pixel is predicted, "
        "at the size of the file. A lesion is a connected region of the true mask; pixels "
        "that touch at a corner are connected (Maier-Hein et al., Metrics reloaded, 2024).",
        places=("terminal", "comparison page"),
    ),
    Score(
        name="lesion_recall_iou",
        title="lesions found (IoU of 0.5)",
        definition="Share of the lesions that have an IoU of 0.5 or more with a connected region "
        "of the prediction.",
    ),
    Score(
        name="false_positives_per_image",
        title="false positives per image",
        better="lower",
        bounded=False,
        definition="Connected regions of the prediction without any labelled pixel, averaged over "
        "all images, as in free-response ROC analysis (Bunch et al., 1977).",
        places=("terminal",),
    ),
    Score(
        name="false_positives_per_image_iou",
        title="false positives per image (IoU of 0.5)",
        better="lower",
        bounded=False,
        definition="Connected regions of the prediction that have an IoU of 0.5 or more with no "
        "lesion, averaged over all images.",
    ),
    Score(
        name="accuracy",
        title="pixel accuracy",
        definition="Share of all pixels with the correct class. It is high if lesions are small.",
        places=("log", "curve", "terminal"),
    ),
    Score(
        name="precision",
        title="precision (pixels)",
        formula="TP / (TP + FP)",
        definition="Share of the pixels predicted as foreground that are foreground; 0 if there is "
        "labelled foreground and none is predicted.",
        places=("terminal", "comparison page"),
        changes=(_NEVER_PREDICTED,),
    ),
    Score(
        name="recall",
        title="sensitivity (recall, pixels)",
        formula="TP / (TP + FN)",
        definition="Share of the foreground pixels predicted as foreground.",
        places=("terminal", "comparison page"),
    ),
    Score(
        name="specificity",
        title="specificity (pixels)",
        formula="TN / (TN + FP)",
        definition="Share of the background pixels predicted as background.",
    ),
    Score(
        name="auroc",
        title="AUROC (pixels)",
        definition="Area under the ROC curve of all pixels, ranked by the logit of the foreground "
        "in 262144 bins. Undefined where only one class occurs.",
        places=("log", "terminal", "tile", "comparison"),
        changes=(_RANKED,),
    ),
    Score(
        name="average_precision",
        title="average precision (pixels)",
        definition="Area under the precision-recall curve of all pixels.",
    ),
)

CLASSIFICATION = (
    Score(
        name="accuracy",
        title="accuracy",
        definition="Share of the images whose predicted class is the true one.",
        places=(*OF_A_RUN, *OF_SEVERAL_RUNS, "tile"),
        of_predicted_classes=True,
    ),
    Score(
        name="balanced_accuracy",
        title="balanced accuracy",
        definition="Mean of the recalls of the classes that occur, so that each class has the same "
        "weight, regardless of its number of images.",
        places=(
            *OF_A_RUN,
            "tile of many classes",
            "near-duplicates",
            "checked",
            "folds",
            "comparison",
            "comparison page",
        ),
        of_predicted_classes=True,
    ),
    Score(
        name="auroc",
        title="AUROC",
        definition="Area under the ROC curve: the share of the pairs of a positive and a negative "
        "image in which the positive one has the larger probability, before any rounding; ties "
        "count half. Undefined where only one class occurs.",
        places=(*OF_A_RUN, *OF_SEVERAL_RUNS, "tile", "checked"),
        chance=0.5,
        changes=(_NO_TIES,),
    ),
    Score(
        name="average_precision",
        title="average precision",
        definition="Mean over the positive images of the precision among the images that are at "
        "least as probable: the area under the precision-recall curve.",
        places=("terminal", "folds"),
        changes=(_NO_TIES,),
    ),
    Score(
        name="precision",
        title="precision (PPV)",
        formula="TP / (TP + FP)",
        definition="Share of the images predicted as a class that belong to it; 0 if the class "
        "has images and is never predicted.",
        places=("terminal",),
        of_predicted_classes=True,
        changes=(_NEVER_PREDICTED,),
    ),
    Score(
        name="recall",
        title="sensitivity (recall)",
        formula="TP / (TP + FN)",
        definition="Share of the images of a class that are predicted as this class.",
        places=("terminal", "tile of two classes", "class scale", "folds"),
        of_predicted_classes=True,
    ),
    Score(
        name="specificity",
        title="specificity",
        formula="TN / (TN + FP)",
        definition="Share of the images of other classes that are not predicted as this class.",
        places=("terminal", "tile of two classes", "folds"),
        of_predicted_classes=True,
    ),
    Score(
        name="f1",
        title="F1",
        formula="2 TP / (2 TP + FP + FN)",
        definition="Harmonic mean of precision and recall.",
        places=("terminal", "comparison page"),
        of_predicted_classes=True,
    ),
    Score(
        name="mcc",
        title="Matthews correlation (MCC)",
        definition="Correlation of true and predicted class, from -1 to 1; 0 is the value of "
        "guessing, and of a network that always predicts one class (Gorodkin, 2004).",
        bounded=False,
        places=("terminal",),
        of_predicted_classes=True,
        chance=0.0,
    ),
    Score(
        name="kappa",
        title="Cohen's kappa",
        formula="1 - observed / expected disagreement",
        definition="Agreement of true and predicted class beyond chance, from -1 to 1 (Cohen, "
        "1960). With task.ordered_classes=true a disagreement counts by the squared distance of "
        "the classes (Cohen, 1968).",
        bounded=False,
        places=("terminal",),
        of_predicted_classes=True,
        chance=0.0,
    ),
    Score(
        name="net_benefit",
        title="net benefit",
        formula="TP / n - FP / n · t / (1 - t)",
        definition="True positives per image, minus false positives weighted by the odds of the "
        "threshold t in use: t is the probability of disease from which a patient would be "
        "treated (Vickers and Elkin, 2006). Predicting nothing has net benefit 0.",
        bounded=False,
    ),
    Score(
        name="calibration_slope",
        title="calibration slope",
        definition="Slope of a logistic regression of the class on the logit of its probability "
        "(Cox, 1958; Van Calster et al., 2019). 1 is the best; below 1, probabilities are too "
        "extreme. Undefined where the logit separates the classes without an error.",
        bounded=False,
    ),
    Score(
        name="calibration_intercept",
        title="calibration intercept",
        definition="Intercept of that regression with the slope fixed to 1: calibration in the "
        "large. 0 is the best; below 0, probabilities are too high on average.",
        bounded=False,
    ),
    Score(
        name="ece",
        title="calibration error (ECE)",
        formula="Σ (images of the bin / all images) · |accuracy - confidence|",
        definition="Expected calibration error over 15 bins of equal width of the probability of "
        "the most probable class: the gap between that probability and the share of correct "
        "predictions. 0 is the best.",
        better="lower",
        places=("terminal",),
    ),
    Score(
        name="ece_calibrated",
        title="calibration error after temperature scaling",
        formula="p = softmax(logits / T)",
        definition="ECE of the probabilities at the temperature T with the highest likelihood of "
        "the validation images. T above 1: the network was overconfident; below 1: underconfident. "
        "The most probable class stays the same; all other scores use the unscaled probabilities.",
        better="lower",
        places=("terminal",),
    ),
    Score(
        name="brier",
        title="Brier score",
        formula="mean of (p - y)²",
        definition="Mean squared error of the probabilities: with two classes, of the second one, "
        "from 0 to 1; with more, summed over the classes, from 0 to 2. It falls with better "
        "calibration and better discrimination. 0 is the best.",
        better="lower",
        bounded=False,
        places=("terminal",),
    ),
    Score(
        name="brier_calibrated",
        title="Brier score after temperature scaling",
        definition="Brier score of the temperature-scaled probabilities.",
        better="lower",
        bounded=False,
        places=("terminal",),
    ),
    Score(
        name="confusion",
        title="confusion",
        definition="Number of images by true and by predicted class.",
        bounded=False,
        places=("hidden",),
    ),
)


def scores_of(task: str) -> tuple[Score, ...]:
    """Scores of a task in display order, the loss last.

    Args:
        task: Kind of the task; an undefined task only has its loss.
    """
    return (*_rows(task), LOSS)


def named_scores(task: str) -> dict[str, Score]:
    """Scores of a task by name, in display order, without hidden ones."""
    return {score.name: score for score in scores_of(task) if "hidden" not in score.places}


def _rows(task: str | None) -> tuple[Score, ...]:
    """Rows of a task, or of all tasks; empty if the task is not defined."""
    kinds = [kind for kind in task_names() if task in (None, kind)]
    return tuple(row for kind in kinds for row in task_of(kind).load("scores"))


def headline_of(task: str | None) -> str:
    """Name of the main score of a task: its first headline, or the loss."""
    return (*names_at("headline", task), LOSS.name)[0]


def scores_at(place: Place, task: str | None = None) -> tuple[Score, ...]:
    """Scores shown in a place, the loss first; for None those of all tasks, each name once."""
    found: dict[str, Score] = {}
    for row in (LOSS, *_rows(task)):
        if place in row.places:
            found.setdefault(row.name, row)
    return tuple(found.values())


def names_at(place: Place, task: str | None = None) -> tuple[str, ...]:
    """Names of the scores shown in a place."""
    return tuple(score.name for score in scores_at(place, task))


def score_named(name: str, task: str | None = None) -> Score | None:
    """Row of a score of a task, or of any task; None if there is none.

    Args:
        name: With or without stage and class, such as ``val/dice`` or ``recall/glioma``.
        task: Kind of the task.
    """
    parts = name.split("/")
    base = parts[1] if parts[0] in ("train", "val", "test") and parts[1:] else parts[0]
    return next((row for row in (*_rows(task), LOSS) if row.name == base), None)


def score_at_file_size(name: str, task: str) -> Score | None:
    """Score measured at the size of the files; None if there is none."""
    return score_named(f"{name}_original", task)


def changed_since(version: int, task: str, *, num_classes: int) -> dict[str, str]:
    """Scores whose definition changed after a version, each with its new definition.

    Args:
        version: ``metric_definitions`` of a run.
        task: Kind of the task.
        num_classes: K >= 2.
    """
    found = {
        row.name: change.what
        for row in _rows(task)
        for change in row.changes
        if change.version > version and (num_classes > 2 or not change.more_classes)
    }
    if version < INTERVALS_CHANGED:
        found[INTERVALS] = "computed by methods whose coverage was simulated"
    return found


def changed_name(full: str, changes: Mapping[str, str]) -> str | None:
    """Return the entry of ``changed_since`` that applies to a value; None if there is none.

    Args:
        full: Name of the value, such as ``test/precision/glioma`` or ``val/auroc_ci95``.
        changes: Result of ``changed_since``.
    """
    if full.endswith("_ci95") and INTERVALS in changes:
        return INTERVALS
    name = "/".join(full.split("/")[1:2]).removesuffix("_ci95").removesuffix("_undefined")
    return name if name in changes else None


def mode_of(name: str) -> Literal["max", "min"]:
    """Direction of improvement of a score; ``max`` for a score without a row."""
    score = score_named(name)
    return "max" if score is None else score.mode


def other_scores(names: Iterable[str], task: str | None) -> tuple[Score, ...]:
    """Scores without a row, such as those of the user's callbacks, in their order.

    Args:
        names: Names of all logged or measured values, with their stage.
        task: Kind of the task; None for any.
    """
    found: dict[str, Score] = {}
    for full in names:
        stage, _, name = full.partition("/")
        for end in ("_ci95", "_undefined"):
            name = name.removesuffix(end)
        if stage in ("train", "val", "test") and score_named(name, task) is None:
            found.setdefault(name, _without_row(name))
    return tuple(found.values())


def _without_row(name: str) -> Score:
    return Score(
        name=name,
        title=name,
        definition="Logged by a metric or a callback of this run, which defines it.",
        bounded=False,
    )
