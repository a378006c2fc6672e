"""Seal the test split while hyper-parameters are being chosen."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from medvision.errors import MedvisionError

OPEN = ("seed", "experiment", "data", "data.root", "data.protocol", "data.fold")
"""Keys that a command may vary without sealing: they tune nothing."""

SEARCH = "sweep"
"""Config group of searches, which seals whatever its values are."""

NONE = "none"
"""Option of that group without a search."""


def sealed(overrides: Sequence[str]) -> tuple[str, ...]:
    """Keys with which a command chooses hyper-parameters; empty if it may test.

    A key varies if its override requests several runs: ``a,b``, ``choice()``, ``range()``,
    ``glob()``, ``interval()``. Varying any key not in ``OPEN`` seals every run of the command, and
    so does a ``sweep``. ``data`` may vary by name only: ``data={...},{...}`` changes the keys
    below it.

    Args:
        overrides: Overrides of the whole command, as Hydra reads them.

    Raises:
        OverrideParseException: If an override cannot be parsed.
    """
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    return tuple(dict.fromkeys(override.key_or_group for override in parsed if _chooses(override)))


def searches(overrides: Iterable[str]) -> bool:
    """Return True if a command requests a search, which takes several runs.

    Args:
        overrides: Overrides of the whole command, as given.
    """
    return any(o.startswith(f"{SEARCH}=") and o != f"{SEARCH}={NONE}" for o in overrides)


def trial_of(cfg: DictConfig) -> int | None:
    """Trial number of a config; None if it does not belong to a trial."""
    number = OmegaConf.select(cfg, f"{SEARCH}.trial")
    return None if number is None else int(number)


def is_trial(cfg: DictConfig) -> bool:
    """Return True if a config belongs to a trial.

    Raises:
        MedvisionError: If it requests a search, but is run alone.
    """
    if trial_of(cfg) is None and OmegaConf.select(cfg, f"{SEARCH}.sampler") is not None:
        raise MedvisionError("the experiment defines a search", where="sweep", hint="add -m")
    return trial_of(cfg) is not None


def start_line(keys: Sequence[str]) -> str:
    """Line printed by a sealed command before its first run.

    Args:
        keys: From `sealed`, not empty.
    """
    return (
        f"test split sealed: this command {_does(keys)}, so hyper-parameters are selected;"
        " compare the runs on validation, then test the chosen one: medvision evaluate RUN"
    )


def sealed_note(keys: Sequence[str], run: Path) -> str:
    """Note in the summary of a sealed run.

    Args:
        keys: From `sealed`, not empty.
        run: Run folder.
    """
    return (
        f"the test split is sealed, because the command {_does(keys)}; to test this run, if it is"
        f" the chosen one: medvision evaluate {run}"
    )


def _chooses(override: Override) -> bool:
    if override.key_or_group.partition(".")[0] == SEARCH:
        return not override.is_delete() and override.value() != NONE
    if not override.is_sweep_override():
        return False
    values = getattr(override.value(), "list", None) or []
    nested = any(isinstance(value, dict | list) for value in values)
    return nested or override.package is not None or override.key_or_group not in OPEN


def _does(keys: Sequence[str]) -> str:
    if keys[0].partition(".")[0] == SEARCH:
        return "is a search"
    return f"varies {', '.join(keys)}"
