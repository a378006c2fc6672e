"""Continue a run that was interrupted: what it left, and whether it can be trusted."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from omegaconf import DictConfig

from medvision.errors import MedvisionError, first_line
from medvision.files import check_stored, read_plain
from medvision.registry import Purpose, check_classes
from medvision.run.storage.saved_run import as_config
from medvision.types import STAGES

if TYPE_CHECKING:
    from medvision.data import ImageData


KEPT_FILES = ("config.yaml", "splits.csv", "summary.json")
"""What a run has written before its first step."""

MAY_CHANGE = ("data.root", "data.num_workers", "data.decoded_gb", "trust")
"""Keys that may be given beside ``resume``: where the data lie, who reads them, what is kept, and
which packages may define classes."""

OVER = ("finished", "pruned")


def read_arguments(arguments: Sequence[str]) -> tuple[Path, dict[str, Any]]:
    """Read which run to continue, and what of its config changes.

    Args:
        arguments: Of the command line, ``resume=`` among them.

    Raises:
        MedvisionError: If anything else is asked for than where the data are and who reads them.
    """
    given: dict[str, Any] = {}
    for argument in arguments:
        key, equals, text = argument.partition("=")
        if not equals or key not in ("resume", *MAY_CHANGE) or key in given:
            raise MedvisionError(
                f"{argument} cannot be changed when resuming a run"
                if equals and key not in given
                else f"{argument} has no place beside resume=RUN",
                where="resume",
                hint="leave it out, or start a new run",
            )
        given[key] = text if key in ("resume", "data.root") else yaml.safe_load(text)
    return Path(_unquoted(given.pop("resume"))).expanduser(), given


def _unquoted(text: str) -> str:
    """A path as the shell would have given it, where it was quoted for Hydra too."""
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    return text[1:-1] if quoted else text


@dataclass(frozen=True, kw_only=True)
class State:
    """The newest state of a run that can be read.

    Attributes:
        path: Its checkpoint; None where none was written: the run starts from its beginning.
        checkpoint: What it holds.
        best: What ``best.ckpt`` holds; None where that is missing or damaged.
        notes: What the user should know.
    """

    path: Path | None
    checkpoint: dict[str, Any] | None
    best: dict[str, Any] | None
    notes: list[str]

    @property
    def is_over(self) -> bool:
        """Whether the fit had ended."""
        return self.checkpoint is not None and bool(self.checkpoint["continuation"]["over"])

    @property
    def words(self) -> str:
        """Where the run continues."""
        if self.checkpoint is None:
            return "from its beginning: it had written no checkpoint"
        behind = self.checkpoint["continuation"]
        if self.is_over:
            return f"after its {behind['epoch']} epochs, with the evaluation"
        within = f" and {behind['batches']} batches" if behind["batches"] else ""
        return f"after {behind['epoch']} epochs{within}"


@dataclass(frozen=True, kw_only=True)
class InterruptedRun:
    """A run folder whose run may be continued.

    Attributes:
        path: The folder.
        experiment: Its name.
        cfg: The resolved config.
        summary: What ``summary.json`` holds.
    """

    path: Path
    experiment: str
    cfg: DictConfig
    summary: dict[str, Any]

    @property
    def is_over(self) -> bool:
        """Whether there is nothing left to do."""
        return self.summary.get("status") in OVER

    @classmethod
    def read(cls, path: Path) -> InterruptedRun:
        """Read what a run has written.

        Raises:
            MedvisionError: If the folder is not that of a run, or its config names classes that
                are not built from a file.
        """
        if not path.is_dir():
            raise MedvisionError(
                f"{path} is not a folder", where="resume", hint="give the folder of a run"
            )
        missing = [name for name in KEPT_FILES if not (path / name).is_file()]
        if missing:
            raise MedvisionError(
                f"{path} holds no {missing[0]}: it is not the folder of a run, or of one that"
                " ended before it began",
                where="resume",
                hint="start the run again",
            )
        try:
            summary, config = (read_plain(path / name) for name in ("summary.json", "config.yaml"))
            experiment = str(config.pop("experiment"))
            cfg = as_config(_moved(config, str(config["run_dir"]), str(path)))
        except (ValueError, KeyError) as fault:
            raise MedvisionError(
                f"cannot read what the run has written: {first_line(fault)}",
                where=str(path),
                hint="start the run again",
            ) from fault
        check_classes(
            config,
            Purpose.RESUME,
            where=str(path / "config.yaml"),
            hint="start a new run, with ckpt_path=RUN/checkpoints/last.ckpt",
            option="trust=",
        )
        return cls(path=path, experiment=experiment, cfg=cfg, summary=summary)


def check_same_data(run: Path, data: ImageData, summary: Mapping[str, Any]) -> None:
    """Compare the data with those that a run began with.

    Raises:
        MedvisionError: If a file was added, removed or changed, or lies in another split.
    """
    from medvision.data.discovery.splits_csv import read_splits  # with NumPy

    began = {sample.path: sample.split for sample in read_splits(run / "splits.csv")}
    now = {sample.path: stage for stage in STAGES for sample in data.tables[stage]}
    differ = sorted(path for path in began.keys() | now.keys() if began.get(path) != now.get(path))
    if differ:
        what = f"{len(differ)} images came, went or changed their split, such as {differ[0]}"
    elif data.fingerprint != summary["dataset"]["fingerprint"]:
        what = "the content of an image or mask has changed"
    else:
        return
    raise MedvisionError(
        f"the data are not those that the run began with: {what}",
        where=str(run) if data.root is None else str(data.root),
        hint="bring them back, or start a new run",
    )


def _moved(node: Any, old: str, new: str) -> Any:
    """A config whose paths below the run folder lie below the one where it is now."""
    if isinstance(node, dict):
        return {key: _moved(value, old, new) for key, value in node.items()}
    if isinstance(node, list):
        return [_moved(value, old, new) for value in node]
    if isinstance(node, str) and (node == old or node.startswith(f"{old}/")):
        return new + node[len(old) :]
    return node


def find_state(run: Path) -> State:
    """The newest state that a run has saved and that can be read; damaged ones are passed over.

    Raises:
        MedvisionError: If there are checkpoints, and none can be continued from.
    """
    folder = run / "checkpoints"
    paths = [folder / f"{name}.ckpt" for name in ("last", "previous", "best")]
    there = [path for path in paths if path.exists()]
    best = _read(folder / "best.ckpt") if (folder / "best.ckpt").exists() else None
    passed: list[str] = []
    for path in there:
        checkpoint = best if path.name == "best.ckpt" else _read(path)
        if checkpoint is None or "continuation" not in checkpoint:
            passed.append(path.name)
            continue
        notes = [f"{name} is damaged and was passed over for {path.name}" for name in passed]
        return State(path=path, checkpoint=checkpoint, best=best, notes=notes)
    if passed:
        raise MedvisionError(
            f"cannot read {' and '.join(passed)}: damaged, or from another version",
            where=str(folder),
            hint="start the run again",
        )
    return State(path=None, checkpoint=None, best=None, notes=[])


def _read(path: Path) -> dict[str, Any] | None:
    """What a checkpoint holds, or None where it is damaged.

    PyTorch does not compare the checksums that it writes: a flipped bit would pass for a weight.
    """
    import torch

    try:
        check_stored(path)
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:
                return None
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError):
        return None
    except zipfile.BadZipFile:
        return None
    return checkpoint if isinstance(checkpoint, dict) else None
