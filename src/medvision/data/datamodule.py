"""Base class of the data modules: one table of samples and one data loader per split."""

import hashlib
import multiprocessing
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_lightning import LightningDataModule
from torch.utils.data import DataLoader

from medvision.data.discovery.index import Index, index_listed, names_on_disk, usual_table
from medvision.data.discovery.keys import anchored, folder_keys
from medvision.data.discovery.splits_csv import read_columns
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
from medvision.data.splits.sequences import group_by_sequence
from medvision.data.validation.properties import ImageProperties
from medvision.data.validation.validate import CheckResult, OnError
from medvision.errors import MedvisionError
from medvision.files import own_folder
from medvision.types import STAGES, Batch, Stage

PROCESSES = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
"""Start method of loader processes; a launcher may set another one, and joblib's fails here."""


class ImageData(LightningDataModule):
    """Images of a folder, of shards or of a synthetic phantom set in three splits.

    ``prepare`` finds, checks and splits all samples before training starts. To support another
    task, derive from this class, set ``task`` and define ``targets_of``; also define ``listing`` if
    samples are not listed in a splits.csv, and ``phantoms`` to provide phantoms.

    Attributes:
        tables: Samples of each split.
        notes: Remarks for the user.
        fingerprint: SHA-256 over all files.
        samples: All samples with their splits; available after ``prepare`` and ``gather``.
        given_groups: Group of each path from a csv or pattern, before near-duplicates are joined.
        properties: File properties, one row per sample; None for phantoms and if only headers were
            read.
        near_duplicates: Near-duplicates among the samples; None if ``properties`` is None.
        keys: Keys that decide how the folder is read.
        drawn: Splits of which no image was given, so that all were drawn; available after
            ``prepare``.
        index_read: Listing of the samples, with the layout of the folder; available after
            ``prepare`` and ``gather``.
        completed_epochs: Epochs that a resumed run has already completed.
        completed_batches: Training batches of the next epoch that a resumed run has already
            completed and skips.
        pixels: Disk cache of decoded images; None if disabled.
        fixed_shapes: If True, pad the last batch of validation and test, for hardware that compiles
            every shape.

    Args:
        name: Name of the data set in the run folder.
        root: Folder of the data set or of its shards, or address of the shards; None uses phantoms.
        image_size: Height and width of every batch; pixels.
        in_channels: 1 (grey) or 3 (RGB).
        value_range: Values that map to black and white, for files deeper than 8 bits.
        protocol: ``official``, ``merged``, ``grouped`` or ``kfold``, see ``apply_protocol``.
        fold: Index of the test fold; for ``kfold``.
        folds: Number of folds; for ``kfold``.
        splits: Path of a splits.csv whose splits are kept; its paths are relative to ``root``.
        group_pattern: Regular expression with one capture group; samples with the same captured
            text stay together.
        group_by: ``sequence`` keeps videos and series together, as found by `group_by_sequence`;
            images with a known group keep it.
        val_fraction: Share of validation if no split is given.
        test_fraction: Share of test if no split is given.
        on_error: ``fail`` on an unusable file, or ``skip`` it with a note.
        num_images: Number of phantoms.
        batch_size: Samples per batch and process.
        num_workers: Number of loader processes.
        seed: Seed of sample order and augmentation.
        split_seed: Seed of phantoms and drawn splits.
        train_transforms: Arguments of each training albumentation, by class name.
        eval_transforms: The same for validation and test; must be deterministic.
        download: Public data set to download into ``root`` if it is missing or empty.
        shuffle_shards: Number of remote shards that are mixed, see `ShardSampler`; None mixes all.
        cache_gb: Maximum size of the local copies of all remote shards, in gigabytes.
        decoded_gb: Maximum size of the decoded images cached for all data sets, in gigabytes; 0
            disables the cache.
        task: Task that the experiment expects; None accepts any.
        images: As in `FolderKeys`.
        masks: As in `FolderKeys`.
        exclude: As in `FolderKeys`.
        layout: Further keys of `FolderKeys`.
        subgroups: Columns such as ``sex``, for whose values test scores are also computed apart;
            in the csv of ``splits``, or else in that of the data set.
        reduced_decoding: If True, JPEG files much larger than ``image_size`` are decoded at a
            reduced size, as `decode` does; False for configs without this key.
    """

    task: ClassVar[str]
    """Task that uses the data."""

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
        task: str | None = None,
        images: str | None = None,
        masks: str | None = None,
        exclude: str | Sequence[str] = (),
        layout: Mapping[str, Any] | None = None,
        subgroups: Sequence[str] = (),
        group_by: Literal["sequence"] | None = None,
        reduced_decoding: bool = False,
    ) -> None:
        super().__init__()
        if task not in (None, self.task):
            raise MedvisionError(
                f"expected {self.task}, got {task}",
                where="data.task",
                hint=f"choose experiment={task}, or leave data.task out",
            )
        keys = folder_keys(
            {
                "task": task,
                "images": images,
                "masks": masks,
                "exclude": exclude,
                "on_error": on_error,
                **(layout or {}),
            }
        )
        place = None if root is None else place_of(root)
        self.name, self.root, self.keys = name, place, keys
        if not isinstance(place, str):  # shards on a network have no folders to find
            self.root, self.keys = anchored(place, keys)
        root = None if self.root is None else str(self.root)
        if root is None and splits is not None:
            raise MedvisionError(
                "a split is given without a data set", where="data.splits", hint="set data.root too"
            )
        self.image_size, self.in_channels = image_size, in_channels
        self.protocol, self.fold, self.folds = protocol, fold, folds
        self.splits = None if splits is None else Path(splits)
        self.group_pattern, self.group_by = group_pattern, group_by
        self.val_fraction, self.test_fraction = val_fraction, test_fraction
        self.on_error, self.num_images, self.batch_size = on_error, num_images, batch_size
        self.num_workers, self.seed, self.split_seed = num_workers, seed, split_seed
        self.subgroups = (subgroups,) if isinstance(subgroups, str) else tuple(subgroups)
        self.download, self.shuffle_shards = download, shuffle_shards
        self.cache_gb, self.decoded_gb = cache_gb, decoded_gb
        make = partial(Transform, size_px=image_size)
        train = make(transforms=train_transforms, key="data.train_transforms")
        test = make(transforms=eval_transforms, key="data.eval_transforms", deterministic=True)
        self.transforms = {"train": train, "val": test, "test": test}
        self.reading = Reading(value_range=value_range, reduced=reduced_decoding)
        self.class_names: list[str] = []
        self.index_read = Index(samples=SampleTable.of([]), notes=[])
        self.tables: dict[Stage, SampleTable] = {}
        self.drawn: tuple[Stage, ...] = ()
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
        """True if the images are phantoms."""
        return self.root is None

    @property
    def has_masks(self) -> bool:
        """True if each image has a mask."""
        return self.reading.has_masks

    @cached_property
    def source(self) -> Source:
        """Source of the samples: phantoms, a folder or shards.

        Raises:
            MedvisionError: If shards cannot be read or are for another task, or the phantoms do not
                match the config.
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
        """Find, check and split the samples, after downloading them if configured.

        Raises:
            MedvisionError: If the folder, a file or a split cannot be used, or a download fails.
        """
        if self.download is not None and isinstance(self.root, Path) and is_absent(self.root):
            fetch_for_training(self.download, self.root, task=self.task)
        self.subgroup_values()  # raises before anything is computed
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
        kept = (
            ()
            if self.protocol != "official" and self.splits is None
            else checked.samples.splits.numbered()[0]
        )
        self.drawn = tuple(s for s in STAGES if len(self.tables[s]) and s not in kept)
        self.notes += [*drawn.notes, *([] if self.pixels is None else self.pixels.notes())]
        batch_bytes = self.batch_size * (self.in_channels + self.has_masks) * self.image_size**2
        self.num_workers, note = workers_with_room(self.num_workers, batch_bytes=batch_bytes)
        self.notes += [] if note is None else [note]

    def restore(self, samples: Sequence[Sample]) -> None:
        """Use the samples of a splits.csv, instead of ``prepare``; files are read when needed."""
        self.fingerprint = self.source.fingerprint or self.fingerprint  # known for phantoms
        self._deal(samples)

    def read_again(self) -> None:
        """Check the files of a restored split, skipping unreadable ones.

        In the order of ``prepare``, in which neighbours are compared as frames of a video.
        """
        samples = SampleTable.joined(self.tables.values()).by_path()
        self.samples = self._take_over(self.source.check(samples, on_error="skip")).samples

    def gather(self) -> SampleTable:
        """Find and check every sample of ``root``, instead of ``prepare``, without drawing splits.

        Returns:
            The usable samples, each with its given split or a blank one.

        Raises:
            MedvisionError: If ``root`` is None, or the folder or a file cannot be used.
        """
        self.given_root()
        self.samples = self._check(self.index(class_names=None)).samples
        return self.samples

    def train_dataloader(self) -> DataLoader[Batch]:
        return self._loader("train")

    def val_dataloader(self) -> DataLoader[Batch]:
        return self._loader("val")

    def test_dataloader(self) -> DataLoader[Batch]:
        return self._loader("test")

    def dataset(self, stage: Stage) -> SampleDataset:
        """Return the samples of one split with the transforms of that split."""
        return SampleDataset(
            samples=self.tables[stage],
            source=self.source,
            transform=self.transforms[stage],
            seed=self.seed,
            targets=self.targets_of(self.tables[stage]),
            cache=self.pixels,
        )

    def targets_of(self, samples: SampleTable) -> NDArray[Any] | None:  # noqa: ARG002
        """Return the targets, floats or unsigned integers (N, ...); None: masks are the targets."""
        return None

    def split_fingerprint(self, stage: Stage) -> str:
        """SHA-256 of the images of a split, by path and content.

        Available after ``prepare`` and ``gather``. Files with only the header read are identified
        by their size.
        """
        paths = {sample.path for sample in self.tables[stage]}
        chosen = [line for line in self._checked.lines() if line.partition("\0")[0] in paths]
        if len(chosen) != len(paths):  # phantoms: determined by the fingerprint
            chosen = [f"{self.fingerprint}\0{path}" for path in paths]
        return hashlib.sha256("\n".join(sorted(chosen)).encode()).hexdigest()

    def given_root(self) -> Path | str:
        """Return the root; raise `MedvisionError` if it is None."""
        if self.root is None:
            raise MedvisionError("no data set is given", where="data.root", hint="set its folder")
        return self.root

    def class_counts(self) -> dict[Stage, dict[str, int]] | None:
        """Count the images of each class in each split; None if images have no class."""
        return None

    def table_of_splits(self) -> SampleTable:
        """Return every sample with its split and its group as a salted hash."""
        samples, warning = hash_groups(SampleTable.joined(self.tables.values()))
        self.notes += [] if warning is None else [warning]
        return samples

    def groups_of(self, rows: Sequence[Mapping[str, Any]]) -> list[str] | None:
        """Return the group of each row of a predictions table, or None if no groups are known."""
        groups = {sample.path: sample.group for t in self.tables.values() for sample in t}
        found = [groups[row["path"]] or row["path"] for row in rows]
        return found if len(set(found)) < len(found) else None

    def subgroup_values(self) -> dict[str, dict[str, str]]:
        """Return the value of each image, by its path, in the columns ``subgroups``.

        Raises:
            MedvisionError: If there is no csv, or it lacks a column.
        """
        if not self.subgroups:
            return {}
        tables = [] if self.splits is None else [self.splits.expanduser()]
        local = isinstance(self.root, Path) and self.root.is_dir()
        if isinstance(self.root, Path) and local:
            own = self.root / "splits.csv"
            usual = own if own.is_file() else usual_table(self.root)
            tables += [] if usual is None else [usual]
        if not tables:
            raise MedvisionError(
                "data.subgroups names columns of a csv, but the data set has none",
                where=str(self.root or "phantoms"),
                hint="write a csv with the column path and these columns, or leave the key out",
            )
        found = read_columns(tables, self.subgroups)
        if not isinstance(self.root, Path) or not local:
            return found
        spelled = names_on_disk(self.root, {name for of in found.values() for name in of})
        return {c: {spelled[name]: cell for name, cell in of.items()} for c, of in found.items()}

    def listing(self) -> Callable[..., Index]:
        """Function that lists the samples of a folder, as called by `FolderSource`."""
        return index_listed

    def phantoms(self, **common: Any) -> PhantomSource:  # noqa: ARG002  none by default
        """Create the phantom set from the common arguments.

        Raises:
            MedvisionError: If the task has no phantoms.
        """
        raise MedvisionError(
            f"{self.task} has no phantoms", where="data.root", hint="set the folder of a data set"
        )

    def stratify_by(self, checked: CheckResult) -> Sequence[str] | None:  # noqa: ARG002
        """Return the stratum of each sample, for splits with equal shares; None if unknown."""
        return None

    def balance_by(self) -> NDArray[np.integer] | None:
        """Return the class of each training row for balanced sampling, otherwise None."""
        return None

    def index(self, *, class_names: Sequence[str] | None) -> Index:  # noqa: ARG002  of images only
        """List the samples of the source, each with the split and group that it was given.

        Args:
            class_names: The classes in their order, where images have classes and they are known.
        """
        return self.source.index(splits=self.splits, group_pattern=self.group_pattern)

    def _check(self, index: Index) -> CheckResult:
        """Check the listed samples and store the result."""
        checked = self.source.check(index.samples, on_error=self.on_error)
        self.notes += [*index.notes, *checked.notes]
        if self.group_by == "sequence":
            checked = self._in_sequences(checked)
        self.index_read = index
        self.fingerprint = checked.fingerprint
        return self._take_over(checked)

    def _in_sequences(self, checked: CheckResult) -> CheckResult:
        where, facts = str(self.root or "phantoms"), checked.properties
        if facts is None:
            raise MedvisionError(
                "sequences are found from the pictures, which are not read before the start"
                + ("" if self.synthetic else ": there are too many"),
                where=f"data.group_by=sequence, {where}",
                hint="leave the key out" if self.synthetic else f"run medvision audit {where} once",
            )
        samples, notes = group_by_sequence(
            checked.samples, facts.thumbnail, facts.pixel_hash, where=where
        )
        self.notes += notes
        return replace(checked, samples=samples)

    def _take_over(self, checked: CheckResult) -> CheckResult:
        found = checked.properties
        self.properties, self._checked = found, checked
        self.near_duplicates = None if found is None else near_duplicates_of(found)
        self.given_groups = given_groups(checked.samples)
        return checked

    def _deal(self, samples: Sequence[Sample]) -> None:
        """Fill the tables and open the pixel cache for this number of images."""
        self.tables = {stage: SampleTable.of(samples).of_split(stage) for stage in STAGES}
        self.pixels = None
        if self.root is None or not self.decoded_gb:
            return
        try:
            folder = own_folder("cache") / "pixels"
        except RuntimeError as fault:  # no home folder
            self.notes.append(f"decoded images cannot be cached ({fault}); set MEDVISION_CACHE_DIR")
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
        """Create the loader of a split; plain-file order unless few shards are read at a time."""
        sampler = self._sampler(stage)
        if stage == "train":
            # Lightning sets the epoch only after the workers have requested their first rows.
            sampler.set_epoch(self.completed_epochs)
            sampler.skip(self.completed_batches * self.batch_size, epoch=self.completed_epochs)
        # Persistent workers draw a seed once, from the random stream of dropout: validation workers
        # did so in the first epoch.
        had_seed = stage == "val" and self.completed_epochs > 0 and self.num_workers > 0
        # A short last training batch would overweight its samples and disturb batch norm.
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
