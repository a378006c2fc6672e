"""Page of a search: search space, trials and best values in one self-contained file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from medvision.reports.page import Picture, Row, Table, png_picture, render, whole
from medvision.reports.plots.style import STYLE, save
from medvision.reports.plots.sweep import (
    MOST_KEYS,
    draw_history,
    draw_importance,
    draw_parallel,
    draw_slices,
)
from medvision.scores import UNDEFINED, is_number

Trial = Mapping[str, Any]

WORDS = {"complete": "complete", "pruned": "pruned", "failed": "failed", "running": "not ended"}


def number(value: Any) -> str:
    """A value of a key with as many digits as tell it apart."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def score(value: float | None) -> str:
    """Four decimals, or ``undefined``."""
    return f"{value:.4f}" if is_number(value) else UNDEFINED


def seconds(value: float | None) -> str:
    """A time as minutes and seconds, or ``undefined``."""
    if not is_number(value):
        return UNDEFINED
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest} s" if minutes else f"{value:.1f} s"


def breaking(name: str) -> str:
    """A name that may break after a dot or an underscore."""
    return name.replace(".", ".\u200b").replace("_", "_\u200b")


def best_of(search: Mapping[str, Any]) -> Trial | None:
    """The best trial; None where none is complete."""
    best = search["best"]
    return None if best is None else next(t for t in search["trials"] if t["number"] == best)


def saved(trials: Sequence[Trial]) -> tuple[int, int]:
    """Epochs that pruning saved, and how many there would have been without it."""
    known = [t for t in trials if t["max_epochs"] is not None and t["state"] != "running"]
    pruned = [t for t in known if t["state"] == "pruned"]
    left = sum(t["max_epochs"] - (t["epochs"] or 0) for t in pruned)
    return left, left + sum(t["epochs"] or 0 for t in known)


def tiles(search: Mapping[str, Any]) -> list[dict[str, str]]:
    """Numbers at the top of the page."""
    trials, best = search["trials"], best_of(search)
    counts = {state: sum(t["state"] == state for t in trials) for state in WORDS}
    left, total = saved(trials)
    time = sum(t["seconds"] or 0.0 for t in trials)
    found = [
        {
            "name": f"best {search['metric']}",
            "value": score(None if best is None else best["value"]),
            "about": "no trial is complete" if best is None else f"trial {best['number']}",
        },
        {
            "name": "trials",
            "value": str(len(trials) - counts["running"]),
            "about": ", ".join(f"{counts[s]} {WORDS[s]}" for s in WORDS if counts[s]),
        },
        {"name": "time in fits", "value": seconds(time), "about": "without evaluation"},
    ]
    if counts["pruned"]:
        about = f"{whole(left)} of {whole(total)} epochs"
        found.append({"name": "saved by pruning", "value": f"{left / total:.0%}", "about": about})
    return found


def best_table(search: Mapping[str, Any]) -> Table | None:
    """What the best trial was given."""
    best = best_of(search)
    if best is None:
        return None
    rows = [Row(name=name, cells=[number(value)]) for name, value in best["values"].items()]
    epoch = best["best_epoch"]
    if epoch is not None:
        rows.append(Row(name="best epoch", cells=[f"{epoch + 1} of {best['epochs']}"]))
    return Table(caption="The best trial", head=[], rows=rows)


def key_table(search: Mapping[str, Any]) -> Table:
    """What was searched."""
    shares = search["importance"]["shares"]
    rows = [
        Row(
            name=key["name"],
            cells=[key["described"], f"{shares[key['name']]:.2f}" if shares else "-"],
        )
        for key in search["keys"]
    ]
    return Table(caption="Keys that were searched", head=["key", "values", "importance"], rows=rows)


def setting_table(search: Mapping[str, Any]) -> Table:
    """What held for all trials."""
    rows = [
        Row(name="experiment", cells=[search["experiment"]]),
        *(Row(name=name, cells=[value]) for name, value in search["fixed"].items()),
        Row(name="metric", cells=[f"{search['metric']}, {search['mode']}"]),
        Row(name="sampler", cells=[f"{search['sampler']}, seed {search['seed']}"]),
        Row(name="pruner", cells=[_pruner(search)]),
        Row(name="trials asked for", cells=[str(search["num_trials"])]),
    ]
    return Table(caption="What held for all trials", head=[], rows=rows)


def trial_table(search: Mapping[str, Any]) -> Table:
    """Every trial, the best first."""
    sign = -1 if search["mode"] == "max" else 1
    order = list(WORDS)

    def rank(trial: Trial) -> tuple[int, float, int]:
        value = trial["value"]
        worth = sign * value if is_number(value) else float("inf")
        return order.index(trial["state"]), worth, trial["number"]

    names = [key["name"] for key in search["keys"]]
    rows = [
        Row(
            name=str(trial["number"]),
            cells=[
                WORDS[trial["state"]],
                score(trial["value"]) if trial["value"] is not None else "-",
                "-" if trial["epochs"] is None else str(trial["epochs"]),
                seconds(trial["seconds"]) if trial["seconds"] is not None else "-",
                *(number(trial["values"][name]) for name in names),
            ],
            strong=trial["number"] == search["best"],
        )
        for trial in sorted(search["trials"], key=rank)
    ]
    head = ["trial", "state", search["metric"], "epochs", "fit", *map(breaking, names)]
    return Table(
        caption="Trials, the best first",
        head=head,
        rows=rows,
        note="The value of a complete trial is that of the epoch in best.ckpt; of a pruned one, the"
        " best it had until then.",
    )


def errors(search: Mapping[str, Any]) -> list[str]:
    """Why trials failed."""
    failed = [trial for trial in search["trials"] if trial["state"] == "failed"]
    return [f"trial {trial['number']}: {trial['error']}" for trial in failed]


def _pruner(search: Mapping[str, Any]) -> str:
    if search["pruner"] == "none":
        return "none"
    return (
        f"{search['pruner']}, after {search['startup_trials']} complete trials and"
        f" {search['warmup_epochs']} epochs"
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
