"""What a search is told by the group ``sweep``, checked."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from omegaconf import DictConfig, OmegaConf

from medvision.run import check
from medvision.run.messages import nearest
from medvision.run.search_keys import Given, read_overrides, text_of
from medvision.sweeps.definition import Definition, Mode, check_name
from medvision.sweeps.proposals import SAMPLERS
from medvision.types import MedvisionError

ROOT = Path("runs", "sweep")
PRUNERS = ("median", "none")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One search as a command asks for it.

    Attributes:
        definition: What makes it the search it is.
        given: Its overrides.
        name: Of its folder.
        num_trials: How many are to end.
        jobs: How many are started at a time.
        launcher: Hydra's name of the class that starts them.
    """

    definition: Definition
    given: Given
    name: str
    num_trials: int
    jobs: int
    launcher: str

    @property
    def folder(self) -> Path:
        """Where the search lies."""
        return ROOT / self.name


def read_settings(arguments: Sequence[str], config: DictConfig, loader: ConfigLoader) -> Settings:
    """Read a search from its command.

    Args:
        arguments: Every override.
        config: What Hydra made of those that have one value.
        loader: Knows the config groups.

    Raises:
        MedvisionError: If something cannot be.
    """
    given = read_overrides(arguments, loader)
    sweep: dict[str, Any] = dict(OmegaConf.to_container(config.sweep, resolve=True))  # type: ignore[arg-type]
    experiment = config.hydra.runtime.choices.get("experiment")
    if experiment is None or OmegaConf.is_missing(config.hydra.runtime.choices, "experiment"):
        raise MedvisionError(
            "no experiment is chosen", where="experiment", hint="add experiment=NAME"
        )
    metric, mode = _goal(sweep, config)
    definition = Definition(
        experiment=str(experiment),
        keys=given.keys,
        fixed=_by_key(given),
        metric=metric,
        mode=mode,
        sampler=_one_of(sweep, "sampler", SAMPLERS),
        seed=_count(sweep, "seed", low=0),
        pruner=_one_of(sweep, "pruner", PRUNERS),
        startup_trials=_count(sweep, "startup_trials", low=1),
        warmup_epochs=_count(sweep, "warmup_epochs", low=0),
    )
    name = definition.name() if sweep["name"] is None else str(sweep["name"])
    check_name(name)
    launcher = str(config.hydra.launcher._target_)
    return Settings(
        definition=definition,
        given=given,
        name=name,
        num_trials=_count(sweep, "num_trials", low=1),
        jobs=_jobs(sweep, launcher),
        launcher=launcher,
    )


def _goal(sweep: dict[str, Any], config: DictConfig) -> tuple[str, Mode]:
    """The metric and its good end."""
    mode = sweep["mode"]
    metric = str(config.checkpoint.monitor if sweep["metric"] is None else sweep["metric"])
    check.check_metric(metric, where="sweep.metric", may_not="decide anything")
    if mode is None and sweep["metric"] is not None:
        raise MedvisionError(
            f"whether {metric} is to be large or small is not said",
            where="sweep.mode",
            hint="add sweep.mode=max or sweep.mode=min",
        )
    mode = str(config.checkpoint.mode if mode is None else mode)
    if mode not in ("max", "min"):
        raise MedvisionError(
            f"expected max or min, got {mode}", where="sweep.mode", hint="change it"
        )
    return metric, "max" if mode == "max" else "min"


def _by_key(given: Given) -> dict[str, str]:
    """Fixed overrides as the definition keeps them, without the experiment."""
    return {
        override.get_key_element(): text_of(override).partition("=")[2]
        for override in given.fixed
        if override.get_key_element() != "experiment"
    }


def _one_of(sweep: dict[str, Any], key: str, choices: Sequence[str]) -> str:
    value = str(sweep[key])
    if value not in choices:
        raise MedvisionError(
            f"expected one of {', '.join(choices)}, got {value}",
            where=f"sweep.{key}",
            hint=nearest(value, list(choices)),
        )
    return value


def _count(sweep: dict[str, Any], key: str, *, low: int) -> int:
    value = sweep[key]
    if type(value) is not int or value < low:
        raise MedvisionError(
            f"expected an integer of at least {low}, got {value}",
            where=f"sweep.{key}",
            hint="change it",
        )
    return value


def _jobs(sweep: dict[str, Any], launcher: str) -> int:
    jobs = _count(sweep, "jobs", low=1)
    if jobs > 1 and launcher.endswith(".BasicLauncher"):
        raise MedvisionError(
            f"{jobs} trials at a time need a launcher that starts them in parallel",
            where="sweep.jobs",
            hint="add hydra/launcher=joblib, or ray or submitit_slurm for several machines",
        )
    return jobs
