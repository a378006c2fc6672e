"""What every score is called in words, and what it means."""

from dataclasses import dataclass
from typing import Literal

Task = Literal["segmentation", "classification"]


@dataclass(frozen=True, kw_only=True)
class Words:
    """A score in words.

    Attributes:
        name: What it is called.
        definition: What exactly it is, in sentences.
        formula: The same in symbols, where that says more.
        unit: Of the number; a score without one lies in [0, 1].
    """

    name: str
    definition: str
    formula: str = ""
    unit: str = ""


_BY_CLASS = (
    "With two classes it is that of the positive class; with more, the mean over the classes for "
    "which it is defined, each against the rest."
)

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
        formula="(|A ∩ B| + 10⁻⁷) / (|A ∪ B| + 10⁻⁷)",
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
        definition="95th percentile of the Hausdorff distance: how far the predicted and the true "
        "outline lie apart, in pixels, 0 being the best. Undefined for an image in which only "
        "one of the two is empty.",
    ),
    "nsd_2px": Words(
        name="surface Dice at 2 px",
        definition="Normalised surface Dice: the share of both outlines that lies within 2 pixels "
        "of the other one.",
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
        f"image in which the positive one has the larger probability, equal ones half. {_BY_CLASS} "
        "Undefined where only one class occurs.",
    ),
    "average_precision": Words(
        name="average precision",
        definition="Mean over the positive images of the precision among the images that are at "
        f"least as probable: the area under the precision-recall curve. {_BY_CLASS}",
    ),
    "precision": Words(
        name="precision (PPV)",
        formula="TP / (TP + FP)",
        definition=f"Share of the images predicted as a class that are of it. {_BY_CLASS} "
        "Undefined without predictions.",
    ),
    "recall": Words(
        name="sensitivity (recall)",
        formula="TP / (TP + FN)",
        definition=f"Share of the images of a class that are found. {_BY_CLASS}",
    ),
    "specificity": Words(
        name="specificity",
        formula="TN / (TN + FP)",
        definition=f"Share of the images of other classes that are not predicted as it. {_BY_CLASS}",
    ),
    "f1": Words(
        name="F1",
        formula="2 TP / (2 TP + FP + FN)",
        definition=f"Harmonic mean of precision and recall. {_BY_CLASS}",
    ),
    "ece": Words(
        name="calibration error (ECE)",
        formula="Σ nᵦ/n · |accuracyᵦ − confidenceᵦ|",
        definition="Expected calibration error over 15 bins of equal width of the probability of "
        "the most probable class: how far that probability is from the share of right answers. "
        "0 is the best.",
    ),
}

LOSS = Words(
    name="loss",
    definition="What training makes small; the configuration says which one. Not bound to [0, 1].",
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
    "change with the share of positive images.",
)
TRAIN = Words(
    name="train",
    definition="Scores of the training images, augmented, while the network was still learning "
    "from them.",
)


def words_of(task: str) -> dict[str, Words]:
    """The scores of a task in the order in which they are shown, the loss last."""
    scores = SEGMENTATION if task == "segmentation" else CLASSIFICATION
    return {**scores, "loss": LOSS}


def anchor_of(name: str) -> str:
    """Id of the definition of a score on a page."""
    return f"define-{name.replace('_', '-')}"
