"""What every data set shares: three tables of samples, and the loaders that serve them."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pytorch_lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from medvision.data.download.download import fetch_for_training, is_absent
from medvision.data.duplicates.search import NearDuplicates, near_duplicates_of
from medvision.data.loading.loaders import limit_workers, load, pixels_of
from medvision.data.loading.transforms import Transform
from medvision.data.pixel_cache.cache import PixelCache
from medvision.data.samples import Sample, SampleTable
from medvision.data.shards.dataset import ShardedSet, absent_files, open_shards
from medvision.data.shards.location import place_of
from medvision.data.splits.groups import GivenGroups, hash_groups
from medvision.data.splits.protocols import apply_protocol
from medvision.data.validation.properties import ImageProperties
from medvision.data.validation.validate import CheckResult, OnError
from medvision.errors import MedvisionError
from medvision.types import STAGES, Batch, Stage


class ImageData(LightningDataModule, ABC):
    """Images of a folder, of shards, or an embedded phantom set, in three splits.

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
        completed_epochs: Epochs that a continued run has ended already.
        completed_batches: Training batches of the next epoch that it has learned from already: that
            epoch leaves them out.
        pixels: Decoded images that are kept on the disk; None where they are not.
        fixed_shapes: Whether the last batch of validation and test is filled up with rows of
            padding, for hardware that compiles every shape.

    Args:
        name: Name of the data set in the run folder.
        root: Folder of the data set or of its shards, or their address; None draws phantoms.
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
        shuffle_shards: Shards of an address that are mixed, see `ShardSampler`; None: all.
        cache_gb: Of the local copies of all shards that come from addresses.
        decoded_gb: Of the decoded images that are kept for all sets; 0 keeps none.
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
        on_error: OnError,
        num_images: int,
        batch_size: int,
        num_workers: int,
        seed: int,
        split_seed: int,
        train_transforms: Mapping[str, Mapping[str, Any]],
        eval_transforms: Mapping[str, Mapping[str, Any]],
        download: str | None = None,
        shuffle_shards: int | None = 8,
        cache_gb: float = 10.0,
        decoded_gb: float = 5.0,
    ) -> None:
        super().__init__()
        self.name, self.root = name, None if root is None else place_of(root)
        if root is None and splits is not None:
            raise MedvisionError(
                "a split is given but no data set", where="data.splits", hint="give data.root too"
            )
        self.image_size, self.in_channels, self.value_range = image_size, in_channels, value_range
        self.protocol, self.fold, self.folds = protocol, fold, folds
        self.splits, self.group_pattern = splits, group_pattern
        self.val_fraction, self.test_fraction = val_fraction, test_fraction
        self.on_error, self.num_images, self.batch_size = on_error, num_images, batch_size
        self.num_workers, self.seed, self.split_seed = num_workers, seed, split_seed
        self.download, self.shuffle_shards = download, shuffle_shards
        self.cache_gb, self.decoded_gb = cache_gb, decoded_gb
        make = partial(Transform, size_px=image_size)
        train = make(transforms=train_transforms, key="data.train_transforms")
        test = make(transforms=eval_transforms, key="data.eval_transforms", deterministic=True)
        self.transforms = {"train": train, "val": test, "test": test}
        self.tables: dict[Stage, SampleTable] = {}
        self.samples = SampleTable.of([])
        self.given_groups: Mapping[str, str] = {}
        self.facts: ImageProperties | None = None
        self.twins: NearDuplicates | None = None
        self.notes: list[str] = []
        self.fingerprint, self.fixed_shapes = "", False
        self.completed_epochs, self.completed_batches = 0, 0
        self._lines: Sequence[str] = []
        self.pixels: PixelCache | None = None

    @property
    def synthetic(self) -> bool:
        """Whether the images are phantoms."""
        return self.root is None

    @cached_property
    def shards(self) -> ShardedSet | None:
        """The shards that ``root`` holds; None where it holds plain files.

        Raises:
            MedvisionError: If they cannot be read, or are for another task.
        """
        cache_gb, window = self.cache_gb, self.shuffle_shards
        return open_shards(self.root, task=self.task, cache_gb=cache_gb, window=window)

    @property
    @abstractmethod
    def reading(self) -> dict[str, Any]:
        """How files are read."""

    def prepare(self) -> None:
        """Find, check and split the samples, downloaded first where the config says so.

        Raises:
            MedvisionError: If the folder, a file or a split cannot be used, or a download fails.
        """
        if self.download is not None and isinstance(self.root, Path) and is_absent(self.root):
            fetch_for_training(self.download, self.root, task=self.task)
        samples, stratify_by = self._find()
        self.given_groups = GivenGroups.of(samples)
        if self.facts is not None:
            self.twins = near_duplicates_of(self.facts)
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
            stratify_by=stratify_by,
            every_stratum=self.task == "classification",
            keep=self.splits is not None,
        )
        self.samples = drawn.samples
        self._deal(drawn.samples)
        self.notes += [*drawn.notes, *([] if self.pixels is None else self.pixels.notes())]
        self.notes += limit_workers(self)

    def restore(self, samples: Sequence[Sample]) -> None:
        """Take over what a splits.csv lists, instead of ``prepare``; files are read when needed."""
        self._open()
        self._deal(samples)

    def read_again(self) -> None:
        """Read what the files of a restored split tell, without those that cannot be read."""
        if self.root is None:
            return
        samples = SampleTable.joined(self.tables.values())
        checked = self._check(samples, on_error="skip")
        self.samples, self.facts, self._lines = checked.samples, checked.facts, checked.lines
        self.given_groups = GivenGroups.of(checked.samples)
        self.twins = None if self.facts is None else near_duplicates_of(self.facts)

    @abstractmethod
    def gather(self) -> SampleTable:
        """Find and check every sample of ``root``, instead of ``prepare``, and draw no split.

        Returns:
            The usable samples, each with the split that the set gives it, or a blank one.

        Raises:
            MedvisionError: If there is no ``root``, or the folder or a file cannot be used.
        """

    def train_dataloader(self) -> DataLoader[Batch]:
        return load(self, "train", balance_by=self._strata())

    def val_dataloader(self) -> DataLoader[Batch]:
        return load(self, "val")

    def test_dataloader(self) -> DataLoader[Batch]:
        return load(self, "test")

    def split_fingerprint(self, stage: Stage) -> str:
        """SHA-256 that tells the images of a split from all others, by path and content.

        Known after ``prepare`` and ``gather``. Files read by header alone count by their size.
        """
        paths = {sample.path for sample in self.tables[stage]}
        chosen = [line for line in self._lines if line.partition("\0")[0] in paths]
        if len(chosen) != len(paths):  # phantoms: drawn from what the fingerprint names
            chosen = [f"{self.fingerprint}\0{path}" for path in paths]
        return hashlib.sha256("\n".join(sorted(chosen)).encode()).hexdigest()

    def missing_files(self, stage: Stage) -> list[str]:
        """Names of the images and masks of a restored split that are gone."""
        if self.shards is not None:
            return self.shards.missing(self.tables[stage])
        return absent_files(self.root, self.tables[stage], masks=self.task == "segmentation")

    def given_root(self) -> Path | str:
        """The root; a `MedvisionError` where none is given."""
        if self.root is None:
            raise MedvisionError("no data set is given", where="data.root", hint="give its folder")
        return self.root

    @abstractmethod
    def dataset(self, stage: Stage) -> Dataset[dict[str, Any]]:
        """The samples of one split, transformed as that split is."""

    def class_counts(self) -> dict[Stage, dict[str, int]] | None:
        """Images of each class in each split, where an image has one class."""
        return None

    def table_of_splits(self) -> SampleTable:
        """Every sample with its split and, as a salted hash, its group."""
        samples, warning = hash_groups(SampleTable.joined(self.tables.values()))
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
    def _find(self) -> tuple[SampleTable, Sequence[str] | None]:
        """Every usable sample, and the stratum of each; sets ``source`` and what files tell."""

    @abstractmethod
    def _check(self, samples: Sequence[Sample], *, on_error: OnError) -> CheckResult:
        """Read the files of these samples, or recall what they told when shards were made."""

    def _checked(self, samples: Sequence[Sample], notes: Sequence[str]) -> SampleTable:
        """Check samples and keep what was found; return the usable ones."""
        checked = self._check(samples, on_error=self.on_error)
        self._open()
        self.notes += [*notes, *checked.notes]
        self.fingerprint, self._lines = checked.fingerprint, checked.lines
        self.facts = checked.facts
        return checked.samples

    def _deal(self, samples: Sequence[Sample]) -> None:
        self.tables = {stage: SampleTable.of(samples).of_split(stage) for stage in STAGES}
        self.pixels = pixels_of(self)

    def _strata(self) -> NDArray[np.integer] | None:
        """Class of each training row, where the sampler is to draw evenly from them."""
        return None
