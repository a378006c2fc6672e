"""Where hyper-parameters are being chosen, the test split stays shut."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from medvision.errors import MedvisionError

OPEN = ("seed", "experiment", "data", "data.root", "data.protocol", "data.fold")
"""Keys that a command may vary and test all the same: nothing is tuned by them."""

SEARCH = "sweep"
"""The group that searches whatever its values are."""

NONE = "none"
"""Its option that does not."""


def sealed(overrides: Sequence[str]) -> tuple[str, ...]:
    """The keys by which a command chooses hyper-parameters; none where it may test.

    A key varies where its override asks for several runs: ``a,b``, ``choice()``, ``range()``,
    ``glob()``, ``interval()``. Varying any key but those of ``OPEN`` seals every run of the
    command, and so does a ``sweep``. ``data`` may vary by name only: ``data={...},{...}`` changes
    what is below it.

    Args:
        overrides: Of the whole command, as Hydra reads them.

    Raises:
        OverrideParseException: If one of them cannot be read.
    """
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    return tuple(dict.fromkeys(override.key_or_group for override in parsed if _chooses(override)))


def searches(overrides: Iterable[str]) -> bool:
    """Whether a command asks for a search, which takes several runs.

    Args:
        overrides: Of the whole command, as they were given.
    """
    return any(o.startswith(f"{SEARCH}=") and o != f"{SEARCH}={NONE}" for o in overrides)


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


def start_line(keys: Sequence[str]) -> str:
    """What a sealed command says before its first run.

    Args:
        keys: From `sealed`, not empty.
    """
    return (
        f"test split sealed: this command {_does(keys)}, so hyper-parameters are being chosen;"
        " compare the runs on validation, then test the one you choose: medvision evaluate RUN"
    )


def sealed_note(keys: Sequence[str], run: Path) -> str:
    """What the summary of a sealed run says.

    Args:
        keys: From `sealed`, not empty.
        run: Folder of the run.
    """
    return (
        f"the test split is sealed, because the command {_does(keys)}; if this is the run you"
        f" choose: medvision evaluate {run}"
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
