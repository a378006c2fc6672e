"""Page of a comparison: scores, facts and verdicts of several runs in one self-contained file."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from medvision.reports.page import NOT_MEASURED, Picture, counted, render, setting_in_words
from medvision.reports.plots.classification import Points
from medvision.reports.plots.comparison import Drawn, draw_rocs, draw_validation
from medvision.reports.plots.style import (
    STYLE,
    History,
    figure_picture,
    line_look,
    new_figure,
    short_name,
)
from medvision.reports.verdicts import p_in_words, probability_in_words
from medvision.scores import LOSS, Score, is_interval, is_number, named_scores, names_at, scores_at
from medvision.task_definition import task_of

Group = Mapping[str, Any]
"""One entry of ``groups`` in ``comparison.json``."""

Pair = Mapping[str, Any]
"""One entry of ``pairs`` in ``comparison.json``."""


def has_value(group: Group, name: str) -> bool:
    """Return True if any run of the group defines this test score."""
    return _metric(group, name).get("mean") is not None


def _metric(group: Group, name: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = group["metrics"].get(f"test/{name}", {})
    return found


def _text(value: float | None, score: Score, *, sign: bool = False) -> str:
    return score.text(value, sign=sign) if is_number(value) else NOT_MEASURED


def mean_in_words(group: Group, name: str, score: Score) -> str:
    """Format mean and standard deviation, or the value of a single run."""
    found = _metric(group, name)
    text = _text(found.get("mean"), score)
    if found.get("std") is not None:
        text += f" ± {_text(found['std'], score)}"
    known = found.get("num_values", 0)
    return f"{text}, {known} of {group['num_runs']}" if 0 < known < group["num_runs"] else text


def _cell(group: Group, score: Score) -> str:
    """Format a score like ``mean_in_words``, with the interval over test images for one run."""
    ends = _metric(group, score.name).get("ci95", [])
    text = mean_in_words(group, score.name, score)
    alone = len(ends) == 1 and is_interval(ends[0])
    return f"{text} ({score.interval_text(ends[0])})" if alone else text


def _run_lines(groups: Sequence[Group], score: Score) -> list[tuple[str, list[str], Any]]:
    """Collect name, seed and score (in words) of each run, and both ends to draw on a scale."""
    lines = []
    for number, group in enumerate(groups, start=1):
        found = _metric(group, score.name)
        for run, value, ends in zip(group["runs"], found["values"], found["ci95"], strict=True):
            interval = score.interval_text(ends) if is_interval(ends) else NOT_MEASURED
            cells = [str(run["seed"]), _text(value, score), interval]
            lines.append((f"{number} {run['name']}", cells, score.bounded and (value, ends)))
    return lines


def _every_score(
    groups: Sequence[Group], scores: Mapping[str, Score]
) -> list[tuple[str, list[str], str]]:
    """Collect title, mean of each group and anchor of every test score, including class scores."""
    lines = []
    for full in groups[0]["metrics"]:
        name = full.removeprefix("test/")
        metric, _, of_class = name.partition("/")
        if full.startswith("test/") and metric in scores:
            score = scores[metric]
            title = score.title + (f", {of_class}" if of_class else "")
            cells = [mean_in_words(group, name, score) for group in groups]
            lines.append((title, cells, score.anchor))
    return lines


MOST_ROWS = 12  # in the plot of differences


def draw_differences(
    pairs: Sequence[Pair], labels: Sequence[str], scores: Mapping[str, Score], *, mark: str
) -> Figure | None:
    """Draw differences to the first group with their intervals, one panel per score.

    Args:
        pairs: Pairs with the first group; the first 12 are drawn.
        labels: Labels of all groups.
        scores: Scores by name.
        mark: Text added to the title.

    Returns:
        None if there is no interval.
    """
    shown = [pair for pair in pairs if pair["metrics"]][:MOST_ROWS]
    names = [*shown[0]["metrics"]] if shown else []
    if not any(pair["metrics"][name]["ci95"] for pair in shown for name in names):
        return None
    figure = new_figure(1.4 + 2.5 * len(names), 1.4 + 0.45 * len(shown))
    panels: Sequence[Axes] = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for axes, name in zip(panels, names, strict=True):
        axes.axvline(0, color="grey", linewidth=1)
        for row, pair in enumerate(shown):
            found, color = pair["metrics"][name], line_look(pair["b"] - 1)["color"]
            if found["ci95"]:
                axes.plot(found["ci95"], [row, row], color=color, linewidth=2.2)
            axes.plot(found["difference"], row, "o", color=color, markersize=6)
        if scores[name].better == "lower":
            axes.invert_xaxis()  # better is on the right in every panel
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.set(xlabel=f"difference in {scores[name].title}", ylim=(len(shown) - 0.4, -0.6))
    panels[0].set_yticks(
        range(len(shown)),
        [f"{pair['b']} {short_name(labels[pair['b'] - 1], length=28)}" for pair in shown],
    )
    figure.suptitle(
        f"Better than group 1 to the right of zero, 95 % intervals over images{mark}", fontsize=10
    )
    return figure


MOST_MAIN = 4  # scores that fit beside the name of a group
MOST_CLAIMS = 2  # sentences at the top of the page


def comparison_page(
    comparison: Mapping[str, Any],
    *,
    histories: Sequence[Sequence[History]],
    roc: Sequence[Sequence[Points | None]],
) -> str:
    """Render the page as HTML.

    Args:
        comparison: Content of ``comparison.json``.
        histories: Rows of metrics.csv of each run of each group.
        roc: False and true positive rates of each run of each group; None if a run has none.
    """
    groups: Sequence[Group] = comparison["groups"]
    task = str(comparison["task"])
    scores = named_scores(task)
    measured = [name for name in scores if any(has_value(group, name) for group in groups)]
    tests = [name.split("/") for name in groups[0]["metrics"] if name.startswith("test/")]
    shown = {metric for _, metric, *_ in tests}  # including class scores
    places = names_at("comparison page", task)
    main = [scores[name] for name in places if name in measured][:MOST_MAIN]
    pairs: Sequence[Pair] = [pair for pair in comparison["pairs"] if pair["a"] == 1]
    decided = [pair for pair in comparison["pairs"] if pair["headline"] in pair["metrics"]]
    names = [f"{number} {group['experiment']}" for number, group in enumerate(groups, start=1)]
    runs = [
        (f"{number} {run['name']}", run, curve)
        for number, group in enumerate(groups, start=1)
        for run, curve in zip(group["runs"], roc[number - 1], strict=True)
    ]
    claims = [f"{pair['claim']}." for pair in pairs] if len(pairs) <= MOST_CLAIMS else []
    return render(
        "compare.html.j2",
        title=_title(groups),
        headline=" ".join([*claims, _headline(groups, main)]),
        notes=[f"{note[:1].upper()}{note[1:]}." for note in comparison["notes"]],
        groups=groups,
        pairs=pairs,
        exchanges=next(
            (found["num_permutations"] for pair in pairs for found in pair["metrics"].values()), 0
        ),
        with_seeds=[pair for pair in decided if pair["a"] == 1 and _has_spread(pair)],
        other_pairs=[pair for pair in decided if pair["a"] != 1],
        forest=_forest(pairs, groups, scores),
        main=[f"{score.title}, {score.unit}" if score.unit else score.title for score in main],
        score_lines=[
            (name, [group["size"], *(_cell(group, score) for score in main)])
            for name, group in zip(names, groups, strict=True)
        ],
        difference_lines=[
            (name, [_difference(group, score) for score in main])
            for name, group in list(zip(names, groups, strict=True))[1:]
        ],
        run_lines=_run_lines(groups, main[0]) if main else [],
        **_pictures(task, _drawn(groups, histories, roc, scores), _mark(groups)),
        without_roc=[name for name, _, curve in runs if curve is None],
        settings=[
            (key, [setting_in_words(value) for value in values])
            for key, values in comparison["differing_settings"].items()
        ],
        numbers=[f"group {number}" for number in range(1, len(groups) + 1)],
        every_score=_every_score(groups, scores),
        runs=[(name, run) for name, run, _ in runs],
        warnings=_warnings(groups),
        scores=scores,
        definitions=[score for name, score in scores.items() if name in shown],
        line_look=line_look,
        p_in_words=p_in_words,
        probability_in_words=probability_in_words,
    )


def _has_spread(pair: Pair) -> bool:
    """Return True if either group has a known spread of the headline over seeds."""
    seeds = pair["metrics"][pair["headline"]]["seeds"]
    return seeds["std_a"] is not None or seeds["std_b"] is not None


def _difference(group: Group, score: Score) -> str:
    """Format the difference between the mean and that of the first group."""
    return _text(_metric(group, score.name).get("difference_to_first"), score, sign=True)


def _forest(
    pairs: Sequence[Pair], groups: Sequence[Group], scores: Mapping[str, Score]
) -> Picture | None:
    with mpl.rc_context(STYLE):
        labels = [str(group["label"]) for group in groups]
        figure = draw_differences(pairs, labels, scores, mark=_mark(groups))
        if figure is None:
            return None
        return figure_picture(
            figure, alt="Differences to group 1 with their 95 % intervals, a row per group"
        )


def _title(groups: Sequence[Group]) -> str:
    runs = sum(group["num_runs"] for group in groups)
    return f"{counted(runs, 'run')} in {counted(len(groups), 'group')}"


def _headline(groups: Sequence[Group], main: Sequence[Score]) -> str:
    """Summarise the scores of the groups in one sentence; for many groups by their range."""
    known = [group for group in groups if main and has_value(group, main[0].name)]
    if not known:
        return "No run has a test score."
    metric, experiments = f"test/{main[0].name}", [group["experiment"] for group in groups]

    def described(group: Group) -> str:
        name = str(group["experiment"])
        if experiments.count(name) > 1:
            name += f", group {groups.index(group) + 1}"
        return f"{mean_in_words(group, main[0].name, main[0])} ({name}, {group['size']})"

    name = f"Test {main[0].title}"
    if any(group["num_runs"] > 1 for group in known):
        own = all(len(set(group["seeds"])) == group["num_runs"] for group in known)
        name += f", mean over {'seeds' if own else 'runs'}"
    if len(known) <= 3:
        return f"{name}: {', '.join(map(described, known))}."
    ranked = sorted(known, key=lambda group: group["metrics"][metric]["mean"])
    return (
        f"{name}, of {len(known)} groups: from {described(ranked[0])} to {described(ranked[-1])}."
    )


def _warnings(groups: Sequence[Group]) -> list[tuple[str, str]]:
    """Collect the warnings of the runs, each once, with the groups they come from."""
    found: dict[str, list[str]] = {}
    for number, group in enumerate(groups, start=1):
        for warning in dict.fromkeys(str(w) for run in group["runs"] for w in run["warnings"]):
            found.setdefault(warning, []).append(str(number))
    return [
        (f"group{'s' * (len(numbers) > 1)} {', '.join(numbers)}", warning)
        for warning, numbers in found.items()
    ]


def _drawn(
    groups: Sequence[Group],
    histories: Sequence[Sequence[History]],
    roc: Sequence[Sequence[Points | None]],
    scores: Mapping[str, Score],
) -> list[Drawn]:
    return [
        Drawn(
            name=f"{number} {group['label']}",
            size=str(group["size"]),
            has_spread=len(set(group["seeds"])) == group["num_runs"] > 1,
            auroc=mean_in_words(group, "auroc", scores["auroc"]) if "auroc" in scores else "",
            histories=histories[number - 1],
            roc=[curve for curve in roc[number - 1] if curve is not None],
        )
        for number, group in enumerate(groups, start=1)
    ]


def _mark(groups: Sequence[Group]) -> str:
    """Return the remark on the data for titles, if it applies to all groups."""
    marks = {str(group["marks"]) for group in groups}
    return f"\n{mark}" if len(marks) == 1 and (mark := marks.pop()) else ""


def _pictures(task: str, drawn: Sequence[Drawn], mark: str) -> dict[str, list[Picture]]:
    """Draw the validation curves, and the ROC if available."""
    what = "pixels" if task_of(task).per_pixel else "images"
    with mpl.rc_context(STYLE):
        curves = {
            score.title: draw_validation(drawn, metric=score.name, label=score.title, mark=mark)
            for score in (LOSS, *scores_at("headline", task))
            if any(group.validates(score.name) for group in drawn)
        }
        shown = [
            figure_picture(
                figure, alt=f"{label} of the validation images by epoch, a line for each run"
            )
            for label, figure in curves.items()
        ]
        if not any(group.roc for group in drawn):
            return {"curves": shown, "roc": []}
        figure = draw_rocs(drawn, what=what, mark=mark)
        return {
            "curves": shown,
            "roc": [figure_picture(figure, alt=f"ROC of the test {what}, a line for each run")],
        }
