"""A data set, split and checked, as Lightning loads it."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pytorch_lightning import LightningDataModule
from torch.utils.data import DataLoader

from medvision.data.checks import check_segmentation
from medvision.data.datasets import (
    EpochSampler,
    FolderSource,
    PairSource,
    PhantomSource,
    SegmentationDataset,
    collate,
    start_worker,
)
from medvision.data.group_salt import hash_groups
from medvision.data.index import index_segmentation
from medvision.data.phantom import PHANTOM_VERSION
from medvision.data.sample import Sample
from medvision.data.split import draw_split, foreground_strata
from medvision.data.transforms import Pair, PairTransform
from medvision.types import STAGES, Batch, MedvisionError, Stage


class SegmentationData(LightningDataModule):
    """Images and masks of a folder, or the embedded phantom set, in three splits.

    ``prepare`` finds, checks and splits everything before training starts; after it
    ``tables`` holds the samples of each split and ``notes`` what the user should know.
    Batches hold uint8 images (N, C, size, size) and uint8 class indices (N, size, size).

    Args:
        name: Name of the data set in the run folder.
        root: Folder of the data set; None draws phantoms.
        image_size: Height and width of every batch; pixels.
        in_channels: 1 (grey) or 3 (RGB).
        class_names: Name of each class, the background first.
        num_classes: Their number; stated because model and loss read it too.
        color_map: One RGB triple per class, for masks that hold colours.
        value_range: Values of deeper than 8-bit files that become black and white.
        mask_suffix: What the name of a mask adds to the name of its image.
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
    """

    task = "segmentation"

    def __init__(
        self,
        *,
        name: str,
        root: str | None,
        image_size: int,
        in_channels: int,
        class_names: Sequence[str],
        num_classes: int,
        color_map: Sequence[tuple[int, int, int]] | None,
        value_range: tuple[float, float] | None,
        mask_suffix: str,
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
    ) -> None:
        super().__init__()
        if len(class_names) != num_classes:
            raise MedvisionError(
                f"{len(class_names)} class names for {num_classes} classes",
                where="data.num_classes",
                hint="name every class, the background first, in data.class_names",
            )
        self.name, self.root = name, None if root is None else Path(root).expanduser()
        self.image_size, self.in_channels = image_size, in_channels
        self.class_names = list(class_names)
        self.color_map = None if color_map is None else [tuple(color) for color in color_map]
        self.value_range, self.mask_suffix = value_range, mask_suffix
        self.splits, self.group_pattern = splits, group_pattern
        self.val_fraction, self.test_fraction = val_fraction, test_fraction
        self.on_error, self.num_images = on_error, num_images
        self.batch_size, self.num_workers = batch_size, num_workers
        self.seed, self.split_seed = seed, split_seed
        key = "data.{}_transforms"
        train = PairTransform(
            size_px=image_size, transforms=train_transforms, key=key.format("train")
        )
        evaluation = PairTransform(
            size_px=image_size,
            transforms=eval_transforms,
            key=key.format("eval"),
            deterministic=True,
        )
        self.transforms = {"train": train, "val": evaluation, "test": evaluation}
        self.source: PairSource
        self.tables: dict[Stage, list[Sample]] = {}
        self.notes: list[str] = []
        self.fingerprint = ""

    @property
    def synthetic(self) -> bool:
        """Whether the images are phantoms."""
        return self.root is None

    def prepare(self) -> None:
        """Find, check and split the samples.

        Raises:
            MedvisionError: If the folder, a file or a split cannot be used.
        """
        if self.root is None:
            samples, strata = self._draw_phantoms(), None
        else:
            samples, strata = self._read_folder(self.root)
        drawn = draw_split(
            samples,
            seed=self.split_seed,
            val_fraction=self.val_fraction,
            test_fraction=self.test_fraction,
            strata=strata,
        )
        self.notes += drawn.notes
        for stage in STAGES:
            self.tables[stage] = [sample for sample in drawn.samples if sample.split == stage]

    def setup(self, stage: str) -> None:
        """Nothing: ``prepare`` runs before the trainer exists."""

    def train_dataloader(self) -> DataLoader[Batch]:
        return self._loader("train")

    def val_dataloader(self) -> DataLoader[Batch]:
        return self._loader("val")

    def test_dataloader(self) -> DataLoader[Batch]:
        return self._loader("test")

    def dataset(self, stage: Stage) -> SegmentationDataset:
        """The samples of one split, transformed as that split is."""
        return SegmentationDataset(
            samples=self.tables[stage],
            source=self.source,
            transform=self.transforms[stage],
            seed=self.seed,
        )

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

    def read_at_network_size(self, path: str, target: str) -> Pair:
        """Image and mask of a file as validation and test see them."""
        image, mask = self.source.read(Sample(path=path, target=target))
        return self.transforms["test"](image, mask, seed=0)

    def _loader(self, stage: Stage) -> DataLoader[Batch]:
        dataset = self.dataset(stage)
        trainer = self.trainer
        sampler = EpochSampler(
            num_samples=len(dataset),
            seed=self.seed,
            shuffle=stage == "train",
            rank=0 if trainer is None else trainer.global_rank,
            num_processes=1 if trainer is None else trainer.world_size,
        )
        # A short last training batch would weigh its samples more and upset batch norm.
        drop_last = stage == "train" and len(sampler) >= self.batch_size
        return DataLoader[Any](
            dataset,
            batch_size=self.batch_size,
            sampler=sampler,
            num_workers=self.num_workers,
            collate_fn=collate,
            drop_last=drop_last,
            worker_init_fn=start_worker,
            persistent_workers=self.num_workers > 0,
        )

    def _draw_phantoms(self) -> list[Sample]:
        if self.splits is not None:
            raise MedvisionError(
                "a split is given but no data set", where="data.splits", hint="give data.root too"
            )
        source = PhantomSource(
            size_px=self.image_size, seed=self.split_seed, channels=self.in_channels
        )
        if len(self.class_names) != 2:
            raise MedvisionError(
                f"the phantoms have 2 classes, not {len(self.class_names)}",
                where="data.class_names",
                hint="give data.root",
            )
        self.source = source
        identity = (
            f"phantom {PHANTOM_VERSION} {self.split_seed} {self.image_size} {self.num_images}"
        )
        self.fingerprint = hashlib.sha256(identity.encode()).hexdigest()
        return source.samples(self.num_images)

    def _read_folder(self, root: Path) -> tuple[list[Sample], list[str] | None]:
        """Usable samples, and the foreground stratum of each where all masks were read."""
        index = index_segmentation(
            root,
            mask_suffix=self.mask_suffix,
            splits=None if self.splits is None else Path(self.splits),
            group_pattern=self.group_pattern,
        )
        files: dict[str, Any] = {
            "num_classes": len(self.class_names),
            "channels": self.in_channels,
            "color_map": self.color_map,
            "value_range": self.value_range,
        }
        checked = check_segmentation(root, index.samples, on_error=self.on_error, **files)
        self.source = FolderSource(root=root, **files)
        self.notes += [*index.notes, *checked.notes]
        self.fingerprint = checked.fingerprint
        shares = [share for share in checked.foreground if share is not None]
        complete = len(shares) == len(checked.samples)
        return checked.samples, foreground_strata(shares) if complete else None
