"""Tables of several runs on the screen: mean and spread, each run, and the folds."""

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from medvision.console import counted, screen
from medvision.run.multirun.kfold import CrossValidation, FoldScore
from medvision.run.multirun.summary import Group
from medvision.scores import headline_of, names_at, score_named
from medvision.task_definition import task_names, task_of
from medvision.types import STAGES


def print_multirun(groups: Sequence[Group], *, console: Console | None = None) -> None:
    """Print mean and spread of each group, then the scores of its runs.

    Each task has its own table, in per cent if its definition says so. Sealed runs show validation
    scores. Readable from 80 columns.

    Args:
        groups: From ``summarise``.
        console: Console to print to; the screen by default.
    """
    console = console or screen()
    known = next((group.task for group in groups if group.task), None)
    for task in sorted({group.task or known for group in groups}, key=str):
        # a group that never started has no scores, so it fits into any table
        members = [group for group in groups if (group.task or known) == task]
        if members:
            console.print(_table(task, members))
            console.print()
            console.print(_table_of_runs(task, members))
            console.print()


def print_folds(found: Sequence[CrossValidation], *, console: Console | None = None) -> None:
    """Print for each cross-validation the mean over its folds and the pooled scores.

    Args:
        found: From ``cross_validate``.
        console: Console to print to; the screen by default.
    """
    console = console or screen()
    for one in found:
        several = sum(other.group is one.group for other in found) > 1
        console.print(_table_of_folds(one, name_seed=several))
        for note in one.notes:
            console.print(f"note: {note}", highlight=False, soft_wrap=True, markup=False)
        console.print()


def _table(task: str | None, groups: Sequence[Group]) -> Table:
    sealed = any(group.sealed for group in groups)
    shown = _columns(task, sealed=sealed)
    table = Table(
        title=f"{task or 'no run started'}{_unit(task)}{', test sealed' * sealed}:"
        " mean ± standard deviation over the runs",
        box=box.MINIMAL,
        show_edge=False,
        padding=0,  # fits four scores with their spread and a name into 80 columns
    )
    table.add_column("experiment", overflow="fold")
    table.add_column("runs", justify="right")
    for name in shown:
        table.add_column(name.replace("/", "\n"), justify="right", no_wrap=True)
    for group in groups:
        scores = (_words(task, name, *group.mean_and_std(name)) for name in shown)
        table.add_row(_label(group), str(len(group.finished)), *scores)
    return table


def _columns(task: str | None, *, sealed: bool) -> list[str]:
    """Columns: the first headline of every split, and the other headlines of the last split."""
    first, *others = (*names_at("headline", task), "loss")[:2]
    stages = ("train", "val") if sealed else STAGES
    return [*(f"{stage}/{first}" for stage in stages), *(f"{stages[-1]}/{n}" for n in others)]


def _table_of_runs(task: str | None, groups: Sequence[Group]) -> Table:
    stage = "val" if any(group.sealed for group in groups) else "test"
    metric = f"{stage}/{headline_of(task)}"
    table = Table(box=box.MINIMAL, show_edge=False, padding=0)
    table.add_column("experiment", overflow="fold")
    table.add_column(f"each run's {metric.replace('/', ' ')}")
    for group in groups:
        values = (_words(task, metric, value) for value in group.values(metric))
        table.add_row(Text(group.label), " ".join(values))
    return table


def _table_of_folds(one: CrossValidation, *, name_seed: bool) -> Table:
    task = one.group.task
    seed = f", seed {one.seed}" * name_seed
    table = Table(
        title=Text(
            f"{one.group.label}{one.group.marks}{seed}: {one.num_finished} of {one.num_folds}"
            f" folds, {counted(one.num_images, 'image')}{_unit(task)}"
        ),
        box=box.MINIMAL,
        show_edge=False,
    )
    table.add_column("")
    for column in ("mean ± std over folds", "pooled", "95 % interval"):
        table.add_column(column, justify="right", no_wrap=True)
    for name in names_at("folds", task):
        if score := one.scores.get(f"test/{name}"):
            table.add_row(f"test {name}", *_fold_words(task, name, score))
    return table


def _fold_words(task: str | None, name: str, score: FoldScore) -> tuple[str, str, str]:
    low, high = _words(task, name, score.low), _words(task, name, score.high)
    return (
        _words(task, name, score.mean, score.std),
        _words(task, name, score.pooled),
        "-" if score.low is None else f"{low} - {high}",
    )


def _label(group: Group) -> Text:
    label = Text(group.label + group.marks)
    if group.num_failed:
        label.append(f"\n{group.num_failed} failed", style="bold red")
    return label


def _unit(task: str | None) -> str:
    return ", per cent" if _in_percent(task) else ""


def _in_percent(task: str | None) -> bool:
    return task in task_names() and task_of(str(task)).in_percent


def _words(task: str | None, name: str, value: float | None, spread: float | None = None) -> str:
    if value is None:
        return "-"
    score = score_named(name, task)
    scaled = _in_percent(task) and score is not None and score.bounded
    scale, digits = (100, 2) if scaled else (1, 4)
    words = f"{scale * value:.{digits}f}"
    return words if spread is None else f"{words} ± {scale * spread:.{digits}f}"
