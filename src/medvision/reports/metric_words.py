"""What every score is called in words, and what it means."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from medvision.reports.page import Measured, is_interval, is_number, score

Task = Literal["segmentation", "classification"]


@dataclass(frozen=True, kw_only=True)
class Words:
    """A score in words.

    Attributes:
        name: What it is called within a sentence.
        definition: What exactly it is, in sentences.
        formula: The same in symbols, where that says more.
        unit: Of the number; a score without one lies in [0, 1].
    """

    name: str
    definition: str
    formula: str = ""
    unit: str = ""

    @property
    def title(self) -> str:
        """The name with a capital letter."""
        return self.name[:1].upper() + self.name[1:]

    @property
    def headed(self) -> str:
        """The title with the unit, for the head of a table."""
        return f"{self.title}, {self.unit}" if self.unit else self.title

    def written(self, value: float | None) -> str:
        """A value of the score: three decimals, of one with a unit one; or ``undefined``."""
        return f"{value:.1f}" if self.unit and is_number(value) else score(value)

    def written_interval(self, ends: Sequence[float]) -> str:
        """Low and high end."""
        return " to ".join(self.written(end) for end in ends)

    def measured(self, value: float | None, ends: Any) -> str | Measured:
        """A value, with its interval where both ends are defined."""
        if not is_interval(ends):
            return self.written(value)
        return Measured(value=self.written(value), ends=self.written_interval(ends))


SEGMENTATION = {
    "dice": Words(
        name="Dice",
        formula="(2 |A ∩ B| + 10⁻⁷) / (|A| + |B| + 10⁻⁷)",
        definition="Overlap of the predicted foreground A and the true one B of an image, at the "
        "size the network sees and at threshold 0.5, averaged over the images (of more than two "
        "classes, over the foreground classes too). An image in which both are empty scores 1.",
    ),
    "iou": Words(
        name="IoU",
        formula="(|A ∩ B| + 10⁻⁷) / (|A \N{UNION} B| + 10⁻⁷)",
        definition="Intersection over union of A and B of an image, measured and averaged as Dice.",
    ),
    "dice_original": Words(
        name="Dice at file size",
        definition="Dice at the size of the file: the output of the network is enlarged "
        "bilinearly before the threshold and compared with the mask as it was read.",
    ),
    "iou_original": Words(
        name="IoU at file size",
        definition="IoU at the size of the file, measured as Dice at file size.",
    ),
    "dice_global": Words(
        name="Dice over all pixels",
        definition="Dice computed once from the pixels of all images together, so that large "
        "lesions count more.",
    ),
    "iou_global": Words(
        name="IoU over all pixels",
        definition="IoU computed once from the pixels of all images together.",
    ),
    "hd95_px": Words(
        name="HD95",
        unit="px",
        definition="95th percentile of the Hausdorff distance: how far the pixels of the predicted "
        "and of the true outline lie from the other one, in pixels; the larger of the two "
        "sides, averaged over the images. 0 is the best. Undefined for an image in which one of "
        "the masks is empty: lesions that were missed are left out, so read it beside Dice.",
    ),
    "nsd_2px": Words(
        name="surface Dice at 2 px",
        definition="Normalised surface Dice: the share of the pixels of both outlines that have "
        "the other one within 2 pixels, averaged over the images. 0 for an image in which one "
        "mask is empty; undefined where both are.",
    ),
    "accuracy": Words(
        name="pixel accuracy",
        definition="Share of all pixels with the right class. High wherever lesions are small.",
    ),
    "precision": Words(
        name="precision (pixels)",
        formula="TP / (TP + FP)",
        definition="Share of the pixels predicted as foreground that are foreground.",
    ),
    "recall": Words(
        name="sensitivity (recall, pixels)",
        formula="TP / (TP + FN)",
        definition="Share of the foreground pixels that are found.",
    ),
    "specificity": Words(
        name="specificity (pixels)",
        formula="TN / (TN + FP)",
        definition="Share of the background pixels that are left alone.",
    ),
    "auroc": Words(
        name="AUROC (pixels)",
        definition="Area under the ROC curve of all pixels, ranked by foreground probability in "
        "256 bins. Undefined where only one class occurs.",
    ),
    "average_precision": Words(
        name="average precision (pixels)",
        definition="Area under the precision-recall curve of all pixels.",
    ),
}

CLASSIFICATION = {
    "accuracy": Words(
        name="accuracy",
        definition="Share of the images whose predicted class is the true one.",
    ),
    "balanced_accuracy": Words(
        name="balanced accuracy",
        definition="Mean of the recalls of the classes that occur, so that each class counts the "
        "same however many images it has.",
    ),
    "auroc": Words(
        name="AUROC",
        definition="Area under the ROC curve: the share of the pairs of a positive and a negative "
        "image in which the positive one has the larger probability, equal ones half. "
        "Undefined where only one class occurs.",
    ),
    "average_precision": Words(
        name="average precision",
        definition="Mean over the positive images of the precision among the images that are at "
        "least as probable: the area under the precision-recall curve.",
    ),
    "precision": Words(
        name="precision (PPV)",
        formula="TP / (TP + FP)",
        definition="Share of the images predicted as a class that are of it. "
        "Undefined without predictions.",
    ),
    "recall": Words(
        name="sensitivity (recall)",
        formula="TP / (TP + FN)",
        definition="Share of the images of a class that are found.",
    ),
    "specificity": Words(
        name="specificity",
        formula="TN / (TN + FP)",
        definition="Share of the images of other classes that are not predicted as it.",
    ),
    "f1": Words(
        name="F1",
        formula="2 TP / (2 TP + FP + FN)",
        definition="Harmonic mean of precision and recall.",
    ),
    "ece": Words(
        name="calibration error (ECE)",
        formula="Σ (images of the bin / all images) · |accuracy - confidence|",
        definition="Expected calibration error over 15 bins of equal width of the probability of "
        "the most probable class: how far that probability is from the share of right answers. "
        "0 is the best.",
    ),
    "brier": Words(
        name="Brier score",
        formula="mean of (p - y)²",
        definition="Mean squared error of the probabilities: of two classes of that of the second "
        "one, from 0 to 1; of more summed over the classes, from 0 to 2. It falls with calibration "
        "and with discrimination. 0 is the best.",
    ),
    "ece_calibrated": Words(
        name="calibration error after temperature scaling",
        formula="p = softmax(logits / T)",
        definition="ECE of the probabilities at the temperature T that makes the validation images "
        "most likely. T above 1: the network was too sure; below 1: not sure enough. The most "
        "probable class stays the same; all other scores are those of the probabilities before.",
    ),
    "brier_calibrated": Words(
        name="Brier score after temperature scaling",
        definition="The Brier score of the same probabilities.",
    ),
}

LOSS = Words(
    name="loss",
    definition="What training makes small; the configuration says which one. Not bound to [0, 1]. "
    "It is an objective and no score, and has no interval.",
)
INTERVAL = Words(
    name="95 % interval",
    definition="Bootstrap interval over test images, or over whole groups where groups are known: "
    "where the score would lie with other images of the same kind. It does not cover another "
    "hospital, another device or another training run.",
)
PREDICTIVE = Words(
    name="PPV and NPV",
    formula="TP / (TP + FP) and TN / (TN + FN)",
    definition="Share of the positive, and of the negative, predictions that are right. Both "
    "change with the share of positive images. Intervals of the thresholds are Wilson's, of as "
    "many independent images as those of known groups are worth.",
)
AT_PREVALENCE = Words(
    name="PPV and NPV at a prevalence",
    formula="π se / (π se + (1 - π)(1 - sp)) and (1 - π) sp / ((1 - π) sp + π (1 - se))",
    definition="By Bayes from the sensitivity se and the specificity sp on the test images, where "
    "a share π of the patients is ill, provided that the ill and the healthy look as they do here. "
    "Intervals from those of se and sp, as of a ratio of two proportions; π counts as known.",
)
TRAIN = Words(
    name="train",
    definition="Scores of the training images, augmented, while the network was still learning "
    "from them. They have no interval.",
)


def over_classes(class_names: Sequence[str]) -> Words:
    """How one number comes from the classes of a classifier."""
    if len(class_names) == 2:
        return Words(
            name="positive class",
            definition=f"Precision, sensitivity, specificity, F1, AUROC and average precision are "
            f"those of {class_names[1]}, the second class. TP, FP, TN and FN count images by "
            "whether they were predicted as it (P) or not (N), truly or falsely.",
        )
    return Words(
        name="mean over classes",
        definition="Precision, sensitivity, specificity, F1, AUROC and average precision are means "
        "over the classes for which they are defined, each against the rest. TP, FP, TN and FN "
        "count images by whether they were predicted as a class (P) or not (N), truly or falsely.",
    )


def words_of(task: str) -> dict[str, Words]:
    """The scores of a task in the order in which they are shown, the loss last."""
    scores = SEGMENTATION if task == "segmentation" else CLASSIFICATION
    return {**scores, "loss": LOSS}


def anchor_of(name: str) -> str:
    """Id of the definition of a score on a page."""
    return f"define-{name.replace('_', '-')}"
