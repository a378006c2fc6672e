"""A search on the screen: what starts, how it ended, the best ones."""

from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from medvision.console import say
from medvision.run.search.settings import Settings
from medvision.search.definition import Definition
from medvision.search.space import Value
from medvision.search.study import Trial, best_of

MOST_ROWS = 15
MARKS = {"complete": "", "pruned": "pruned", "failed": "failed", "running": "not ended"}
MOST_ERROR = 60  # characters of an error in the table; the file has all of it


def trial_line(trial: Trial, num_trials: int) -> str:
    """What is about to start."""
    given = " ".join(f"{name}={shown(value)}" for name, value in trial.values.items())
    return f"trial {trial.number + 1} of {num_trials}, number {trial.number}: {given}"


def ending_line(trial: Trial, trials: Sequence[Trial], definition: Definition) -> str:
    """How it ended."""
    best = best_of(list(trials), definition.mode)
    known = "" if best is None else f"; best is trial {best.number} with {best.value:.4f}"
    if trial.state == "failed":
        return f"trial {trial.number} failed: {trial.error}{known}"
    if trial.state == "running":
        return f"trial {trial.number} was stopped, and goes on"
    value = "undefined" if trial.value is None else f"{trial.value:.4f}"
    how = f" pruned after {trial.epochs} epochs:" if trial.state == "pruned" else ""
    return f"trial {trial.number}{how} {definition.metric} {value}{known}"


def print_end(
    settings: Settings,
    trials: Sequence[Trial],
    experiment: Path | None,
    *,
    console: Console | None = None,
) -> None:
    """Print the best trials, how to train the best one again, and where the search lies.

    Args:
        settings: Of the search.
        trials: All of them.
        experiment: The file with the best config; None where there is none.
        console: Where to; the screen unless given.
    """
    console = console or Console()
    definition = settings.definition
    console.print(_table(settings, trials))
    if experiment is not None:
        say(
            "validation values of a search are optimistic: each best is picked from many;"
            " the test split was not touched",
            console=console,
        )
        say(
            f"train the best one, and test it: python train.py --config-dir {settings.folder}"
            f" experiment={experiment.stem}",
            console=console,
        )
    best = best_of(list(trials), definition.mode)
    if best is not None:
        run = settings.folder / str(best.number)
        say(f"or test its weights as they are: medvision evaluate {run}", console=console)
    say(f"{settings.folder / 'sweep.html'}", console=console)
    say(str(settings.folder), console=console)


def ranked(trials: Sequence[Trial], mode: str) -> list[Trial]:
    """Complete trials from the best on, then pruned, failed and running ones."""
    order = ("complete", "pruned", "failed", "running")
    sign = -1 if mode == "max" else 1

    def rank(trial: Trial) -> tuple[int, float, int]:
        value = float("inf") if trial.value is None else sign * trial.value
        return order.index(trial.state), value, trial.number

    return sorted(trials, key=rank)


def shown(value: Value) -> str:
    """A value with as many digits as tell it apart."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _table(settings: Settings, trials: Sequence[Trial]) -> Table:
    definition = settings.definition
    counts = {state: sum(trial.state == state for trial in trials) for state in MARKS}
    words = [f"{counts[state]} {state}" for state in ("complete", "pruned", "failed")]
    table = Table(
        title=Text(f"{settings.name}: {', '.join(words)}; {definition.metric}, {definition.mode}"),
        box=box.MINIMAL,
        show_edge=False,
        padding=(0, 1, 0, 0),
    )
    table.add_column("trial", justify="right")
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("epochs", justify="right", no_wrap=True)
    for key in definition.keys:
        table.add_column(Text(key.name.replace(".", ".\n")), justify="right", overflow="fold")
    has_marks = any(trial.state != "complete" for trial in trials)
    if has_marks:
        table.add_column("")
    rows = ranked(trials, definition.mode)
    for trial in rows[:MOST_ROWS]:
        mark = MARKS[trial.state]
        if trial.error:
            cut = trial.error[:MOST_ERROR] + "..." * (len(trial.error) > MOST_ERROR)
            mark = f"{mark}: {cut}"
        table.add_row(
            str(trial.number),
            "-" if trial.value is None else f"{trial.value:.4f}",
            "-" if trial.epochs is None else str(trial.epochs),
            *(Text(shown(trial.values[key.name])) for key in definition.keys),
            *([Text(mark)] if has_marks else []),
        )
    if len(rows) > MOST_ROWS:
        table.caption = f"{len(rows) - MOST_ROWS} more in trials.csv"
    return table
