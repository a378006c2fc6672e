"""Base of all data sets: three tables of samples, and the loaders that serve them."""

import hashlib
import multiprocessing
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_lightning import LightningDataModule
from torch.utils.data import DataLoader

from medvision.data.discovery.index import Index, index_listed
from medvision.data.download.download import fetch_for_training, is_absent
from medvision.data.duplicates.search import NearDuplicates, near_duplicates_of
from medvision.data.loading.datasets import SampleDataset, collate, start_worker, workers_with_room
from medvision.data.loading.sampler import EpochSampler, ShardSampler
from medvision.data.loading.transforms import Transform
from medvision.data.pixel_cache import PixelCache
from medvision.data.reading import Reading
from medvision.data.samples import Sample, SampleTable
from medvision.data.shards.location import place_of
from medvision.data.sources import GIGABYTE, PhantomSource, Source, open_source
from medvision.data.splits.assign import apply_protocol
from medvision.data.splits.groups import given_groups, hash_groups
from medvision.data.validation.properties import ImageProperties
from medvision.data.validation.validate import CheckResult, OnError
from medvision.errors import MedvisionError
from medvision.files import own_folder
from medvision.types import STAGES, Batch, Stage

PROCESSES = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
"""How loader processes start. A launcher may have set another way, joblib's fails in DataLoader."""


class ImageData(LightningDataModule):
    """Images of a folder, of shards, or an embedded phantom set, in three splits.

    ``prepare`` finds, checks and splits everything before training starts. A further task derives
    from this class: it sets ``task`` and defines ``targets_of``; where the data set is not listed
    in a splits.csv it defines ``listing``, and where there are phantoms ``phantoms``.

    Attributes:
        tables: The samples of each split.
        notes: What the user should know.
        fingerprint: Of all the files.
        samples: All of them with their splits, after ``prepare``.
        given_groups: Group that csv or pattern gave a path, near-duplicates not joined to it.
        properties: Of their files, a row for each; None for phantoms and where only headers were
            read.
        near_duplicates: Which of them show the same picture; None where ``properties`` is.
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
    """Kind of the task that learns from it."""

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
        self.image_size, self.in_channels = image_size, in_channels
        self.protocol, self.fold, self.folds = protocol, fold, folds
        self.splits = None if splits is None else Path(splits)
        self.group_pattern = group_pattern
        self.val_fraction, self.test_fraction = val_fraction, test_fraction
        self.on_error, self.num_images, self.batch_size = on_error, num_images, batch_size
        self.num_workers, self.seed, self.split_seed = num_workers, seed, split_seed
        self.download, self.shuffle_shards = download, shuffle_shards
        self.cache_gb, self.decoded_gb = cache_gb, decoded_gb
        make = partial(Transform, size_px=image_size)
        train = make(transforms=train_transforms, key="data.train_transforms")
        test = make(transforms=eval_transforms, key="data.eval_transforms", deterministic=True)
        self.transforms = {"train": train, "val": test, "test": test}
        self.reading = Reading(value_range=value_range)
        self.class_names: list[str] = []
        self.tables: dict[Stage, SampleTable] = {}
        self.samples = SampleTable.of([])
        self.given_groups: Mapping[str, str] = {}
        self.properties: ImageProperties | None = None
        self.near_duplicates: NearDuplicates | None = None
        self.notes: list[str] = []
        self.fingerprint, self.fixed_shapes = "", False
        self.completed_epochs, self.completed_batches = 0, 0
        self._checked = CheckResult(samples=self.samples)
        self.pixels: PixelCache | None = None

    @property
    def synthetic(self) -> bool:
        """Whether the images are phantoms."""
        return self.root is None

    @property
    def has_masks(self) -> bool:
        """Whether each image has a mask."""
        return self.reading.has_masks

    @cached_property
    def source(self) -> Source:
        """Where the samples come from: phantoms, a folder or shards.

        Raises:
            MedvisionError: If shards cannot be read or are for another task, or the phantoms do
                not fit the config.
        """
        if self.root is None:
            return self.phantoms(
                channels=self.in_channels,
                size_px=self.image_size,
                seed=self.split_seed,
                num_images=self.num_images,
            )
        return open_source(
            self.root,
            task=self.task,
            channels=self.in_channels,
            reading=self.reading,
            listing=self.listing(),
            cache_gb=self.cache_gb,
            window=self.shuffle_shards,
        )

    def prepare(self) -> None:
        """Find, check and split the samples, downloaded first where the config says so.

        Raises:
            MedvisionError: If the folder, a file or a split cannot be used, or a download fails.
        """
        if self.download is not None and isinstance(self.root, Path) and is_absent(self.root):
            fetch_for_training(self.download, self.root, task=self.task)
        index = self.index(class_names=self.class_names or None)
        checked = self._check(index)
        self.class_names = index.class_names or self.class_names
        groups = None if self.near_duplicates is None else self.near_duplicates.groups
        drawn = apply_protocol(
            checked.samples,
            protocol=self.protocol,
            fold=self.fold,
            folds=self.folds,
            seed=self.split_seed,
            val_fraction=self.val_fraction,
            test_fraction=self.test_fraction,
            near_duplicates=range(len(checked.samples)) if self.synthetic else groups,
            stratify_by=self.stratify_by(checked),
            every_stratum=not self.has_masks,
            keep=self.splits is not None,
        )
        self.samples = drawn.samples
        self._deal(drawn.samples)
        self.notes += [*drawn.notes, *([] if self.pixels is None else self.pixels.notes())]
        batch_bytes = self.batch_size * (self.in_channels + self.has_masks) * self.image_size**2
        self.num_workers, note = workers_with_room(self.num_workers, batch_bytes=batch_bytes)
        self.notes += [] if note is None else [note]

    def restore(self, samples: Sequence[Sample]) -> None:
        """Take over what a splits.csv lists, instead of ``prepare``; files are read when needed."""
        self.fingerprint = self.source.fingerprint or self.fingerprint  # of phantoms it is known
        self._deal(samples)

    def read_again(self) -> None:
        """Check the files of a restored split, without those that cannot be read."""
        samples = SampleTable.joined(self.tables.values())
        self.samples = self._take_over(self.source.check(samples, on_error="skip")).samples

    def gather(self) -> SampleTable:
        """Find and check every sample of ``root``, instead of ``prepare``, and draw no split.

        Returns:
            The usable samples, each with the split that the set gives it, or a blank one.

        Raises:
            MedvisionError: If there is no ``root``, or the folder or a file cannot be used.
        """
        self.given_root()
        return self._check(self.index(class_names=None)).samples

    def train_dataloader(self) -> DataLoader[Batch]:
        return self._loader("train")

    def val_dataloader(self) -> DataLoader[Batch]:
        return self._loader("val")

    def test_dataloader(self) -> DataLoader[Batch]:
        return self._loader("test")

    def dataset(self, stage: Stage) -> SampleDataset:
        """The samples of one split, transformed as that split is."""
        return SampleDataset(
            samples=self.tables[stage],
            source=self.source,
            transform=self.transforms[stage],
            seed=self.seed,
            targets=self.targets_of(self.tables[stage]),
            cache=self.pixels,
        )

    def targets_of(self, samples: SampleTable) -> NDArray[Any] | None:  # noqa: ARG002
        """Target of each sample, floats or unsigned integers (N, ...); None: its mask."""
        return None

    def split_fingerprint(self, stage: Stage) -> str:
        """SHA-256 that tells the images of a split from all others, by path and content.

        Known after ``prepare`` and ``gather``. Files read by header alone count by their size.
        """
        paths = {sample.path for sample in self.tables[stage]}
        chosen = [line for line in self._checked.lines() if line.partition("\0")[0] in paths]
        if len(chosen) != len(paths):  # phantoms: drawn from what the fingerprint names
            chosen = [f"{self.fingerprint}\0{path}" for path in paths]
        return hashlib.sha256("\n".join(sorted(chosen)).encode()).hexdigest()

    def given_root(self) -> Path | str:
        """The root; a `MedvisionError` where none is given."""
        if self.root is None:
            raise MedvisionError("no data set is given", where="data.root", hint="give its folder")
        return self.root

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

    def listing(self) -> Callable[..., Index]:
        """The function that lists the samples of a folder, as `FolderSource` calls it."""
        return index_listed

    def phantoms(self, **common: Any) -> PhantomSource:  # noqa: ARG002  none by default
        """The embedded set, given the arguments that all of them take.

        Raises:
            MedvisionError: If there is none.
        """
        raise MedvisionError(
            f"{self.task} has no phantoms", where="data.root", hint="give the folder of a data set"
        )

    def stratify_by(self, checked: CheckResult) -> Sequence[str] | None:  # noqa: ARG002
        """Stratum of each sample, whose shares a split should keep; None: unknown."""
        return None

    def balance_by(self) -> NDArray[np.integer] | None:
        """Class of each training row, where the sampler is to draw evenly from them."""
        return None

    def index(self, *, class_names: Sequence[str] | None) -> Index:  # noqa: ARG002  of images only
        """List the samples of the source, each with the split and group that it was given.

        Args:
            class_names: The classes in their order, where images have classes and they are known.
        """
        return self.source.index(splits=self.splits, group_pattern=self.group_pattern)

    def _check(self, index: Index) -> CheckResult:
        """Check the samples of a list, and keep what was found."""
        checked = self.source.check(index.samples, on_error=self.on_error)
        self.notes += [*index.notes, *checked.notes]
        self.fingerprint = checked.fingerprint
        return self._take_over(checked)

    def _take_over(self, checked: CheckResult) -> CheckResult:
        found = checked.properties
        self.properties, self._checked = found, checked
        self.near_duplicates = None if found is None else near_duplicates_of(found)
        self.given_groups = given_groups(checked.samples)
        return checked

    def _deal(self, samples: Sequence[Sample]) -> None:
        """Fill the tables; open the cache of pixels for as many images."""
        self.tables = {stage: SampleTable.of(samples).of_split(stage) for stage in STAGES}
        self.pixels = None
        if self.root is None or not self.decoded_gb:
            return
        try:
            folder = own_folder("cache") / "pixels"
        except RuntimeError as fault:  # no home folder
            self.notes.append(f"decoded images cannot be kept ({fault}); set MEDVISION_CACHE_DIR")
            return
        self.pixels = PixelCache(
            folder=folder,
            root=self.root,
            size_px=self.image_size,
            channels=self.in_channels,
            max_bytes=round(self.decoded_gb * GIGABYTE),
            num_images=sum(len(table) for table in self.tables.values()),
            reading=self.reading,
        )

    def _loader(self, stage: Stage) -> DataLoader[Batch]:
        """Batches of a split, in the order of plain files unless few shards are read at a time."""
        sampler = self._sampler(stage)
        if stage == "train":
            # Lightning names the epoch only after the workers have asked for their first rows.
            sampler.set_epoch(self.completed_epochs)
            sampler.skip(self.completed_batches * self.batch_size, epoch=self.completed_epochs)
        # Workers that live on are given a seed once, from the stream that dropout draws from: those
        # of validation had it in the first epoch.
        had_seed = stage == "val" and self.completed_epochs > 0 and self.num_workers > 0
        # A short last training batch would weigh its samples more and upset batch norm.
        return DataLoader[Any](
            self.dataset(stage),
            batch_size=self.batch_size,
            sampler=sampler,
            num_workers=self.num_workers,
            collate_fn=collate,
            drop_last=stage == "train" and len(sampler) >= self.batch_size,
            worker_init_fn=start_worker,
            multiprocessing_context=PROCESSES if self.num_workers else None,
            persistent_workers=self.num_workers > 0,
            generator=torch.Generator() if had_seed else None,
        )

    def _sampler(self, stage: Stage) -> EpochSampler:
        options: dict[str, Any] = {
            "num_samples": len(self.tables[stage]),
            "seed": self.seed,
            "shuffle": stage == "train",
            "rank": 0 if self.trainer is None else self.trainer.global_rank,
            "num_processes": 1 if self.trainer is None else self.trainer.world_size,
            "balance_by": self.balance_by() if stage == "train" else None,
            "pad_to": self.batch_size if self.fixed_shapes else 1,
        }
        shards, window = self.source.shards_of(self.tables[stage]), self.shuffle_shards
        if shards is None or window is None:
            return EpochSampler(**options)
        return ShardSampler(shards=shards, window=window, **options)
