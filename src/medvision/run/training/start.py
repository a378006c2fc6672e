"""Open the folder of a run: a new one, or that of a run that goes on."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict
from torch import nn

from medvision.console import say
from medvision.data import ImageData
from medvision.data.discovery.splits_csv import write_splits
from medvision.hardware import Plan, describe_hardware
from medvision.run.storage.resume import State, check_same_data
from medvision.run.storage.run_folder import RunFolder
from medvision.run.storage.test_seal import sealed_note
from medvision.run.training.data_audit import DataAudit
from medvision.run.training.results import first_summary, greet


def starting_point(cfg: DictConfig, state: State | None) -> Path | None:
    """The checkpoint that the user gave; it counts no more once a run has its own."""
    if cfg.ckpt_path is None or (state is not None and state.checkpoint is not None):
        return None
    return Path(cfg.ckpt_path).expanduser()


def open_folder(
    cfg: DictConfig,
    plan: Plan,
    folder: RunFolder,
    *,
    experiment: str,
    model: nn.Module,
    data: ImageData,
    audited: DataAudit | None,
    sealed_by: Sequence[str],
) -> dict[str, Any]:
    """Make the folder of a run, and write what is known before its first step."""
    folder.create()
    _resolve(cfg, plan, folder, data)
    splits = data.table_of_splits()
    summary = first_summary(experiment, cfg.seed, data, model, plan)
    if audited is not None:
        summary["audit"] = audited.summary
    if sealed_by:
        summary |= {"sealed": True, "sealed_by": list(sealed_by)}
    if folder.exists:
        folder.write_config({"experiment": experiment, **plain(cfg)})
        folder.write_environment(describe_hardware())
        write_splits(folder.path / "splits.csv", splits)
        folder.write_summary(summary)
        greet(folder.path, data, model, summary)
    if sealed_by:  # said once already, before the first run
        summary["warnings"].append(sealed_note(sealed_by, folder.path))
    return summary


def open_again(
    folder: RunFolder, data: ImageData, model: nn.Module, state: State
) -> dict[str, Any]:
    """What an interrupted run had written, once its data are what they were.

    Raises:
        MedvisionError: If they are not.
    """
    summary = folder.read_summary()
    check_same_data(folder.path, data, summary)
    if folder.exists:
        differs = folder.note_part(describe_hardware())
        if differs:
            state.notes.append(
                f"the run goes on with {'; '.join(differs)}: its numbers may differ from those of"
                " a run that was never stopped"
            )
        summary = {**summary, "status": "running"}
        summary["warnings"] = [*summary["warnings"], *state.notes]
        folder.write_summary(summary)
        greet(folder.path, data, model, summary)
        say(f"going on {state.words}")
        if summary.get("sealed"):
            summary["warnings"].append(sealed_note(summary["sealed_by"], folder.path))
    return summary


def plain(cfg: DictConfig) -> dict[str, Any]:
    """The resolved config as plain types."""
    resolved: Any = OmegaConf.to_container(cfg, resolve=True)
    return resolved


def _resolve(cfg: DictConfig, plan: Plan, folder: RunFolder, data: ImageData) -> None:
    """Put what ``auto`` came to into the config, so that the stored one repeats the run."""
    with open_dict(cfg):
        cfg.run_dir = str(folder.path)
        cfg.trainer.accelerator = plan.accelerator
        cfg.trainer.precision = plan.precision
        cfg.trainer.memory_format = "channels_last" if plan.channels_last else "contiguous"
        cfg.trainer.deterministic = plan.deterministic
        if not data.tables["val"]:
            cfg.trainer.limit_val_batches = 0
