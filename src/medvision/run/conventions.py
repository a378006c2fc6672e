"""Score the predictions of an evaluation by the conventions of other tools, beside its own."""

from typing import Any

from medvision.data import ImageData
from medvision.evaluation import Evaluation, SegmentationEvaluation
from medvision.metrics.class_conventions import classification_conventions
from medvision.metrics.conventions import SegmentationConventions
from medvision.run.class_predictions import read_class_predictions
from medvision.types import Stage


def count_conventions(evaluation: Evaluation, data: ImageData) -> None:
    """Have an evaluation add up, image by image, what the conventions need.

    Of a classification nothing need be added up: the probabilities of all images are kept.
    """
    if isinstance(evaluation, SegmentationEvaluation):
        evaluation.conventions = SegmentationConventions(len(data.class_names))


def conventions_of(evaluation: Evaluation, data: ImageData, stage: Stage) -> list[dict[str, Any]]:
    """Every convention's scores of the split that was watched, medvision's own first.

    Args:
        evaluation: After ``count_conventions`` and ``scores``.
        data: What it measured.
        stage: Its split.

    Returns:
        Rows as ``SegmentationConventions.compute`` or ``classification_conventions`` gives them.
    """
    if isinstance(evaluation, SegmentationEvaluation):
        counted = evaluation.conventions
        return [] if counted is None else counted.compute()
    names = data.class_names
    seen = read_class_predictions(evaluation.folder / f"predictions_{stage}.csv", names)
    return classification_conventions(*seen, class_names=names, threshold=evaluation.threshold)
