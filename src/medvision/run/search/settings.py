"""Settings of a search from the group ``sweep`` and its overrides."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from omegaconf import DictConfig, OmegaConf

from medvision.errors import MedvisionError
from medvision.run.config import schema as check
from medvision.run.config.store import run_name
from medvision.run.storage.test_seal import SEARCH
from medvision.scores import mode_of, score_named
from medvision.search.definition import Definition, Mode, check_name
from medvision.search.space import Key, Numbers, Options

NOT_SEARCHED = (SEARCH, "run_dir", "resume", "experiment")
"""Keys that define no trial: those of the search, and the locations and names of runs."""

SET_FOR_TRIALS = tuple(f"{SEARCH}.{key}" for key in ("name", "metric", "mode", "trial"))
"""Keys that the search sets for each trial."""


def read_overrides(
    arguments: Sequence[str], loader: ConfigLoader
) -> tuple[tuple[Key, ...], tuple[Override, ...], tuple[str, ...]]:
    """Sort the overrides of a search.

    Args:
        arguments: All overrides, as Hydra reads them.
        loader: Hydra's loader, which lists the options of config groups.

    Returns:
        Varied keys, fixed overrides, and overrides of the search itself, as in `Settings`; the last
        override of each key counts.

    Raises:
        MedvisionError: If no key varies, or one that cannot be searched.
        OverrideParseException: If an override cannot be parsed.
    """
    parser = OverridesParser.create(config_loader=loader)
    last = {o.get_key_element().lstrip("+~"): o for o in parser.parse_overrides(list(arguments))}
    keys: list[Key] = []
    fixed: list[Override] = []
    own: list[str] = []
    for override in last.values():
        _check(override)
        if override.is_sweep_override():
            keys.append(_key(override))
        elif _top(override) != SEARCH:
            fixed.append(override)
        elif override.key_or_group not in SET_FOR_TRIALS:
            own.append(text_of(override))
    if not keys:
        raise MedvisionError(
            "no key has a range to search",
            where="command line",
            hint="give a key a range, such as 'optimizer.lr=tag(log,interval(1e-5,1e-2))'",
        )
    return tuple(keys), tuple(fixed), tuple(own)


def text_of(override: Override) -> str:
    """Override with one value, as on a command line."""
    if override.is_delete() and override.value_type is None:
        return override.get_key_element()
    return f"{override.get_key_element()}={override.get_value_element_as_str()}"


def _top(override: Override) -> str:
    return override.key_or_group.partition(".")[0]


def _check(override: Override) -> None:
    name = override.key_or_group
    if override.is_sweep_override():
        if _top(override) in NOT_SEARCHED:
            raise MedvisionError(f"{name} cannot be searched", where=name, hint="give it one value")
    elif name in ("run_dir", "resume", f"{SEARCH}.trial"):
        raise MedvisionError(
            "a search sets this itself",
            where=name,
            hint="leave it out; the same command continues a search",
        )


def _key(override: Override) -> Key:
    name = override.key_or_group
    if override.package is not None:
        name = f"{name}@{override.package}"
    try:
        values = _values(override)
    except ValueError as error:
        raise MedvisionError(
            str(error), where=str(override.input_line), hint="change the range"
        ) from error
    return Key(name=name, given=override.get_key_element(), values=values)


def _values(override: Override) -> Numbers | Options:
    sweep: Any = override.value()
    tags = set(getattr(sweep, "tags", ()))
    if isinstance(sweep, IntervalSweep):
        if tags - {"log"}:
            raise ValueError(f"expected the tag log, got {', '.join(sorted(tags - {'log'}))}")
        if sweep.start is None or sweep.end is None:
            raise ValueError("an interval needs two ends")
        whole = isinstance(sweep.start, int) and isinstance(sweep.end, int)
        return Numbers(low=sweep.start, high=sweep.end, whole=whole, log=bool(tags))
    if tags:
        raise ValueError(f"choices and ranges accept no tag, got {', '.join(sorted(tags))}")
    if isinstance(sweep, RangeSweep):
        return _range(sweep)
    options = tuple(override.sweep_string_iterator())
    if not options:
        raise ValueError("the choice is empty")
    return Options(options=options)


def _range(sweep: RangeSweep) -> Numbers:
    # as decimals: range(0.1,0.4,0.1) has three points, but four in floats
    start, stop, step = (Decimal(str(end)) for end in (sweep.start, sweep.stop, sweep.step))
    count = 0 if step == 0 else math.ceil((stop - start) / step)
    if count <= 0:
        raise ValueError("the range is empty")
    low, high = sorted((start, start + (count - 1) * step))
    if all(isinstance(end, int) for end in (sweep.start, sweep.stop, sweep.step)):
        return Numbers(low=int(low), high=int(high), whole=True, step=int(abs(step)))
    return Numbers(low=float(low), high=float(high), step=float(abs(step)))


ROOT = Path("runs", "sweep")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of one search.

    Attributes:
        definition: Everything that identifies the search.
        fixed: Overrides that apply to all trials, without those of the search itself.
        own: Overrides of the search, except its name and the trial number, as on a command line.
        name: Name of its folder.
        num_trials: Number of trials to run.
        jobs: Number of trials started at a time.
        launcher: Class path of Hydra's launcher.
    """

    definition: Definition
    fixed: tuple[Override, ...]
    own: tuple[str, ...]
    name: str
    num_trials: int
    jobs: int
    launcher: str

    @property
    def fixed_texts(self) -> list[str]:
        """Fixed overrides as on a command line."""
        return [text_of(override) for override in self.fixed]

    @property
    def folder(self) -> Path:
        """Folder of the search."""
        return ROOT / self.name


def read_settings(arguments: Sequence[str], config: DictConfig, loader: ConfigLoader) -> Settings:
    """Read the settings of a search from its command.

    Args:
        arguments: Every override.
        config: Config that Hydra composed from the overrides with one value.
        loader: Hydra's loader of config groups.

    Raises:
        MedvisionError: If a setting is invalid.
    """
    for part in ("sweep.", "checkpoint."):
        check.check_values(config, part=part)
    keys, fixed, own = read_overrides(arguments, loader)
    sweep: dict[str, Any] = dict(OmegaConf.to_container(config.sweep, resolve=True))  # type: ignore[arg-type]
    experiment = config.hydra.runtime.choices.get("experiment")
    if experiment is None or OmegaConf.is_missing(config.hydra.runtime.choices, "experiment"):
        raise MedvisionError(
            "no experiment is chosen", where="experiment", hint="add experiment=NAME"
        )
    metric, mode = _goal(sweep, config)
    definition = Definition(
        experiment=str(experiment),
        keys=keys,
        fixed={
            override.get_key_element(): text_of(override).partition("=")[2]
            for override in fixed
            if override.get_key_element() != "experiment"
        },
        metric=metric,
        mode=mode,
        sampler=sweep["sampler"],
        seed=sweep["seed"],
        pruner=sweep["pruner"],
        startup_trials=sweep["startup_trials"],
        warmup_epochs=sweep["warmup_epochs"],
    )
    root = OmegaConf.select(config, "data.root")
    drawn = f"{run_name(definition.experiment, root)}_{definition.hash()}"
    name = drawn if sweep["name"] is None else str(sweep["name"])
    check_name(name)
    launcher = str(config.hydra.launcher._target_)
    if sweep["jobs"] > 1 and launcher.endswith(".BasicLauncher"):
        raise MedvisionError(
            f"{sweep['jobs']} trials at a time need a launcher that starts them in parallel",
            where="sweep.jobs",
            hint="add hydra/launcher=joblib, or ray or submitit_slurm for several machines",
        )
    return Settings(
        definition=definition,
        fixed=fixed,
        own=own,
        name=name,
        num_trials=sweep["num_trials"],
        jobs=sweep["jobs"],
        launcher=launcher,
    )


def _goal(sweep: dict[str, Any], config: DictConfig) -> tuple[str, Mode]:
    """Metric and direction of the search."""
    metric, mode = sweep["metric"], sweep["mode"]
    if metric is None:
        metric, mode = config.checkpoint.monitor, mode or config.checkpoint.mode
    check.check_metric(str(metric), where="sweep.metric", may_not="compare trials")
    if mode is None and sweep["metric"] is not None and score_named(metric) is None:
        raise MedvisionError(
            f"no direction is set for {metric}",
            where="sweep.mode",
            hint="add sweep.mode=max or sweep.mode=min",
        )
    score = score_named(str(metric))
    if mode is not None and score is not None and mode != score.mode:
        raise MedvisionError(
            f"sweep.mode={mode} contradicts {metric}, of which"
            f" {'larger' if score.mode == 'max' else 'smaller'} values are better",
            where="sweep.mode",
            hint="leave it out",
        )
    return str(metric), mode or mode_of(str(metric))
