"""Definition of a task: the classes and facts in which tasks differ, in one place.

Code outside of a task's own classes uses its definition and never branches on its name. A further
task is a package that calls `define_task` when it is imported, and a config that names its classes.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from medvision.errors import MedvisionError, did_you_mean


@dataclass(frozen=True, kw_only=True)
class TaskDefinition:
    """All facts about one task.

    Classes and functions are named as ``package.module:name`` and imported on first use.

    Attributes:
        kind: Name of the task in ``summary.json``, ``ImageData.task`` and ``Task.kind``.
        evaluation: Scores, files and plots of a split, an ``Evaluation``.
        scores: Rows of its scores, a sequence of ``medvision.scores.Score``.
        report: Content specific to this task's ``report.html``, a ``TaskReport``.
        pictures: Pictures of a validation epoch for trackers, ``ValidationPictures``; None if there
            are none.
        result: Prediction for one image, a ``Result``; None if ``medvision predict`` does not
            support the task.
        per_pixel: True if the network predicts every pixel instead of the whole image.
        flips: Axes of (H, W) along which an image is mirrored for test-time augmentation; the
            first entry mirrors none.
        losses: Choices of the config group ``loss`` that fit.
        folder_config: File of ``conf/data`` with the defaults of data keys that older runs lack;
            None if there is no such file.
        min_classes: Fewest names in ``class_names`` of a model. With 2 or more, the classes exclude
            each other and their probability is the sigmoid or softmax of the logits. With fewer,
            the output has another meaning, which exports do not describe.
        in_percent: If True, tables of several runs show scores between 0 and 1 in per cent.
    """

    kind: str
    evaluation: str
    scores: str
    report: str = "medvision.reports.task_report:TaskReport"
    pictures: str | None = None
    result: str | None = None
    per_pixel: bool = False
    flips: tuple[tuple[int, ...], ...] = ((),)
    losses: tuple[str, ...] = ()
    folder_config: str | None = None
    min_classes: int = 0
    in_percent: bool = False

    def load(self, part: str) -> Any:
        """Import the object that a field names.

        Args:
            part: Name of the field, such as ``evaluation``.

        Raises:
            MedvisionError: If the task has no such part, or it cannot be imported.
        """
        reference = getattr(self, part)
        if reference is None:
            raise MedvisionError(
                f"the task {self.kind} defines no {part}",
                where=f"TaskDefinition.{part}",
                hint="add it to the definition",
            )
        module, _, name = reference.partition(":")
        try:
            return getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise MedvisionError(
                f"cannot import {reference}: {error}",
                where=f"{part} of the task {self.kind}",
                hint="name it as package.module:name",
            ) from error


_DEFINED = {
    definition.kind: definition
    for definition in (
        TaskDefinition(
            kind="classification",
            evaluation="medvision.evaluation:ClassificationEvaluation",
            scores="medvision.scores:CLASSIFICATION",
            report="medvision.reports.task_report:ClassificationReport",
            pictures="medvision.callbacks:ClassificationPictures",
            result="medvision.inference.results:ClassificationResult",
            # left to right only: organs are rarely upside down
            flips=((), (1,)),
            losses=("bce", "bce_smooth", "focal"),
            folder_config="folder_classification",
            min_classes=2,
            in_percent=True,
        ),
        TaskDefinition(
            kind="segmentation",
            evaluation="medvision.evaluation:SegmentationEvaluation",
            scores="medvision.scores:SEGMENTATION",
            report="medvision.reports.task_report:SegmentationReport",
            pictures="medvision.callbacks:SegmentationPictures",
            result="medvision.inference.results:SegmentationResult",
            per_pixel=True,
            flips=((), (0,), (1,), (0, 1)),
            losses=(
                *("bce", "bce_dice", "bce_smooth", "dice", "focal", "jaccard", "monai"),
                "tversky",
            ),
            folder_config="folder_segmentation",
            min_classes=2,
        ),
    )
}


def define_task(definition: TaskDefinition) -> None:
    """Register a task, or replace a definition with the same evaluation.

    Raises:
        MedvisionError: If a task of this name is already defined.
    """
    known = _DEFINED.get(definition.kind)
    if known is not None and known.evaluation != definition.evaluation:
        raise MedvisionError(
            f"the task {definition.kind} is already defined by {known.evaluation}",
            where=definition.evaluation,
            hint="choose another name",
        )
    _DEFINED[definition.kind] = definition


def task_of(kind: str) -> TaskDefinition:
    """Return the definition of a task by its name.

    Raises:
        MedvisionError: If no such task is defined.
    """
    if kind not in _DEFINED:
        raise MedvisionError(
            f"unknown task {kind[:40]!r}",
            where="task",
            hint=did_you_mean(
                kind, _DEFINED, otherwise="name the package that defines it with --trust PACKAGE"
            ),
        )
    return _DEFINED[kind]


def task_names() -> list[str]:
    """Names of all defined tasks."""
    return list(_DEFINED)
