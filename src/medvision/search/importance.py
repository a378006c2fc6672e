"""Which keys of a search the metric depends on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from medvision.search.definition import DIRECTIONS

if TYPE_CHECKING:
    from medvision.search.study import Study


METHOD = "fANOVA"
FEWEST = 4
"""Complete trials, below which a share of the variance says nothing."""
SEED = 0


@dataclass(frozen=True, kw_only=True)
class Importance:
    """Shares of the variance of the metric, or why there are none.

    Attributes:
        shares: By name of the key, the largest first; they add up to 1.
        num_trials: Complete trials they are made from.
        reason: Why there are none, in words; empty where there are.
    """

    shares: Mapping[str, float]
    num_trials: int
    reason: str = ""


def importance_of(study: Study) -> Importance:
    """Share of each key in the variance of the metric over the complete trials.

    fANOVA: a random forest is fitted to values and metric, and the variance of what it predicts
    over the whole range is split among the keys. Pruned and failed trials do not count.

    References:
        Hutter, Hoos, Leyton-Brown, An Efficient Approach for Assessing Hyperparameter Importance,
        ICML 2014, http://proceedings.mlr.press/v32/hutter14.html
    """
    import optuna
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    complete = [
        trial
        for trial in study.frozen()
        if trial.state == optuna.trial.TrialState.COMPLETE and trial.value is not None
    ]
    count = len(complete)
    varied = {name for trial in complete for name, d in trial.distributions.items()}
    if count < FEWEST:
        reason = f"{count} of the trials came to their end, and it takes {FEWEST}"
        return Importance(shares={}, num_trials=count, reason=reason)
    if len({trial.value for trial in complete}) == 1:
        return Importance(shares={}, num_trials=count, reason="all trials have the same value")
    if all(d.single() for trial in complete for d in trial.distributions.values()):
        return Importance(shares={}, num_trials=count, reason="no key has more than one value")
    copy = optuna.create_study(
        direction=DIRECTIONS[study.mode],
    )
    copy.add_trials(complete)
    found = get_param_importances(copy, evaluator=FanovaImportanceEvaluator(seed=SEED))
    shares = {name: float(share) for name, share in found.items()}
    shares |= dict.fromkeys(sorted(varied - shares.keys()), 0.0)
    return Importance(shares=shares, num_trials=count)
