"""Choose what a finished run is measured on: its own images, or another data set."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from omegaconf import DictConfig, OmegaConf

from medvision.data import ImageData
from medvision.errors import MedvisionError
from medvision.run.storage.saved_run import StoredRun
from medvision.run.training.build import build
from medvision.types import STAGES, Stage

Split = Literal["test", "val", "all"]


@dataclass(frozen=True, kw_only=True)
class Target:
    """Data and split that are measured.

    Attributes:
        data: Opened, its tables filled.
        stage: Which of its tables.
        split: What was asked for.
        external: Whether it is another data set than the run's own.
        name: For the folder of the results.
    """

    data: ImageData
    stage: Stage
    split: Split
    external: bool
    name: str


def choose_target(run: StoredRun, root: Path | None, split: Split | None) -> Target:
    """Open the data to measure on.

    Args:
        run: The finished run.
        root: Another data set; None, or the run's own set in another place, for the stored split.
        split: ``test`` or ``val``; of another data set also ``all``, which is what it is where
            the set has no test split of its own.

    Raises:
        MedvisionError: If the data is gone, or has no such split.
    """
    if root is None:
        return _own(run, build(run.cfg.data), split)
    root = root.expanduser()
    if not root.is_dir():
        raise MedvisionError(f"{root} is not a folder", where="--data", hint="check the path")
    data = _open_at(run.cfg, root)
    samples = data.gather()
    if data.fingerprint == run.summary["dataset"]["fingerprint"]:  # the same set, moved
        return _own(run, _open_at(run.cfg, root), split)
    given = {sample.split for sample in samples} - {""}
    wanted = split or ("test" if "test" in given else "all")
    chosen = [s for s in samples if wanted in ("all", s.split)]
    if not chosen:
        raise MedvisionError(
            f"the data set has no {wanted} split",
            where=str(root),
            hint="leave --split out to measure on all of it",
        )
    data.restore([replace(sample, split="test") for sample in chosen])
    return Target(data=data, stage="test", split=wanted, external=True, name=root.resolve().name)


def describe_dataset(run: StoredRun, target: Target) -> dict[str, Any]:
    """Description of the measured data for ``summary.json``."""
    data = target.data
    if not target.external:
        return run.summary["dataset"]
    counts = data.class_counts()
    classes = {} if counts is None else {"class_counts": {"test": counts["test"]}}
    return {
        "name": target.name,
        "synthetic": False,
        "fingerprint": data.fingerprint,
        "test_fingerprint": data.split_fingerprint("test"),
        "num_images": {stage: len(data.tables[stage]) for stage in STAGES},
        **classes,
    }


def _own(run: StoredRun, data: ImageData, split: Split | None) -> Target:
    stage: Literal["val", "test"] = "val" if split == "val" else "test"
    if split == "all":
        raise MedvisionError(
            "all images of a run are mostly those it was trained on",
            where="--split",
            hint="use test or val",
        )
    samples = run.splits
    data.restore(samples)
    if not data.tables[stage]:
        raise MedvisionError(
            f"the run has no {stage} images", where=str(run.path), hint="use --data ROOT"
        )
    _must_exist(data, stage)
    return Target(data=data, stage=stage, split=stage, external=False, name=stage)


def _open_at(cfg: DictConfig, root: Path) -> ImageData:
    """The run's kind of data at another place, with a split of its own."""
    node = OmegaConf.merge(cfg.data, {"root": str(root), "splits": None})
    if "protocol" in node:
        node.protocol = "official"
    return build(node)


def _must_exist(data: ImageData, stage: Stage) -> None:
    missing = data.missing_files(stage)
    if missing:
        total = len(data.tables[stage]) * (1 + data.has_masks)
        raise MedvisionError(
            f"{len(missing)} of {total} files of the split are gone, such as {missing[0]}",
            where=str(data.root),
            hint="give the folder where the data set lies now with --data ROOT",
        )
