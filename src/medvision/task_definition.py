"""Definition of a task: the classes and facts in which tasks differ, in one place.

Everything outside of a task's own classes asks its definition, and branches on no name. A further
task is a package that calls `define_task` when it is imported, and a config that names its classes.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from medvision.errors import MedvisionError, did_you_mean


@dataclass(frozen=True, kw_only=True)
class TaskDefinition:
    """All that is known of one task.

    Classes and functions are named as ``package.module:name`` and imported on first use.

    Attributes:
        kind: Name of the task, as ``summary.json`` and ``data.task`` hold it.
        data: Data module, an ``ImageData``.
        module: LightningModule, a ``medvision.tasks.Task``.
        evaluation: Scores, files and plots of a split, an ``Evaluation``.
        headline: Score that stands for a run in the test ledger, without its split.
        compared: Scores that a comparison of runs judges by default, without their split.
        result: Prediction for one image, a ``Result``; None where ``medvision predict`` offers
            none.
        per_pixel: Whether the network answers for every pixel instead of for the whole image.
        flips: Axes of (H, W) along which an image is mirrored for test-time augmentation, each
            with the axes left as they are first.
        losses: Choices of the config group ``loss`` that fit.
        folder_config: File of ``conf/data`` whose keys a run has that was made before they were
            there; None where there is no such file.
        report: Sections that only this task's ``report.html`` has; None for none.
        min_classes: Fewest names in ``class_names`` of a model.
    """

    kind: str
    data: str
    module: str
    evaluation: str
    headline: str = "loss"
    compared: tuple[str, ...] = ()
    result: str | None = None
    per_pixel: bool = False
    flips: tuple[tuple[int, ...], ...] = ((),)
    losses: tuple[str, ...] = ()
    folder_config: str | None = None
    report: str | None = None
    min_classes: int = 1

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
            kind="segmentation",
            data="medvision.data:SegmentationData",
            module="medvision.tasks:SegmentationTask",
            evaluation="medvision.evaluation:SegmentationEvaluation",
            headline="dice",
            compared=("dice", "iou", "auroc"),
            result="medvision.inference.results:SegmentationResult",
            per_pixel=True,
            flips=((), (0,), (1,), (0, 1)),
            losses=("bce", "bce_dice", "dice", "focal", "jaccard", "tversky"),
            folder_config="folder_segmentation",
            min_classes=2,
        ),
        TaskDefinition(
            kind="classification",
            data="medvision.data:ClassificationData",
            module="medvision.tasks:ClassificationTask",
            evaluation="medvision.evaluation:ClassificationEvaluation",
            headline="accuracy",
            compared=("accuracy", "balanced_accuracy", "auroc"),
            result="medvision.inference.results:ClassificationResult",
            # left to right only: few organs are ever seen upside down
            flips=((), (1,)),
            losses=("bce", "focal"),
            folder_config="folder_classification",
            min_classes=2,
        ),
    )
}


def define_task(definition: TaskDefinition) -> None:
    """Make a task known, or replace a definition of the same package.

    Raises:
        MedvisionError: If another package has defined a task of this name.
    """
    known = _DEFINED.get(definition.kind)
    if known is not None and known.module != definition.module:
        raise MedvisionError(
            f"the task {definition.kind} is already defined, by {known.module}",
            where=definition.module,
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
                kind, _DEFINED, otherwise="import the package that defines it, or use a known one"
            ),
        )
    return _DEFINED[kind]


def task_names() -> list[str]:
    """Names of all tasks that are defined."""
    return list(_DEFINED)
