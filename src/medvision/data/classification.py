"""Data module for classification."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medvision.console import counted
from medvision.data.datamodule import ImageData
from medvision.data.discovery.index import Index, index_classification
from medvision.data.samples import Sample, SampleTable
from medvision.data.sources import ClassPhantoms, PhantomSource
from medvision.data.splits.groups import captured
from medvision.data.validation.validate import CheckResult
from medvision.errors import MedvisionError, did_you_mean
from medvision.types import STAGES, Stage


class ClassificationData(ImageData):
    """Class folders or a synthetic phantom set in three splits.

    Batches hold uint8 images (N, C, size, size) and uint8 class indices (N,).

    Args:
        class_names: Order of the classes; None sorts the folder names. In binary tasks the second
            class is positive.
        num_classes: Number of classes; None derives it from the data.
        phantom: ``chest`` or ``brain``: the phantom set to use without ``root``.
        usual_group_pattern: Default ``group_pattern`` for the file names of the published data set;
            ignored if ``group_pattern`` is given or no file matches.
        sampler: ``shuffle`` draws every training image once per epoch; ``balanced`` draws the same
            number of images, equally from every class.
        class_pattern: As in `FolderKeys`; None for configs without this key.
        **common: As for `ImageData`.
    """

    task = "classification"

    def __init__(
        self,
        *,
        class_names: Sequence[str] | None,
        num_classes: int | None,
        phantom: Literal["chest", "brain"],
        usual_group_pattern: str | None,
        sampler: Literal["shuffle", "balanced"],
        class_pattern: str | None = None,
        **common: Any,
    ) -> None:
        super().__init__(layout={"class_pattern": class_pattern}, **common)
        self.class_names = [] if class_names is None else [str(name) for name in class_names]
        self.keys = replace(self.keys, class_names=tuple(self.class_names))
        self.num_classes, self.phantom = num_classes, phantom
        self.usual_group_pattern, self.sampler = usual_group_pattern, sampler

    def prepare(self) -> None:
        super().prepare()
        found = len(self.class_names)
        if self.num_classes not in (None, found):
            raise MedvisionError(
                f"expected {self.num_classes} classes, found {found}:"
                f" {', '.join(self.class_names)}",
                where="data.num_classes",
                hint="leave it out, or fix the folders",
            )
        self.num_classes = found
        self._refuse_rare_classes()
        train = self.class_counts()["train"]
        absent = [name for name, count in train.items() if not count]
        if absent:
            together = self._of_few_groups(absent)
            raise MedvisionError(
                f"no training image of {', '.join(absent)}",
                where="data.root",
                hint=f"{together}: a group stays in one split; add images of other groups, or leave"
                " the class out with data.exclude"
                if together
                else "add images, or lower data.val_fraction and data.test_fraction",
            )

    def _of_few_groups(self, names: Sequence[str]) -> str:
        """Describe the classes whose images lie in fewer groups than there are splits."""
        groups: dict[str, list[str]] = {name: [] for name in names}
        for sample in (sample for table in self.tables.values() for sample in table):
            if sample.target in groups:
                groups[sample.target].append(sample.group_key)
        return ", ".join(
            f"the {counted(len(of), 'image')} of {name} lie in {counted(len(set(of)), 'group')}"
            for name, of in groups.items()
            if len(set(of)) < min(len(of), len(self.tables))
        )

    def _refuse_rare_classes(self) -> None:
        """Raise if a class has too few images for every split, where all splits are drawn."""
        counts = {stage: of for stage, of in self.class_counts().items() if any(of.values())}
        if not counts.keys() <= set(self.drawn):
            return
        totals = {name: sum(of[name] for of in counts.values()) for name in self.class_names}
        rare = [
            f"{name} has {counted(total, 'image')}"
            for name, total in totals.items()
            if 0 < total < len(counts)
        ]
        if rare:
            raise MedvisionError(
                ", ".join(rare),
                where=str(self.root),
                hint=f"a drawn split needs one image of each class in {', '.join(counts)}: add"
                " images, or leave the class out with data.exclude",
            )

    def gather(self) -> SampleTable:
        root, known = self.given_root(), list(self.class_names)
        index = self.index(class_names=None)
        unknown = [name for name in index.class_names if name not in known]
        if known and unknown:
            raise MedvisionError(
                f"unknown class {unknown[0]}, expected one of {', '.join(known)}",
                where=str(root),
                hint=did_you_mean(
                    unknown[0],
                    known,
                    otherwise="rename this class, or leave it out with data.exclude",
                ),
            )
        absent = [name for name in known if name not in index.class_names]
        if absent:
            self.notes.append(f"{root} has no image of {', '.join(absent)}")
        self.samples = self._check(index).samples
        self.class_names = known or index.class_names
        return self.samples

    def class_counts(self) -> dict[Stage, dict[str, int]]:
        """Count the images of each class in each split, in index order."""
        counts = {s: Counter(self.tables[s].targets) for s in STAGES}
        return {s: {name: counts[s][name] for name in self.class_names} for s in STAGES}

    def read_file(self, path: str) -> NDArray[np.uint8]:
        """Read an image (H, W, C) at its original size."""
        return self.source.read(Sample(path=path, target=""))[0]

    def targets_of(self, samples: SampleTable) -> NDArray[np.uint8]:
        names, number = samples.targets.numbered()
        indices = {name: index for index, name in enumerate(self.class_names)}
        return np.array([indices[name] for name in names], np.uint8)[number]

    def listing(self) -> Callable[..., Index]:
        return partial(index_classification, keys=self.keys)

    def balance_by(self) -> NDArray[np.uint8] | None:
        return self.targets_of(self.tables["train"]) if self.sampler == "balanced" else None

    def phantoms(self, **common: Any) -> PhantomSource:
        source = ClassPhantoms(
            kind=self.phantom,
            class_names=self.class_names,
            val_fraction=self.val_fraction,
            test_fraction=self.test_fraction,
            **common,
        )
        self.class_names = source.class_names
        return source

    def stratify_by(self, checked: CheckResult) -> Sequence[str]:
        return checked.samples.targets

    def index(self, *, class_names: Sequence[str] | None) -> Index:
        index = self.source.index(
            splits=self.splits, group_pattern=self.group_pattern, class_names=class_names
        )
        usual = self.usual_group_pattern
        known = any(index.samples.groups.numbered()[0])
        if self.synthetic or usual is None or self.group_pattern is not None or known:
            return index
        if any(captured(usual, index.samples.paths)):
            return self.source.index(
                splits=self.splits, group_pattern=usual, class_names=class_names
            )
        note = (
            f"no file name follows the published {self.name} set, so the patients are unknown;"
            " set data.group_pattern"
        )
        return replace(index, notes=[*index.notes, note])
