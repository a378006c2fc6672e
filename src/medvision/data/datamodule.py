"""What every data set shares: three tables of samples, and the loaders that serve them."""

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pytorch_lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from medvision.data.catalog import find
from medvision.data.datasets import EpochSampler, collate, start_worker
from medvision.data.download import download, is_absent
from medvision.data.group_salt import hash_groups
from medvision.data.sample import Sample
from medvision.data.split import SplitResult
from medvision.data.transforms import Transform
from medvision.types import STAGES, Batch, MedvisionError, Stage


class ImageData(LightningDataModule, ABC):
    """Images of a folder, or an embedded phantom set, in three splits.

    ``prepare`` finds, checks and splits everything before training starts; after it
    ``tables`` holds the samples of each split and ``notes`` what the user should know.

    Args:
        name: Name of the data set in the run folder.
        root: Folder of the data set; None draws phantoms.
        image_size: Height and width of every batch; pixels.
        in_channels: 1 (grey) or 3 (RGB).
        value_range: Values of deeper than 8-bit files that become black and white.
        splits: A splits.csv to keep; its paths are relative to ``root``.
        group_pattern: Regular expression with one group; samples that share it stay together.
        val_fraction: Share of validation where no split is given.
        test_fraction: Share of test where no split is given.
        on_error: ``fail`` on an unusable file, or ``skip`` it with a report.
        num_images: Number of phantoms.
        batch_size: Samples of a batch.
        num_workers: Loader processes.
        seed: Decides order and augmentation.
        split_seed: Decides phantoms and drawn splits.
        train_transforms: Arguments of each training albumentation, by name.
        eval_transforms: The same for validation and test; deterministic ones only.
        download: Public set that is fetched into ``root`` where nothing is there yet.
    """

    task: ClassVar[str]
    protocol: str | None = None
    class_names: list[str]

    def __init__(
        self,
        *,
        name: str,
        root: str | None,
        image_size: int,
        in_channels: int,
        value_range: tuple[float, float] | None,
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
        self.splits, self.group_pattern = splits, group_pattern
        self.val_fraction, self.test_fraction = val_fraction, test_fraction
        self.on_error, self.num_images = on_error, num_images
        self.batch_size, self.num_workers = batch_size, num_workers
        self.seed, self.split_seed = seed, split_seed
        self.download = download
        key = "data.{}_transforms"
        train = Transform(size_px=image_size, transforms=train_transforms, key=key.format("train"))
        evaluation = Transform(
            size_px=image_size,
            transforms=eval_transforms,
            key=key.format("eval"),
            deterministic=True,
        )
        self.transforms = {"train": train, "val": evaluation, "test": evaluation}
        self.tables: dict[Stage, list[Sample]] = {}
        self.notes: list[str] = []
        self.fingerprint = ""

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
        self._fetch()
        drawn = self._split()
        self.notes += drawn.notes
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
        if warning is not None:
            self.notes.append(warning)
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
    def _split(self) -> SplitResult:
        """Every sample with its split; sets ``source`` and ``fingerprint`` on the way."""

    def _fetch(self) -> None:
        """Download the public set of the config where its folder is not there yet.

        Raises:
            MedvisionError: If it is for another task, fails, or several processes would do it.
        """
        if self.download is None or self.root is None or not is_absent(self.root):
            return
        dataset = find(self.download, where="data.download")
        if dataset.task != self.task:
            raise MedvisionError(
                f"{dataset.title} is for {dataset.task}, not for {self.task}",
                where="data.download",
                hint=f"choose an experiment of {dataset.task}",
            )
        if int(os.environ.get("WORLD_SIZE") or os.environ.get("SLURM_NTASKS") or 1) > 1:
            raise MedvisionError(
                "the data set is not there, and several processes cannot download it together",
                where=str(self.root),
                hint=f"first run medvision data download {dataset.name} --root {self.root}",
            )
        download(dataset, self.root, report=lambda line: print(line, flush=True))

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
        )
        # A short last training batch would weigh its samples more and upset batch norm.
        drop_last = stage == "train" and len(sampler) >= self.batch_size
        return DataLoader[Any](
            self.dataset(stage),
            batch_size=self.batch_size,
            sampler=sampler,
            num_workers=self.num_workers,
            collate_fn=collate,
            drop_last=drop_last,
            worker_init_fn=start_worker,
            persistent_workers=self.num_workers > 0,
        )
