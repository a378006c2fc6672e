"""What every data set shares: three tables of samples, and the loaders that serve them."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from medvision.data.checks import CheckResult
from medvision.data.datasets import EpochSampler, collate, start_worker
from medvision.data.download import fetch_for_training, is_absent
from medvision.data.facts import Facts
from medvision.data.group_salt import hash_groups
from medvision.data.known_twins import twins_of
from medvision.data.near_duplicates import Twins
from medvision.data.protocol import apply_protocol
from medvision.data.sample import Sample
from medvision.data.transforms import Transform
from medvision.types import STAGES, Batch, MedvisionError, Stage


class ImageData(LightningDataModule, ABC):
    """Images of a folder, or an embedded phantom set, in three splits.

    ``prepare`` finds, checks and splits everything before training starts.

    Attributes:
        tables: The samples of each split.
        notes: What the user should know.
        fingerprint: Of all the files.
        samples: All of them with their splits, after ``prepare``.
        given_groups: Group that csv or pattern gave each path, twins not joined to it.
        facts: What their files tell, a row for each; None for phantoms and where only headers
            were read.
        twins: Which of them show the same picture; None where ``facts`` is.
        epochs_behind: Epochs that a continued run has ended already.
        batches_behind: Training batches of the next epoch that it has learned from already: its
            first loader leaves them out.
        fixed_shapes: Whether the last batch of validation and test is filled up with rows of
            padding, for hardware that compiles every shape.

    Args:
        name: Name of the data set in the run folder.
        root: Folder of the data set; None draws phantoms.
        image_size: Height and width of every batch; pixels.
        in_channels: 1 (grey) or 3 (RGB).
        value_range: Values of deeper than 8-bit files that become black and white.
        protocol: ``official``, ``merged``, ``grouped`` or ``kfold``, see ``apply_protocol``.
        fold: Which fold is the test set; for ``kfold``.
        folds: Number of folds; for ``kfold``.
        splits: A splits.csv to keep; its paths are relative to ``root``.
        group_pattern: Regular expression with one group; samples that share it stay together.
        val_fraction: Share of validation where no split is given.
        test_fraction: Share of test where no split is given.
        on_error: ``fail`` on an unusable file, or ``skip`` it with a report.
        num_images: Number of phantoms.
        batch_size: Samples of a batch, in each process.
        num_workers: Loader processes.
        seed: Decides order and augmentation.
        split_seed: Decides phantoms and drawn splits.
        train_transforms: Arguments of each training albumentation, by name.
        eval_transforms: The same for validation and test; deterministic ones only.
        download: Public set that is fetched into ``root`` where nothing is there yet.
    """

    task: ClassVar[str]
    class_names: list[str]

    def __init__(
        self,
        *,
        name: str,
        root: str | None,
        image_size: int,
        in_channels: int,
        value_range: tuple[float, float] | None,
        protocol: Literal["official", "merged", "grouped", "kfold"],
        fold: int,
        folds: int,
        splits: str | None,
        group_pattern: str | None,
        val_fraction: float,
        test_fraction: float,
        on_error: Literal["fail", "skip"],
        num_images: int,
        batch_size: int,
        num_workers: int,
        seed: int,
        split_seed: int,
        train_transforms: Mapping[str, Mapping[str, Any]],
        eval_transforms: Mapping[str, Mapping[str, Any]],
        download: str | None = None,
    ) -> None:
        super().__init__()
        self.name, self.root = name, None if root is None else Path(root).expanduser()
        if root is None and splits is not None:
            raise MedvisionError(
                "a split is given but no data set", where="data.splits", hint="give data.root too"
            )
        self.image_size, self.in_channels = image_size, in_channels
        self.value_range = value_range
        self.protocol, self.fold, self.folds = protocol, fold, folds
        self.splits, self.group_pattern = splits, group_pattern
        self.val_fraction, self.test_fraction = val_fraction, test_fraction
        self.on_error, self.num_images = on_error, num_images
        self.batch_size, self.num_workers = batch_size, num_workers
        self.seed, self.split_seed = seed, split_seed
        self.download = download
        make = partial(Transform, size_px=image_size)
        train = make(transforms=train_transforms, key="data.train_transforms")
        test = make(transforms=eval_transforms, key="data.eval_transforms", deterministic=True)
        self.transforms = {"train": train, "val": test, "test": test}
        self.tables: dict[Stage, list[Sample]] = {}
        self.samples: list[Sample] = []
        self.given_groups: dict[str, str] = {}
        self.facts: Facts | None = None
        self.twins: Twins | None = None
        self.notes: list[str] = []
        self.fingerprint = ""
        self.fixed_shapes = False
        self.epochs_behind, self.batches_behind = 0, 0
        self._lines: list[str] = []

    @property
    def synthetic(self) -> bool:
        """Whether the images are phantoms."""
        return self.root is None

    def prepare(self) -> None:
        """Find, check and split the samples, downloaded first where the config says so.

        Raises:
            MedvisionError: If the folder, a file or a split cannot be used, or the download
                fails.
        """
        if self.download is not None and self.root is not None and is_absent(self.root):
            fetch_for_training(self.download, self.root, task=self.task)
        samples, strata = self._find()
        self.given_groups = {sample.path: sample.group for sample in samples}
        if self.facts is not None:
            self.twins = twins_of(self.facts)
        groups = range(len(samples)) if self.root is None else None  # no phantom has a twin
        drawn = apply_protocol(
            samples,
            protocol=self.protocol,
            fold=self.fold,
            folds=self.folds,
            seed=self.split_seed,
            val_fraction=self.val_fraction,
            test_fraction=self.test_fraction,
            twins=groups if self.twins is None else self.twins.groups,
            strata=strata,
            every_stratum=self.task == "classification",
            keep=self.splits is not None,
        )
        self.notes += drawn.notes
        self.samples = drawn.samples
        for stage in STAGES:
            self.tables[stage] = [sample for sample in drawn.samples if sample.split == stage]

    def restore(self, samples: Sequence[Sample]) -> None:
        """Take over the split of an earlier run, instead of ``prepare``.

        No file is looked at before it is read.

        Args:
            samples: As the run's splits.csv lists them.
        """
        self._open()
        for stage in STAGES:
            self.tables[stage] = [sample for sample in samples if sample.split == stage]

    def read_again(self) -> None:
        """Read what the files of a restored split tell, and which of them are twins.

        A file that cannot be read is left out: it is no error before it is needed.
        """
        if self.root is None:
            return
        samples = [sample for table in self.tables.values() for sample in table]
        checked = self._check(self.root, samples, on_error="skip")
        self.samples, self.facts, self._lines = checked.samples, checked.facts, checked.lines
        self.given_groups = {sample.path: sample.group for sample in checked.samples}
        self.twins = None if self.facts is None else twins_of(self.facts)

    @abstractmethod
    def gather(self) -> list[Sample]:
        """Find and check every sample of ``root``, instead of ``prepare``, and draw no split.

        Returns:
            The usable samples, each with the split that the set gives it, or a blank one.

        Raises:
            MedvisionError: If there is no ``root``, or the folder or a file cannot be used.
        """

    def setup(self, stage: str) -> None:
        """Nothing: ``prepare`` runs before the trainer exists."""

    def train_dataloader(self) -> DataLoader[Batch]:
        return self._loader("train")

    def val_dataloader(self) -> DataLoader[Batch]:
        return self._loader("val")

    def test_dataloader(self) -> DataLoader[Batch]:
        return self._loader("test")

    def split_fingerprint(self, stage: Stage) -> str:
        """SHA-256 that tells the images of a split from all others, by path and content.

        Known after ``prepare`` and ``gather``. Files read by header alone count by their size.
        """
        paths = {sample.path for sample in self.tables[stage]}
        chosen = [line for line in self._lines if line.partition("\0")[0] in paths]
        if len(chosen) != len(paths):  # phantoms: drawn from what the fingerprint names
            chosen = [f"{self.fingerprint}\0{path}" for path in paths]
        return hashlib.sha256("\n".join(sorted(chosen)).encode()).hexdigest()

    def given_root(self) -> Path:
        """The root, which must be given.

        Raises:
            MedvisionError: If it is not.
        """
        if self.root is None:
            raise MedvisionError("no data set is given", where="data.root", hint="give its folder")
        return self.root

    @abstractmethod
    def dataset(self, stage: Stage) -> Dataset[dict[str, Any]]:
        """The samples of one split, transformed as that split is."""

    def class_counts(self) -> dict[Stage, dict[str, int]] | None:
        """Images of each class in each split, where an image has one class."""
        return None

    def table_of_splits(self) -> list[Sample]:
        """Every sample with its split and, as a salted hash, its group."""
        samples, warning = hash_groups(sample for t in self.tables.values() for sample in t)
        self.notes += [] if warning is None else [warning]
        return samples

    def groups_of(self, rows: Sequence[Mapping[str, Any]]) -> list[str] | None:
        """Group of each row of a predictions table, or None where no groups are known."""
        groups = {sample.path: sample.group for t in self.tables.values() for sample in t}
        found = [groups[row["path"]] or row["path"] for row in rows]
        return found if len(set(found)) < len(found) else None

    @abstractmethod
    def _open(self) -> None:
        """Set ``source``, from which samples are read."""

    @abstractmethod
    def _find(self) -> tuple[list[Sample], list[str] | None]:
        """Every usable sample, and the stratum of each; sets ``source`` and what files tell."""

    @abstractmethod
    def _check(
        self, root: Path, samples: Sequence[Sample], *, on_error: Literal["fail", "skip"]
    ) -> CheckResult:
        """Read the files of these samples."""

    def _checked(self, root: Path, samples: Sequence[Sample], notes: Sequence[str]) -> list[Sample]:
        """Check samples and keep what was found; return the usable ones."""
        checked = self._check(root, samples, on_error=self.on_error)
        self._open()
        self.notes += [*notes, *checked.notes]
        self.fingerprint, self._lines = checked.fingerprint, checked.lines
        self.facts = checked.facts
        return checked.samples

    def _strata(self) -> NDArray[np.integer] | None:
        """Class of each training row, where the sampler is to draw evenly from them."""
        return None

    def _loader(self, stage: Stage) -> DataLoader[Batch]:
        trainer = self.trainer
        sampler = EpochSampler(
            num_samples=len(self.tables[stage]),
            seed=self.seed,
            shuffle=stage == "train",
            rank=0 if trainer is None else trainer.global_rank,
            num_processes=1 if trainer is None else trainer.world_size,
            strata=self._strata() if stage == "train" else None,
            pad_to=self.batch_size if self.fixed_shapes else 1,
        )
        if stage == "train":
            sampler.skip(self.batches_behind * self.batch_size)
            self.batches_behind = 0
        # Workers that live on are given a seed once, from the stream that dropout draws from: those
        # of validation had it in the first epoch.
        had_seed = stage == "val" and self.epochs_behind > 0 and self.num_workers > 0
        # A short last training batch would weigh its samples more and upset batch norm.
        return DataLoader[Any](
            self.dataset(stage),
            batch_size=self.batch_size,
            sampler=sampler,
            num_workers=self.num_workers,
            collate_fn=collate,
            drop_last=stage == "train" and len(sampler) >= self.batch_size,
            worker_init_fn=start_worker,
            persistent_workers=self.num_workers > 0,
            generator=torch.Generator() if had_seed else None,
        )
