"""Names and definitions of the conventions by which a classification is scored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class ClassConvention:
    """One way to make a number of class probabilities.

    Attributes:
        key: Stable name.
        score: What it is called: ``accuracy``, ``f1`` or ``auroc``; the key of medvision's own.
        name: A few words; ``name_of_more`` for three classes or more, where it differs.
        tools: Who reports it; ``tools_of_more`` for three classes or more, where they differ.
        definition: One sentence.
        classes: Of how many classes it is a convention of its own.
        binary_only: Whether it is defined for two classes only.
        optimistic: Whether something was chosen on the images that are scored: no test score.
    """

    key: str
    score: Literal["accuracy", "f1", "auroc"]
    name: str
    tools: str
    definition: str
    classes: Literal["any", "two", "more"] = "any"
    name_of_more: str = ""
    tools_of_more: str = ""
    binary_only: bool = False
    optimistic: bool = False

    def fits(self, num_classes: int) -> bool:
        """Whether a table of that many classes has it, be it to say that it is for two only."""
        return self.classes in ("any", "more" if num_classes > 2 else "two")

    def to_dict(self, *, num_classes: int) -> dict[str, Any]:
        """What a table of that many classes says of it."""
        more = num_classes > 2
        return {
            "key": self.key,
            "score": self.score,
            "name": (self.name_of_more if more else "") or self.name,
            "tools": (self.tools_of_more if more else "") or self.tools,
            "definition": self.definition,
            "own": self.key == self.score,
            "optimistic": self.optimistic,
            "binary_only": self.binary_only,
        }


CLASSIFICATION = (
    ClassConvention(
        key="accuracy",
        score="accuracy",
        name="threshold in use",
        name_of_more="most probable class",
        tools="medvision; scikit-learn accuracy_score",
        definition="Share of the images whose predicted class is the true one.",
    ),
    ClassConvention(
        key="balanced_accuracy",
        score="accuracy",
        name="balanced: mean recall of the classes",
        tools="medvision balanced_accuracy; torchmetrics MulticlassAccuracy",
        definition="Mean over the classes that occur of the share of their images found.",
    ),
    ClassConvention(
        key="accuracy_at_half",
        score="accuracy",
        name="threshold 0.5",
        tools="most libraries: round(p), argmax",
        definition="Accuracy with the positive class predicted where p >= 0.5.",
        binary_only=True,
    ),
    ClassConvention(
        key="accuracy_best",
        score="accuracy",
        name="best threshold on this set",
        tools="scripts that tune it on the test set",
        definition="The largest accuracy over all thresholds: chosen on the images scored.",
        binary_only=True,
        optimistic=True,
    ),
    ClassConvention(
        key="f1",
        score="f1",
        name="positive class",
        name_of_more="macro: mean over classes",
        tools="medvision; scikit-learn f1_score (binary)",
        tools_of_more="medvision; scikit-learn f1_score (macro)",
        definition="2 TP / (2 TP + FP + FN) of the positive class; for three classes or more the"
        " mean over the classes that are labelled or predicted.",
    ),
    ClassConvention(
        key="f1_macro",
        score="f1",
        name="macro: mean over classes",
        tools="scikit-learn f1_score (macro)",
        definition="Mean of the F1 of both classes, one against the other.",
        classes="two",
    ),
    ClassConvention(
        key="f1_weighted",
        score="f1",
        name="weighted by class size",
        tools="scikit-learn f1_score (weighted)",
        definition="Mean of the F1 of each class, weighted by its number of images.",
    ),
    ClassConvention(
        key="f1_micro",
        score="f1",
        name="micro (accuracy)",
        tools="scikit-learn f1_score (micro)",
        tools_of_more="scikit-learn f1_score (micro); torchmetrics F1Score",
        definition="TP, FP and FN of all classes added up before dividing, which is accuracy.",
    ),
    ClassConvention(
        key="f1_of_means",
        score="f1",
        name="of mean precision and mean recall",
        tools="papers that combine the two means",
        definition="2 P R / (P + R) of the precision and the recall averaged over classes; a class"
        " that is never predicted has precision 0.",
    ),
    ClassConvention(
        key="f1_at_half",
        score="f1",
        name="positive class, threshold 0.5",
        tools="most libraries: round(p), argmax",
        definition="F1 of the positive class, predicted where p >= 0.5.",
        binary_only=True,
    ),
    ClassConvention(
        key="f1_best",
        score="f1",
        name="positive class, best threshold on this set",
        tools="maximum of the precision-recall curve",
        definition="The largest F1 of the positive class over all thresholds: chosen on the images"
        " scored.",
        binary_only=True,
        optimistic=True,
    ),
    ClassConvention(
        key="auroc",
        score="auroc",
        name="of probabilities",
        name_of_more="macro, one class against the rest",
        tools="medvision; scikit-learn roc_auc_score",
        tools_of_more="medvision; scikit-learn roc_auc_score (ovr, macro)",
        definition="Share of the (negative, positive) pairs in which the positive has the larger"
        " probability; for three classes or more the mean over one class against the rest.",
    ),
    ClassConvention(
        key="auroc_of_classes",
        score="auroc",
        name="of predicted classes (balanced accuracy)",
        tools="roc_auc_score, given classes by mistake",
        definition="The same of predicted classes in place of probabilities: one point of the"
        " curve, which is balanced accuracy.",
        binary_only=True,
    ),
    ClassConvention(
        key="auroc_weighted",
        score="auroc",
        name="weighted, one class against the rest",
        tools="scikit-learn roc_auc_score (ovr, weighted)",
        definition="Mean over one class against the rest, weighted by its number of images;"
        " undefined where a class is absent.",
        classes="more",
    ),
    ClassConvention(
        key="auroc_micro",
        score="auroc",
        name="micro, one class against the rest",
        tools="scikit-learn roc_auc_score (ovr, micro)",
        definition="All pairs of image and class ranked together; undefined where a class is"
        " absent.",
        classes="more",
    ),
    ClassConvention(
        key="auroc_one_to_one",
        score="auroc",
        name="macro, one class against one",
        tools="scikit-learn roc_auc_score (ovo, macro)",
        definition="Mean over all pairs of classes (Hand and Till 2001); undefined where a class"
        " is absent.",
        classes="more",
    ),
    ClassConvention(
        key="auroc_one_to_one_weighted",
        score="auroc",
        name="weighted, one class against one",
        tools="scikit-learn roc_auc_score (ovo, weighted)",
        definition="The same, weighted by the number of images of the two classes; undefined where"
        " a class is absent.",
        classes="more",
    ),
)
"""Of classifications; medvision's own first of each score."""
