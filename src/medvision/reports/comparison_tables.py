"""Scores and facts of several groups of runs as tables."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from medvision.reports.metric_words import Words, anchor_of
from medvision.reports.page import Row, Table, is_interval, is_number
from medvision.reports.score_tables import NOT_MEASURED

Group = Mapping[str, Any]
"""One of the groups of ``comparison.json``."""


LONGEST_VALUE = 24  # characters of a setting


def numbered(groups: Sequence[Group]) -> list[tuple[str, Group]]:
    """Each group and its name in tables: its number and the experiment of its label."""
    return [
        (f"{number} {group['experiment']}", group) for number, group in enumerate(groups, start=1)
    ]


def has_value(group: Group, name: str) -> bool:
    """Whether any run of the group defines this test score."""
    return _metric(group, name).get("mean") is not None


def _metric(group: Group, name: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = group["metrics"].get(f"test/{name}", {})
    return found


def _written(value: float | None, words: Words, *, sign: bool = False) -> str:
    if value is None or not is_number(value):
        return NOT_MEASURED
    digits = 1 if words.unit else 3
    return f"{round(value, digits) + 0.0:{'+' * sign}.{digits}f}"  # adding 0.0 turns -0.0 into 0.0


def _interval(ends: Any, words: Words) -> str:
    if not is_interval(ends):
        return NOT_MEASURED
    return " to ".join(_written(end, words) for end in ends)


def mean_in_words(group: Group, name: str, words: Mapping[str, Words]) -> str:
    """Mean and deviation, or the value of one run."""
    found = _metric(group, name)
    text = _written(found.get("mean"), words[name])
    if found.get("std") is not None:
        text += f" ± {_written(found['std'], words[name])}"
    known = found.get("num_values", 0)
    return f"{text}, {known} of {group['num_runs']}" if 0 < known < group["num_runs"] else text


def _cell(group: Group, name: str, words: Mapping[str, Words]) -> str:
    """The same, and of one run the interval over test images."""
    ends = _metric(group, name).get("ci95", [])
    text = mean_in_words(group, name, words)
    alone = len(ends) == 1 and is_interval(ends[0])
    return f"{text} ({_interval(ends[0], words[name])})" if alone else text


def _head(names: Sequence[str], words: Mapping[str, Words]) -> list[str]:
    found = [words[name] for name in names]
    return [f"{word.name}, {word.unit}" if word.unit else word.name for word in found]


def setting_in_words(value: Any) -> str:
    """A setting in a few characters: the last part of a path or of a class's name."""
    if value is None or isinstance(value, bool | list | Mapping):
        text = json.dumps(value, ensure_ascii=False, default=str)
    else:
        text = str(value)
        if "/" in text:
            text = f".../{text.rstrip('/').rpartition('/')[2]}"
        elif re.fullmatch(r"[A-Za-z_]\w*(\.\w+)+", text):
            text = text.rpartition(".")[2]
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 3]}..."


def score_table(groups: Sequence[Group], main: Sequence[str], words: Mapping[str, Words]) -> Table:
    """What each group scored on test."""
    return Table(
        caption="Test scores of each group: mean ± standard deviation over seeds; of one run its "
        "95 % interval in brackets",
        head=["group", "seeds", *_head(main, words)],
        rows=[
            Row(name=name, cells=[group["size"], *(_cell(group, m, words) for m in main)])
            for name, group in numbered(groups)
        ],
    )


def difference_table(
    groups: Sequence[Group], main: Sequence[str], words: Mapping[str, Words]
) -> Table | None:
    """How far the means lie from those of the first group; None where there is one group only."""

    def difference(group: Group, metric: str) -> str:
        value = _metric(group, metric).get("difference_to_first")
        return _written(value, words[metric], sign=True)

    if len(groups) < 2:
        return None
    return Table(
        caption="Difference of the means to those of group 1",
        head=["group", *_head(main, words)],
        rows=[
            Row(name=name, cells=[difference(group, metric) for metric in main])
            for name, group in numbered(groups)[1:]
        ],
        note="A difference alone does not tell whether it is more than chance; see who is better.",
    )


def run_table(
    groups: Sequence[Group], main: Sequence[str], words: Mapping[str, Words]
) -> Table | None:
    """The first of the scores for each run, on a scale; None where nothing was tested."""
    if not main:
        return None
    rows = []
    for number, group in enumerate(groups, start=1):
        found = _metric(group, main[0])
        for run, value, ends in zip(group["runs"], found["values"], found["ci95"], strict=True):
            cells = [str(run["seed"]), _written(value, words[main[0]])]
            rows.append(
                Row(
                    name=f"{number} {run['name']}",
                    cells=[*cells, _interval(ends, words[main[0]])],
                    bar=None if words[main[0]].unit else (value, ends),
                )
            )
    return Table(
        caption="Each run with its own interval over test images",
        head=["run", "seed", *_head(main[:1], words), "95 % interval"],
        rows=rows,
    )


def settings_table(groups: Sequence[Group], settings: Mapping[str, Sequence[Any]]) -> Table | None:
    """In which settings the groups differ; None where in none."""
    if not settings:
        return None
    return Table(
        caption="Settings in which the groups differ; those that follow from another are left out",
        head=["setting", *(f"group {number}" for number in range(1, len(groups) + 1))],
        rows=[
            Row(name=key, cells=[setting_in_words(value) for value in values])
            for key, values in settings.items()
        ],
    )


def every_score_table(groups: Sequence[Group], words: Mapping[str, Words]) -> Table:
    """A row for each test score, those of single classes too."""
    rows = []
    for full in groups[0]["metrics"]:
        name = full.removeprefix("test/")
        metric, _, of_class = name.partition("/")
        if not full.startswith("test/") or metric not in words:
            continue
        text = words[metric].name + (f", {of_class}" if of_class else "")
        cells = [mean_in_words(group, name, {name: words[metric]}) for group in groups]
        rows.append(Row(name=text, cells=cells, anchor=anchor_of(metric)))
    return Table(
        caption="Every test score: mean ± standard deviation over seeds",
        head=["score", *(f"group {number}" for number in range(1, len(groups) + 1))],
        rows=rows,
    )


def fact_table(groups: Sequence[Group]) -> Table:
    """How each run was trained."""

    def cells(run: Mapping[str, Any]) -> list[str]:
        best, count = run["best_epoch"], run["num_parameters"]
        names = (run["device"], run["precision"], run["model"])
        return [
            str(run["seed"]),
            NOT_MEASURED if best is None else f"{best + 1} of {run['epochs']}",
            NOT_MEASURED if count is None else f"{count:,}",
            *(str(name or NOT_MEASURED) for name in names),
        ]

    return Table(
        caption="The epoch whose weights were tested, and what ran",
        head=["run", "seed", "best epoch", "parameters", "device", "precision", "network"],
        rows=[
            Row(name=f"{number} {run['name']}", cells=cells(run))
            for number, group in enumerate(groups, start=1)
            for run in group["runs"]
        ],
    )
