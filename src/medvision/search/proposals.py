"""Values for the next trial: a function of the seed, its number and the earlier trials."""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from medvision.search.definition import DIRECTIONS, Definition
from medvision.search.space import Key, Value, distributions, grid

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial


ATTEMPTS = 32
"""Number of draws to avoid a proposal that was tried before."""


def propose(definition: Definition, history: Sequence[FrozenTrial]) -> Mapping[str, Value] | None:
    """Propose values for the next trial.

    A new sampler is seeded for each trial, so that a resumed search proposes what it would have
    proposed without a stop. Values of an earlier trial are not proposed again: a run with the same
    seed would only repeat it. A failed trial counts as pruned at once, so that the sampler avoids
    regions in which runs fail.

    Args:
        definition: Definition of the search.
        history: All trials so far, by number; running trials count as tried.

    Returns:
        Values by name of the key; None if all possible values have been tried.

    Raises:
        MedvisionError: If the sampler is ``grid`` and the values of a key are not countable.
    """
    number = len(history)
    if definition.sampler == "grid":
        points = grid(definition.keys)
        return points[number] if number < len(points) else None
    tried = [dict(trial.params) for trial in history]
    for attempt in range(ATTEMPTS):
        values = _draw(definition, history, seed=_seed(definition.seed, number, attempt))
        if values not in tried:
            return values
    if not is_countable(definition.keys):
        return values
    return next((point for point in grid(definition.keys) if point not in tried), None)


def is_countable(keys: Sequence[Key]) -> bool:
    """Return True if all combinations are countable and few enough to list."""
    points = [key.values.points() for key in keys]
    return None not in points and math.prod(len(p) for p in points if p) <= 10_000


def _draw(definition: Definition, history: Sequence[FrozenTrial], *, seed: int) -> dict[str, Value]:
    import optuna

    # A separate study in memory: the journal gets a trial with all of its values, or none.
    study = optuna.create_study(
        direction=DIRECTIONS[definition.mode],
        sampler=_sampler(definition.sampler, seed),
    )
    study.add_trials([_as_seen(trial) for trial in history])
    drawn = study.ask(distributions(definition.keys)).params
    return {key.name: key.values.nearest(drawn[key.name]) for key in definition.keys}


def _as_seen(trial: FrozenTrial) -> FrozenTrial:
    from optuna.trial import TrialState, create_trial

    if trial.state != TrialState.FAIL:
        return trial
    return create_trial(
        state=TrialState.PRUNED, params=trial.params, distributions=trial.distributions
    )


def _sampler(name: str, seed: int) -> BaseSampler:
    import optuna

    if name == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    with warnings.catch_warnings():
        # experimental before optuna 5, where both become the default
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True)


def _seed(seed: int, number: int, attempt: int) -> int:
    digest = hashlib.sha256(f"{seed}:{number}:{attempt}".encode()).digest()
    return int.from_bytes(digest[:4])
