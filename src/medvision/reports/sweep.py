"""Page of a search: search space, trials and best values in one self-contained file."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from medvision.reports.page import Picture, counted, render
from medvision.reports.plots.style import STYLE, figure_picture
from medvision.reports.plots.sweep import (
    MOST_KEYS,
    draw_history,
    draw_importance,
    draw_parallel,
    draw_slices,
)
from medvision.scores import UNDEFINED, is_number

Trial = Mapping[str, Any]

WORDS = {"complete": "complete", "pruned": "pruned", "failed": "failed", "running": "not finished"}


def number(value: Any) -> str:
    """Format a value of a key with enough digits to distinguish it."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def score(value: float | None) -> str:
    """Format with four decimals, or as ``undefined``."""
    return f"{value:.4f}" if is_number(value) else UNDEFINED


def seconds(value: float | None) -> str:
    """Format a time in minutes and seconds, or as ``undefined``."""
    if not is_number(value):
        return UNDEFINED
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest} s" if minutes else f"{value:.1f} s"


def breaking(name: str) -> str:
    """Allow line breaks in a name after dots and underscores."""
    return name.replace(".", ".\u200b").replace("_", "_\u200b")


def saved(trials: Sequence[Trial]) -> tuple[int, int]:
    """Count the epochs saved by pruning, and the epochs without pruning."""
    known = [t for t in trials if t["max_epochs"] is not None and t["state"] != "running"]
    pruned = [t for t in known if t["state"] == "pruned"]
    left = sum(t["max_epochs"] - (t["epochs"] or 0) for t in pruned)
    return left, left + sum(t["epochs"] or 0 for t in known)


def sweep_page(search: Mapping[str, Any]) -> str:
    """Render the page as HTML.

    Args:
        search: Plain values: ``name``, ``folder``, the definition of the search (``experiment``,
            ``fixed``, ``metric``, ``mode``, ``sampler``, ``seed``, ``pruner``, ``startup_trials``,
            ``warmup_epochs``), ``num_trials``, ``keys`` (``name``, ``kind``, ``described``, and
            ``low``, ``high``, ``log`` or ``options``), ``trials`` (``number``, ``state``,
            ``values``, ``value``, ``epochs``, ``max_epochs``, ``seconds``, ``best_epoch``,
            ``error``), ``best`` (a number), ``command``, ``importance`` (``method``, ``shares``,
            ``num_trials``, ``reason``) and ``notes``.
    """
    trials, keys, best = search["trials"], search["keys"], search["best"]
    best_trial = next((trial for trial in trials if trial["number"] == best), None)
    counts = {state: sum(trial["state"] == state for trial in trials) for state in WORDS}
    epochs_saved, epochs_planned = saved(trials)
    return render(
        "sweep.html.j2",
        search=search,
        best=best_trial,
        best_facts=None if best_trial is None else _best_facts(best_trial),
        trials=sorted(trials, key=lambda trial: _rank(trial, search["mode"])),
        failed=[trial for trial in trials if trial["state"] == "failed"],
        ended=len(trials) - counts["running"],
        counts=counts,
        words=WORDS,
        fit_s=sum(trial["seconds"] or 0.0 for trial in trials),
        epochs_saved=epochs_saved,
        epochs_planned=epochs_planned,
        share_saved=f"{epochs_saved / epochs_planned:.0%}" if epochs_planned else "",
        names=[breaking(key["name"]) for key in keys],
        fixed={
            "experiment": search["experiment"],
            **search["fixed"],
            "metric": f"{search['metric']}, {search['mode']}",
            "sampler": f"{search['sampler']}, seed {search['seed']}",
            "pruner": _pruner(search),
            "requested trials": search["num_trials"],
        },
        hidden_keys=max(0, len(keys) - MOST_KEYS),
        number=number,
        score=score,
        seconds=seconds,
        **_pictures(search),
    )


def _best_facts(best: Trial) -> dict[str, str]:
    """Collect the values of the best trial."""
    facts = {name: number(value) for name, value in best["values"].items()}
    if best["best_epoch"] is not None:
        facts["best epoch"] = f"{best['best_epoch'] + 1} of {best['epochs']}"
    return facts


def _rank(trial: Trial, mode: str) -> tuple[int, float, int]:
    """Sort key of a trial: complete ones first, the best of them leading."""
    value = trial["value"]
    worth = (-value if mode == "max" else value) if is_number(value) else float("inf")
    return list(WORDS).index(trial["state"]), worth, trial["number"]


def _pruner(search: Mapping[str, Any]) -> str:
    if search["pruner"] == "none":
        return "none"
    return (
        f"{search['pruner']}, after {counted(search['startup_trials'], 'complete trial')} and"
        f" {counted(search['warmup_epochs'], 'epoch')}"
    )


def _pictures(search: Mapping[str, Any]) -> dict[str, Picture | None]:
    metric, mode, trials, keys = (search[name] for name in ("metric", "mode", "trials", "keys"))
    shares = search["importance"]["shares"]
    with mpl.rc_context(STYLE):
        drawn: dict[str, tuple[Figure | None, str]] = {
            "history": (
                draw_history(trials, metric=metric, mode=mode),
                f"{metric} of every trial in order, and the best so far",
            ),
            "bars": (
                draw_importance(shares) if shares else None,
                f"Share of each key in the variance of {metric}",
            ),
            "parallel": (
                draw_parallel(trials, keys, metric=metric, mode=mode),
                f"An axis for each key and one for {metric}, a line for each trial",
            ),
            "slices": (
                draw_slices(trials, keys, metric=metric),
                f"{metric} against each key, a dot for each complete trial",
            ),
        }
        return {
            name: None if figure is None else figure_picture(figure, alt=alt)
            for name, (figure, alt) in drawn.items()
        }
