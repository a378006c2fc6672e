"""Trials of a search among runs: which config is one, and the callback that prunes it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from omegaconf import OmegaConf

from medvision.errors import MedvisionError
from medvision.run.storage.test_seal import SEARCH
from medvision.search.study import JOURNAL

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from medvision.callbacks import EpochLog, Pruning
    from medvision.run.storage.run_folder import RunFolder


def trial_of(cfg: DictConfig) -> int | None:
    """Number of the trial that a config is of; None where it is of none."""
    number = OmegaConf.select(cfg, f"{SEARCH}.trial")
    return None if number is None else int(number)


def is_trial(cfg: DictConfig) -> bool:
    """Whether a config is that of a trial.

    Raises:
        MedvisionError: If it asks for a search, and is run alone.
    """
    if trial_of(cfg) is None and OmegaConf.select(cfg, f"{SEARCH}.sampler") is not None:
        raise MedvisionError("the experiment asks for a search", where="sweep", hint="add -m")
    return trial_of(cfg) is not None


def pruning_of(cfg: DictConfig, folder: RunFolder, log: EpochLog) -> list[Pruning]:
    """The callback that tells a search of each epoch; none where the run is no trial of one."""
    from medvision.callbacks import Pruning

    search = folder.path.parent
    if trial_of(cfg) is None or not (search / JOURNAL).exists():
        return []
    return [
        Pruning(
            folder=search,
            trial=int(cfg.sweep.trial),
            metric=str(cfg.sweep.metric),
            pruner=cfg.sweep.pruner,
            startup_trials=int(cfg.sweep.startup_trials),
            warmup_epochs=int(cfg.sweep.warmup_epochs),
            epoch_log=log,
        )
    ]
