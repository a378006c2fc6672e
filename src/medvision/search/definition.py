"""Definition and name of a search."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from medvision.errors import MedvisionError
from medvision.search.space import Key

Mode = Literal["max", "min"]
DIRECTIONS: Mapping[Mode, Literal["maximize", "minimize"]] = {"max": "maximize", "min": "minimize"}
"""Optuna's name of each direction."""

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
HASH_LENGTH = 6
SETTINGS = {
    "experiment": "experiment",
    "metric": "sweep.metric",
    "mode": "sweep.mode",
    "sampler": "sweep.sampler",
    "seed": "sweep.seed",
    "pruner": "sweep.pruner",
    "startup_trials": "sweep.startup_trials",
    "warmup_epochs": "sweep.warmup_epochs",
}
"""Single-value parts of a definition, with the key that sets each."""


@dataclass(frozen=True, kw_only=True)
class Definition:
    """Settings that must be equal for two commands to run the same search.

    Attributes:
        experiment: Name of the experiment.
        keys: Varied keys.
        fixed: The other overrides, which apply to all trials, by key.
        metric: Validation metric to optimise.
        mode: ``max`` to maximise the metric, ``min`` to minimise it.
        sampler: ``tpe``, ``random`` or ``grid``.
        seed: Seed of the sampler.
        pruner: ``median`` or ``none``.
        startup_trials: Trials that must be complete before any is pruned.
        warmup_epochs: Epochs of each trial before it can be pruned.
    """

    experiment: str
    keys: tuple[Key, ...]
    fixed: Mapping[str, str]
    metric: str
    mode: Mode
    sampler: str
    seed: int
    pruner: str
    startup_trials: int
    warmup_epochs: int

    def plain(self) -> dict[str, Any]:
        """Plain values, as stored with the search."""
        return {
            **{name: getattr(self, name) for name in SETTINGS},
            "searched": {key.given: key.values.plain() for key in self.keys},
            "fixed": dict(sorted(self.fixed.items())),
        }

    def hash(self) -> str:
        """Short hash of the definition, which names a search without a given name."""
        text = json.dumps(self.plain(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:HASH_LENGTH]

    def differences(self, stored: Mapping[str, Any]) -> list[str]:
        """Differences between this command and the stored search, in words."""
        own = self.plain()
        changed = [
            f"{key} was {stored.get(name)} and is now {own[name]}"
            for name, key in SETTINGS.items()
            if own[name] != stored.get(name)
        ]
        return [
            *changed,
            *_changed(stored.get("searched", {}), own["searched"], "searched"),
            *_changed(stored.get("fixed", {}), own["fixed"], "given"),
        ]


def check_name(name: str) -> None:
    """Check that a name is valid for a folder and for an experiment.

    Raises:
        MedvisionError: If it contains other characters.
    """
    if not NAME.fullmatch(name):
        raise MedvisionError(
            f"{name!r} is not a valid name of a search",
            where="sweep.name",
            hint="use letters, digits, _, - and dots",
        )


def _changed(old: Mapping[str, Any], new: Mapping[str, Any], verb: str) -> Sequence[str]:
    """Differences between two mappings of keys, in words."""
    words = [f"{key} is now {verb}" for key in new if key not in old]
    words += [f"{key} is no longer {verb}" for key in old if key not in new]
    return words + [
        f"{key} was {_short(old[key])} and is now {_short(new[key])}"
        for key in new
        if key in old and old[key] != new[key]
    ]


def _short(value: Any) -> str:
    if not isinstance(value, Mapping):
        return str(value)
    if "options" in value:
        return ",".join(value["options"])
    step = f" by {value['step']:g}" if "step" in value else ""
    log = ", log" if value.get("log") else ""
    whole = ", whole" if value.get("kind") == "int" else ""
    return f"{value['low']:g} to {value['high']:g}{step}{whole}{log}"
