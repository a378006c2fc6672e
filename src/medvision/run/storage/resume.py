"""Resume an interrupted run: read its state and check that it is valid."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from omegaconf import DictConfig, OmegaConf

from medvision.console import counted
from medvision.errors import MedvisionError, first_line
from medvision.files import OVER, check_stored, newest_run, read_plain, way_to_run
from medvision.registry import Purpose, without_sources
from medvision.run.config.stored import check_root, check_stored_config, derive_folders
from medvision.run.storage.run_folder import is_further_process, is_own_run
from medvision.run.storage.saved_run import as_config
from medvision.types import STAGES

if TYPE_CHECKING:
    from medvision.data import ImageData


KEPT_FILES = ("config.yaml", "splits.csv", "summary.json")
"""Files that a run writes before its first step."""

MAY_CHANGE = ("data.root", "data.num_workers", "data.decoded_gb", "trust")
"""Keys allowed beside ``resume``: data location, readers, cache size, and the packages that
may define classes."""


def read_arguments(arguments: Sequence[str]) -> tuple[Path, dict[str, Any]]:
    """Read the run to resume and the changes of its config.

    Args:
        arguments: Command line, including ``resume=``.

    Raises:
        MedvisionError: If any key other than those in ``MAY_CHANGE`` is set.
    """
    given: dict[str, Any] = {}
    for argument in arguments:
        key, equals, text = argument.partition("=")
        if not equals or key not in ("resume", *MAY_CHANGE) or key in given:
            raise MedvisionError(
                f"{argument} cannot be changed when resuming a run"
                if equals and key not in given
                else f"{argument} cannot be combined with resume=RUN",
                where="resume",
                hint="leave it out, or start a new run",
            )
        given[key] = text if key in ("resume", "data.root") else yaml.safe_load(text)
    return Path(_unquoted(given.pop("resume"))).expanduser(), given


def _unquoted(text: str) -> str:
    """Remove the quotes of a path that was also quoted for Hydra."""
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    return text[1:-1] if quoted else text


@dataclass(frozen=True, kw_only=True)
class State:
    """Newest readable state of a run.

    Attributes:
        path: Path of its checkpoint; None if there is none, so that the run starts from the
            beginning.
        checkpoint: Content of the checkpoint.
        best: Content of ``best.ckpt``; None if it is missing or damaged.
        notes: Notes for the user.
    """

    path: Path | None
    checkpoint: dict[str, Any] | None
    best: dict[str, Any] | None
    notes: list[str]

    @property
    def is_over(self) -> bool:
        """True if the fit had ended."""
        return self.checkpoint is not None and bool(self.checkpoint["continuation"]["over"])

    @property
    def words(self) -> str:
        """Description of the point where the run continues."""
        if self.checkpoint is None:
            return "from the start, because it had written no checkpoint"
        behind = self.checkpoint["continuation"]
        if self.is_over:
            return f"after {counted(behind['epoch'], 'epoch')}, with the evaluation"
        within = (
            f" and {counted(behind['batches'], 'batch', 'batches')}" if behind["batches"] else ""
        )
        return f"after {counted(behind['epoch'], 'epoch')}{within}"


@dataclass(frozen=True, kw_only=True)
class InterruptedRun:
    """Run folder of a run that can be resumed.

    Attributes:
        path: Run folder.
        experiment: Name of the experiment.
        cfg: Resolved config.
        summary: Content of ``summary.json``.
    """

    path: Path
    experiment: str
    cfg: DictConfig
    summary: dict[str, Any]

    @property
    def is_over(self) -> bool:
        """True if there is nothing left to do."""
        return self.summary.get("status") in OVER

    @classmethod
    def read(
        cls, path: Path, *, root: str | None = None, is_own: bool | None = None
    ) -> InterruptedRun:
        """Read the files of a run.

        Args:
            path: Run folder.
            root: Data set that the command names; None if it names none.
            is_own: True if this user has started the run; None to look it up.

        Raises:
            MedvisionError: If this is not a run folder, or its config says what a file may not.
        """
        if not path.is_dir():
            raise MedvisionError(
                f"{path} is not a folder", where="resume", hint="give a run folder"
            )
        missing = [name for name in KEPT_FILES if not (path / name).is_file()]
        if missing:
            raise MedvisionError(
                f"{path} has no {missing[0]}: it is not a run folder, or the run ended before it"
                " started",
                where="resume",
                hint=way_to_run(path) if newest_run(path) else "start the run again",
            )
        if is_own is None:  # the first process looks it up for all
            is_own = is_further_process() or is_own_run(path)
        where = str(path / "config.yaml")
        try:
            summary, config = (read_plain(path / name) for name in ("summary.json", "config.yaml"))
            experiment = str(config.pop("experiment"))
            config = _moved(config, str(config["run_dir"]), str(path))
            derive_folders(config, path)
            cfg = as_config(config)
        except (ValueError, KeyError) as fault:
            raise MedvisionError(
                f"cannot read the files of the run: {first_line(fault)}",
                where=str(path),
                hint="start the run again",
            ) from fault
        check_stored_config(
            cfg,
            Purpose.RESUME_OWN if is_own else Purpose.RESUME,
            where=where,
            hint="start a new run, with ckpt_path=RUN/checkpoints/last.ckpt",
        )
        has_state = any((path / "checkpoints").glob("*.ckpt"))
        if has_state or not is_own:  # the checkpoint brings the weights
            plain = without_sources(config)
            if plain != config and not has_state:
                raise MedvisionError(
                    "the run starts from pretrained weights, which are loaded only for the user who"
                    " started it, and it has no checkpoint yet",
                    where=where,
                    hint="start the run again",
                )
            cfg = as_config(plain)
        check_root(
            cfg, named=root, is_own=is_own, where=where, hint="if you trust it, add data.root=ROOT"
        )
        if not is_own and OmegaConf.select(cfg, "sweep.trial") is not None:
            cfg.sweep.trial = None  # a trial reports to the search in the folder above
        return cls(path=path, experiment=experiment, cfg=cfg, summary=summary)


def check_same_data(run: Path, data: ImageData, summary: Mapping[str, Any]) -> None:
    """Check that the data are those of the start of the run.

    Raises:
        MedvisionError: If a file was added, removed, changed or moved to another split.
    """
    from medvision.data.discovery.splits_csv import read_splits  # imports NumPy

    began = {sample.path: sample.split for sample in read_splits(run / "splits.csv")}
    now = {sample.path: stage for stage in STAGES for sample in data.tables[stage]}
    differ = sorted(path for path in began.keys() | now.keys() if began.get(path) != now.get(path))
    if differ:
        were = "image was" if len(differ) == 1 else "images were"
        what = f"{len(differ)} {were} added, removed or moved to another split, such as {differ[0]}"
    elif data.fingerprint != summary["dataset"]["fingerprint"]:
        what = "the content of an image or mask has changed"
    else:
        return
    raise MedvisionError(
        f"the data differ from those at the start of the run: {what}",
        where=str(run) if data.root is None else str(data.root),
        hint="restore them, or start a new run",
    )


def _moved(node: Any, old: str, new: str) -> Any:
    """Config with paths below the old run folder moved below the new one."""
    if isinstance(node, dict):
        return {key: _moved(value, old, new) for key, value in node.items()}
    if isinstance(node, list):
        return [_moved(value, old, new) for value in node]
    if isinstance(node, str) and (node == old or node.startswith(f"{old}/")):
        return new + node[len(old) :]
    return node


def find_state(run: Path) -> State:
    """Newest readable state of a run; damaged checkpoints are skipped.

    Raises:
        MedvisionError: If there are checkpoints, but none can be resumed from.
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
        notes = [f"{name} is damaged, {path.name} is used instead" for name in passed]
        return State(path=path, checkpoint=checkpoint, best=best, notes=notes)
    if passed:
        raise MedvisionError(
            f"cannot read {' and '.join(passed)}: damaged, or from another version",
            where=str(folder),
            hint="start the run again",
        )
    return State(path=None, checkpoint=None, best=None, notes=[])


def _read(path: Path) -> dict[str, Any] | None:
    """Content of a checkpoint, or None if it is damaged.

    PyTorch does not verify the checksums it writes: a flipped bit would be read as a weight.
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
