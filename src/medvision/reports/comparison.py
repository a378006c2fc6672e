"""Page of a comparison: scores, facts and verdicts of several runs in one self-contained file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from medvision.reports.page import (
    NOT_MEASURED,
    Measured,
    Picture,
    Row,
    Table,
    png_picture,
    render,
    setting_in_words,
)
from medvision.reports.plots.classification import Points
from medvision.reports.plots.comparison import Drawn, color_of, draw_rocs, draw_validation
from medvision.reports.plots.style import STYLE, History, save, short_name
from medvision.reports.verdicts import p_in_words, probability_in_words
from medvision.scores import LOSS, Score, is_interval, is_number, named_scores, names_at, scores_at
from medvision.task_definition import task_of

Group = Mapping[str, Any]
"""One of the groups of ``comparison.json``."""


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


def _text(value: float | None, score: Score, *, sign: bool = False) -> str:
    return score.text(value, sign=sign) if is_number(value) else NOT_MEASURED


def _interval(ends: Any, score: Score) -> str:
    return score.interval_text(ends) if is_interval(ends) else NOT_MEASURED


def mean_in_words(group: Group, name: str, score: Score) -> str:
    """Mean and deviation, or the value of one run."""
    found = _metric(group, name)
    text = _text(found.get("mean"), score)
    if found.get("std") is not None:
        text += f" ± {_text(found['std'], score)}"
    known = found.get("num_values", 0)
    return f"{text}, {known} of {group['num_runs']}" if 0 < known < group["num_runs"] else text


def _cell(group: Group, score: Score) -> str:
    """The same, and of one run the interval over test images."""
    ends = _metric(group, score.name).get("ci95", [])
    text = mean_in_words(group, score.name, score)
    alone = len(ends) == 1 and is_interval(ends[0])
    return f"{text} ({score.interval_text(ends[0])})" if alone else text


def _head(scores: Sequence[Score]) -> list[str]:
    return [f"{score.title}, {score.unit}" if score.unit else score.title for score in scores]


def score_table(groups: Sequence[Group], main: Sequence[Score]) -> Table:
    """What each group scored on test."""
    return Table(
        caption="Test scores of each group: mean ± standard deviation over seeds; of one run its "
        "95 % interval in brackets",
        head=["group", "seeds", *_head(main)],
        rows=[
            Row(name=name, cells=[group["size"], *(_cell(group, score) for score in main)])
            for name, group in numbered(groups)
        ],
    )


def difference_table(groups: Sequence[Group], main: Sequence[Score]) -> Table | None:
    """How far the means lie from those of the first group; None where there is one group only."""

    def difference(group: Group, score: Score) -> str:
        value = _metric(group, score.name).get("difference_to_first")
        return _text(value, score, sign=True)

    if len(groups) < 2:
        return None
    return Table(
        caption="Difference of the means to those of group 1",
        head=["group", *_head(main)],
        rows=[
            Row(name=name, cells=[difference(group, score) for score in main])
            for name, group in numbered(groups)[1:]
        ],
        note="A difference alone does not tell whether it is more than chance; see who is better.",
    )


def run_table(groups: Sequence[Group], main: Sequence[Score]) -> Table | None:
    """The first of the scores for each run, on a scale; None where nothing was tested."""
    if not main:
        return None
    rows = []
    for number, group in enumerate(groups, start=1):
        found = _metric(group, main[0].name)
        for run, value, ends in zip(group["runs"], found["values"], found["ci95"], strict=True):
            cells = [str(run["seed"]), _text(value, main[0])]
            rows.append(
                Row(
                    name=f"{number} {run['name']}",
                    cells=[*cells, _interval(ends, main[0])],
                    bar=(value, ends) if main[0].bounded else None,
                )
            )
    return Table(
        caption="Each run with its own interval over test images",
        head=["run", "seed", *_head(main[:1]), "95 % interval"],
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


def every_score_table(groups: Sequence[Group], scores: Mapping[str, Score]) -> Table:
    """A row for each test score, those of single classes too."""
    rows = []
    for full in groups[0]["metrics"]:
        name = full.removeprefix("test/")
        metric, _, of_class = name.partition("/")
        if not full.startswith("test/") or metric not in scores:
            continue
        score = scores[metric]
        text = score.title + (f", {of_class}" if of_class else "")
        cells = [mean_in_words(group, name, score) for group in groups]
        rows.append(Row(name=text, cells=cells, anchor=score.anchor))
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


Pair = Mapping[str, Any]
"""One of the pairs of ``comparison.json``."""

MOST_ROWS = 12  # of the picture


def verdict_table(pairs: Sequence[Pair], scores: Mapping[str, Score]) -> Table | None:
    """Every score of the pairs with the first group; None where nothing was compared."""
    rows = [
        Row(
            name=f"{pair['b']} against {pair['a']}: {scores[name].title}",
            cells=_cells(pair, found),
            strong=name == pair["headline"],
        )
        for pair in pairs
        for name, found in pair["metrics"].items()
    ]
    if not rows:
        return None
    found = next(iter(pairs[0]["metrics"].values()))
    bold = "The score in bold decides, the others are told beside it"
    exchanges = f"p rests on {found['num_permutations']:,} exchanges"
    return Table(
        caption="Difference of group B to group A (the first) on the same test images",
        head=[
            "B against A",
            "A",
            "B",
            "B - A and 95 % interval",
            "p",
            *(["Holm p"] * (len(pairs) > 1)),
            "probability that B is truly better",
            "images",
        ],
        rows=rows,
        note=f"{bold}; {exchanges}. p and the probability are about other images, not other seeds.",
    )


def _cells(pair: Pair, found: Mapping[str, Any]) -> list[str | Measured]:
    grouped = f" in {found['num_units']:,} groups" if pair["grouped"] else ""
    return [
        f"{found['a']:.3f}",
        f"{found['b']:.3f}",
        _difference(found),
        p_in_words(found["p"]),
        *([p_in_words(found["p_holm"])] * (pair["num_comparisons"] > 1)),
        probability_in_words(found["probability_b_better"]),
        f"{found['num_images']:,}{grouped}",
    ]


def _difference(found: Mapping[str, Any]) -> str | Measured:
    value = f"{found['difference']:+.3f}"
    if found["ci95"] is None:
        return value
    low, high = found["ci95"]
    return Measured(value=value, ends=f"{low:+.3f} to {high:+.3f}")


def seed_table(pairs: Sequence[Pair], scores: Mapping[str, Score]) -> Table | None:
    """How far the headline of each pair spreads over seeds; None where no seeds tell."""
    rows = []
    for pair in pairs:
        found = pair["metrics"].get(pair["headline"])
        if found is None or found["seeds"]["std_a"] is found["seeds"]["std_b"] is None:
            continue
        seeds = found["seeds"]
        between = seeds["ci95"]
        rows.append(
            Row(
                name=f"{pair['b']} against {pair['a']}: {scores[pair['headline']].title}",
                cells=[
                    " and ".join(map(str, pair["num_seeds"])),
                    *(_small(seeds[key]) for key in ("std_a", "std_b", "standard_error")),
                    NOT_MEASURED if between is None else f"{between[0]:+.3f} to {between[1]:+.3f}",
                    _small(found["standard_error"]),
                ],
            )
        )
    if not rows:
        return None
    return Table(
        caption="The two doubts beside each other: other seeds on the same images, and other "
        "images with the same models",
        head=[
            "B against A",
            "seeds of A and B",
            "deviation of A",
            "deviation of B",
            "standard error over seeds",
            "B - A with other seeds, 95 %",
            "standard error over images",
        ],
        rows=rows,
    )


def other_pairs_table(pairs: Sequence[Pair], scores: Mapping[str, Score]) -> Table | None:
    """The headline of the pairs without the first group; None where there are none."""
    rows = [
        Row(
            name=f"{pair['b']} against {pair['a']}",
            cells=[
                f"{found['a']:.3f}",
                f"{found['b']:.3f}",
                _difference(found),
                p_in_words(found["p"]),
                p_in_words(found["p_holm_all"]),
                probability_in_words(found["probability_b_better"]),
            ],
        )
        for pair in pairs
        if (found := pair["metrics"].get(pair["headline"]))
    ]
    if not rows:
        return None
    name = scores[pairs[0]["headline"]].title
    return Table(
        caption=f"{name} of the other pairs; Holm p is adjusted over all pairs, the {len(rows)} "
        "here and those with group 1",
        head=["B against A", "A", "B", "B - A and 95 % interval", "p", "Holm p", "probability"],
        rows=rows,
    )


def _small(value: float | None) -> str:
    return NOT_MEASURED if value is None else f"{value:.3f}"


def draw_differences(
    pairs: Sequence[Pair], labels: Sequence[str], scores: Mapping[str, Score], *, mark: str
) -> Figure | None:
    """Differences to the first group with their intervals, a panel for each score.

    Args:
        pairs: Those with the first group; the first 12 are drawn.
        labels: Of all groups.
        scores: By name.
        mark: Added to the title.

    Returns:
        None where there is no interval.
    """
    shown = [pair for pair in pairs if pair["metrics"]][:MOST_ROWS]
    names = [*shown[0]["metrics"]] if shown else []
    if not any(pair["metrics"][name]["ci95"] for pair in shown for name in names):
        return None
    size = (1.4 + 2.5 * len(names), 1.4 + 0.45 * len(shown))
    figure = Figure(figsize=size, layout="constrained")
    panels: Sequence[Axes] = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for axes, name in zip(panels, names, strict=True):
        axes.axvline(0, color="grey", linewidth=1)
        for row, pair in enumerate(shown):
            found, color = pair["metrics"][name], color_of(pair["b"] - 1)
            if found["ci95"]:
                axes.plot(found["ci95"], [row, row], color=color, linewidth=2.2)
            axes.plot(found["difference"], row, "o", color=color, markersize=6)
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
MOST_CLAIMS = 2  # sentences above the page


def comparison_page(
    comparison: Mapping[str, Any],
    *,
    histories: Sequence[Sequence[History]],
    roc: Sequence[Sequence[Points | None]],
) -> str:
    """The page as HTML.

    Args:
        comparison: What ``comparison.json`` holds.
        histories: Rows of metrics.csv, of each run of each group.
        roc: False and true positive rate of each run of each group; None where there are none.
    """
    groups: Sequence[Group] = comparison["groups"]
    task = str(comparison["task"])
    scores = named_scores(task)
    measured = [name for name in scores if any(has_value(group, name) for group in groups)]
    tests = [name.split("/") for name in groups[0]["metrics"] if name.startswith("test/")]
    told = {metric for _, metric, *_ in tests}  # of single classes too
    places = names_at("comparison page", task)
    main = [scores[name] for name in places if name in measured][:MOST_MAIN]
    to_first = [pair for pair in comparison["pairs"] if pair["a"] == 1]
    others = [pair for pair in comparison["pairs"] if pair["a"] != 1]
    return render(
        "compare.html.j2",
        title=_title(groups),
        headline=" ".join([*_claims(to_first), _headline(groups, main)]),
        sentences=[pair["sentence"] for pair in to_first],
        verdicts=verdict_table(to_first, scores),
        seeds=seed_table(to_first, scores),
        other_pairs=other_pairs_table(others, scores),
        forest=_forest(to_first, groups, scores),
        notes=[_sentence(note) for note in comparison["notes"]],
        groups=_shown_groups(groups),
        scores=score_table(groups, main),
        differences=difference_table(groups, main),
        runs=run_table(groups, main),
        **_pictures(task, _drawn(groups, histories, roc, scores), _mark(groups)),
        without_roc=_without_roc(groups, roc),
        settings=settings_table(groups, comparison["differing_settings"]),
        every_score=every_score_table(groups, scores),
        facts=fact_table(groups),
        warnings=_warnings(groups),
        definitions=[score for name, score in scores.items() if name in told],
        compared=bool(to_first),
    )


def _claims(pairs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Who is better, as long as it fits above the page."""
    return [f"{pair['claim']}." for pair in pairs] if len(pairs) <= MOST_CLAIMS else []


def _forest(
    pairs: Sequence[Mapping[str, Any]], groups: Sequence[Group], scores: Mapping[str, Score]
) -> Picture | None:
    with mpl.rc_context(STYLE):
        labels = [str(group["label"]) for group in groups]
        figure = draw_differences(pairs, labels, scores, mark=_mark(groups))
        if figure is None:
            return None
        return _picture(figure, "Differences to group 1 with their 95 % intervals, a row per group")


def _title(groups: Sequence[Group]) -> str:
    runs = sum(group["num_runs"] for group in groups)
    return f"{runs} runs in {len(groups)} group{'s' * (len(groups) > 1)}"


def _headline(groups: Sequence[Group], main: Sequence[Score]) -> str:
    """One sentence: what the groups scored; for many of them the range."""
    known = [group for group in groups if main and has_value(group, main[0].name)]
    if not known:
        return "No run has a test score."
    metric, experiments = f"test/{main[0].name}", [group["experiment"] for group in groups]

    def told(group: Group) -> str:
        name = str(group["experiment"])
        if experiments.count(name) > 1:
            name += f", group {groups.index(group) + 1}"
        return f"{mean_in_words(group, main[0].name, main[0])} ({name}, {group['size']})"

    name = f"Test {main[0].title}"
    if any(group["num_runs"] > 1 for group in known):
        own = all(len(set(group["seeds"])) == group["num_runs"] for group in known)
        name += f", mean over {'seeds' if own else 'runs'}"
    if len(known) <= 3:
        return f"{name}: {', '.join(map(told, known))}."
    ranked = sorted(known, key=lambda group: group["metrics"][metric]["mean"])
    return f"{name}, of {len(known)} groups: from {told(ranked[0])} to {told(ranked[-1])}."


def _sentence(note: str) -> str:
    return f"{note[:1].upper()}{note[1:]}."


def _warnings(groups: Sequence[Group]) -> list[tuple[str, str]]:
    """What the runs themselves warned of, each sentence once, and the groups it came from."""
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
            auroc=mean_in_words(group, "auroc", scores["auroc"]),
            histories=histories[number - 1],
            roc=[curve for curve in roc[number - 1] if curve is not None],
        )
        for number, group in enumerate(groups, start=1)
    ]


def _shown_groups(groups: Sequence[Group]) -> list[dict[str, str]]:
    """What the list of groups says, with the colour of their lines."""
    return [
        {
            "color": color_of(number),
            "label": str(group["label"]),
            "marks": str(group["marks"]),
            "size": str(group["size"]),
        }
        for number, group in enumerate(groups)
    ]


def _without_roc(groups: Sequence[Group], roc: Sequence[Sequence[Points | None]]) -> list[str]:
    """Names of the runs that have no curve."""
    return [
        f"{number} {run['name']}"
        for number, group in enumerate(groups, start=1)
        for run, curve in zip(group["runs"], roc[number - 1], strict=True)
        if curve is None
    ]


def _mark(groups: Sequence[Group]) -> str:
    """What titles add about the data where it is true of all groups."""
    marks = {str(group["marks"]) for group in groups}
    return f"\n{mark}" if len(marks) == 1 and (mark := marks.pop()) else ""


def _pictures(task: str, drawn: Sequence[Drawn], mark: str) -> dict[str, list[Picture]]:
    """The curves of validation, and the ROC where there is one."""
    what = "pixels" if task_of(task).per_pixel else "images"
    with mpl.rc_context(STYLE):
        curves = {
            score.title: draw_validation(drawn, metric=score.name, label=score.title, mark=mark)
            for score in (LOSS, *scores_at("headline", task))
            if any(group.validates(score.name) for group in drawn)
        }
        shown = [
            _picture(figure, f"{label} of the validation images by epoch, a line for each run")
            for label, figure in curves.items()
        ]
        if not any(group.roc for group in drawn):
            return {"curves": shown, "roc": []}
        figure = draw_rocs(drawn, what=what, mark=mark)
        return {
            "curves": shown,
            "roc": [_picture(figure, f"ROC of the test {what}, a line for each run")],
        }


def _picture(figure: Figure, alt: str) -> Picture:
    with TemporaryDirectory() as folder:
        save(figure, Path(folder) / "picture.png")
        return png_picture(Path(folder) / "picture.png", alt=alt)
