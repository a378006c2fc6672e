"""The page of a search: what was searched, what was found, in one self-contained file."""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from medvision.reports.page import Picture, png_picture, render
from medvision.reports.style import STYLE, save
from medvision.reports.sweep_plots import (
    MOST_KEYS,
    draw_history,
    draw_importance,
    draw_parallel,
    draw_slices,
)
from medvision.reports.sweep_tables import (
    best_of,
    best_table,
    errors,
    key_table,
    number,
    saved,
    score,
    setting_table,
    tiles,
    trial_table,
)


def sweep_page(search: Mapping[str, Any]) -> str:
    """The page as HTML.

    Args:
        search: Plain values: ``name``, ``folder``, what the search is defined by (``experiment``,
            ``fixed``, ``metric``, ``mode``, ``sampler``, ``seed``, ``pruner``, ``startup_trials``,
            ``warmup_epochs``), ``num_trials``, ``keys`` (``name``, ``kind``, ``described``, and
            ``low``, ``high``, ``log`` or ``options``), ``trials`` (``number``, ``state``,
            ``values``, ``value``, ``epochs``, ``max_epochs``, ``seconds``, ``best_epoch``,
            ``error``), ``best`` (a number), ``command``, ``importance`` (``method``, ``shares``,
            ``num_trials``, ``reason``) and ``notes``.
    """
    return render(
        "sweep.html.j2",
        name=search["name"],
        headline=_headline(search),
        notes=search["notes"],
        tiles=tiles(search),
        best=best_table(search),
        command=search["command"],
        run=None if search["best"] is None else f"{search['folder']}/{search['best']}",
        keys=key_table(search),
        settings=setting_table(search),
        trials=trial_table(search),
        errors=errors(search),
        saved=_saved(search),
        importance=search["importance"],
        hidden_keys=max(0, len(search["keys"]) - MOST_KEYS),
        **_pictures(search),
    )


def _headline(search: Mapping[str, Any]) -> str:
    """One sentence: what was found."""
    best = best_of(search)
    ended = sum(trial["state"] != "running" for trial in search["trials"])
    if best is None:
        return f"None of the {ended} trials came to its end."
    values = ", ".join(f"{name} {number(value)}" for name, value in best["values"].items())
    return (
        f"Best {search['metric']} {score(best['value'])} of {ended} trials of"
        f" {search['experiment']}: {values}."
    )


def _saved(search: Mapping[str, Any]) -> str:
    """What pruning saved, in a sentence; empty where nothing was pruned."""
    left, total = saved(search["trials"])
    pruned = sum(trial["state"] == "pruned" for trial in search["trials"])
    if not pruned:
        return ""
    return (
        f"Pruning ended {pruned} trial{'s' * (pruned > 1)} early and saved {left} of {total} epochs"
        f" ({left / total:.0%})."
    )


def _pictures(search: Mapping[str, Any]) -> dict[str, Picture | None]:
    metric, mode, trials = search["metric"], search["mode"], search["trials"]
    shares = search["importance"]["shares"]
    with mpl.rc_context(STYLE):
        return {
            "history": _picture(
                draw_history(trials, metric=metric, mode=mode),
                f"{metric} of every trial in their order, and the best so far",
            ),
            "bars": _picture(
                draw_importance(shares) if shares else None,
                f"Share of each key in the variance of {metric}",
            ),
            "parallel": _picture(
                draw_parallel(trials, search["keys"], metric=metric, mode=mode),
                f"An axis for each key and one for {metric}, a line for each trial",
            ),
            "slices": _picture(
                draw_slices(trials, search["keys"], metric=metric),
                f"{metric} against each key, a dot for each complete trial",
            ),
        }


def _picture(figure: Figure | None, alt: str) -> Picture | None:
    if figure is None:
        return None
    with TemporaryDirectory() as folder:
        save(figure, Path(folder) / "picture.png")
        return png_picture(Path(folder) / "picture.png", alt=alt)
