"""Seal the test split while hyper-parameters are being chosen."""

import pkgutil
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from medvision.errors import MedvisionError
from medvision.run.storage.test_ledger import ELSEWHERE

OPEN = ("seed", "experiment", "data", "data.root", "data.protocol", "data.fold")
"""Keys that a command may vary without sealing: they tune nothing by themselves."""

MAY_DIFFER = ("data.name", "data.protocol", "data.fold", "checkpoint.every_minutes")
"""Resolved keys in which runs may differ besides seeds and ``ELSEWHERE``: they tune nothing."""

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


def differing(configs: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Keys in which the runs of a command differ as a search does; empty if it may test.

    Resolved configs are compared, whatever varies them: two experiment files that differ in
    ``optimizer.lr`` are a search for the learning rate. Runs with different networks are methods
    that are compared, and runs on different data answer different questions: neither is a search.
    Seeds, the split of the data, and keys of the machine (``ELSEWHERE``) may differ.

    Args:
        configs: Resolved config of each run, plain values.
    """
    distinct: list[tuple[Mapping[str, Any], dict[str, Any]]] = []
    for config in configs:
        leaves = _leaves(config)
        if all(leaves != others for _, others in distinct):
            distinct.append((config, leaves))
    found: dict[str, None] = {}
    for (one, first), (other, second) in combinations(distinct, 2):
        if _question(one) == _question(other):
            keys = sorted(first.keys() | second.keys())
            found |= dict.fromkeys(key for key in keys if first.get(key) != second.get(key))
    return tuple(found)


def _question(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Data and network of a run: only runs that agree in both can be a search."""
    data, model = (config.get(part) or {} for part in ("data", "model"))
    root = data.get("root")
    phantoms = f"{data.get('_target_')} {data.get('name')}"
    place = phantoms if root is None else Path(str(root)).expanduser().resolve()
    names = [str(model.get(key)) for key in ("name", "architecture", "encoder")]
    return str(place), _class_of(str(model.get("_target_"))), *names


def _class_of(target: str) -> str:
    """Name of a class where it is defined, whatever path it was imported by."""
    try:
        found = pkgutil.resolve_name(target)
    except (ImportError, AttributeError, ValueError):  # the run that names it ends with this error
        return target
    return f"{getattr(found, '__module__', '')}.{getattr(found, '__qualname__', target)}"


def _leaves(config: Mapping[str, Any]) -> dict[str, Any]:
    """Values of a config by dotted key, without those that a command may vary."""
    seed, found = config.get("seed"), dict[str, Any]()

    def visit(node: Any, path: str) -> None:
        if isinstance(node, Mapping) and node:
            left_out = ELSEWHERE.get(path, ())
            for key, value in node.items():
                if key not in left_out:
                    visit(value, f"{path}.{key}".lstrip("."))
        elif path not in MAY_DIFFER and not (path.rpartition(".")[2] == "seed" and node == seed):
            found[path] = node

    visit(config, "")
    return found


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
