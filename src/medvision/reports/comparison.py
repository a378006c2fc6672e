"""The page of a comparison: what several runs scored, side by side, in one self-contained file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from medvision.reports.classification import Points
from medvision.reports.comparison_plots import Drawn, color_of, draw_rocs, draw_validation
from medvision.reports.comparison_tables import (
    Group,
    difference_table,
    every_score_table,
    fact_table,
    has_value,
    mean_in_words,
    run_table,
    score_table,
    settings_table,
)
from medvision.reports.curves import History
from medvision.reports.metric_words import INTERVAL, Words, anchor_of, words_of
from medvision.reports.page import Picture, png_picture, render
from medvision.reports.style import STYLE, save
from medvision.reports.verdict_tables import (
    draw_differences,
    other_pairs_table,
    seed_table,
    verdict_table,
)
from medvision.reports.verdict_words import DEFINITIONS

MAIN = {
    "classification": ("accuracy", "balanced_accuracy", "auroc", "f1"),
    "segmentation": ("dice", "iou", "hd95_px", "recall", "precision"),
}
MOST_MAIN = 4  # scores that fit beside the name of a group
MOST_CLAIMS = 2  # sentences above the page
CURVES = {
    "classification": {"loss": "loss", "accuracy": "accuracy", "auroc": "AUROC"},
    "segmentation": {"loss": "loss", "dice": "Dice", "iou": "IoU"},
}
SPREAD = Words(
    name="mean ± deviation",
    formula="s = √(Σ (xᵢ - x̄)² / (n - 1))",
    definition="Mean over the runs of a group, which differ in their seed only, and sample "
    "standard deviation over their seeds. One seed has no deviation. It tells how much a score "
    "changes with chance in training, not how much it would change with other test images.",
)


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
    words = words_of(task)
    measured = [name for name in words if any(has_value(group, name) for group in groups)]
    tests = [name.split("/") for name in groups[0]["metrics"] if name.startswith("test/")]
    told = {metric for _, metric, *_ in tests}  # of single classes too
    main = [name for name in MAIN[task] if name in measured][:MOST_MAIN]
    to_first = [pair for pair in comparison["pairs"] if pair["a"] == 1]
    others = [pair for pair in comparison["pairs"] if pair["a"] != 1]
    return render(
        "compare.html.j2",
        title=_title(groups),
        headline=" ".join([*_claims(to_first), _headline(groups, main, words)]),
        sentences=[pair["sentence"] for pair in to_first],
        verdicts=verdict_table(to_first, words),
        seeds=seed_table(to_first, words),
        other_pairs=other_pairs_table(others, words),
        forest=_forest(to_first, groups, words),
        notes=[_sentence(note) for note in comparison["notes"]],
        groups=_shown_groups(groups),
        scores=score_table(groups, main, words),
        differences=difference_table(groups, main, words),
        runs=run_table(groups, main, words),
        **_pictures(task, _drawn(groups, histories, roc, words), _mark(groups)),
        without_roc=_without_roc(groups, roc),
        settings=settings_table(groups, comparison["differing_settings"]),
        every_score=every_score_table(groups, words),
        facts=fact_table(groups),
        warnings=_warnings(groups),
        definitions=[(anchor_of(name), words[name]) for name in words if name in told],
        other_definitions=[*(DEFINITIONS if to_first else ()), SPREAD, INTERVAL],
    )


def _claims(pairs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Who is better, as long as it fits above the page."""
    return [f"{pair['claim']}." for pair in pairs] if len(pairs) <= MOST_CLAIMS else []


def _forest(
    pairs: Sequence[Mapping[str, Any]], groups: Sequence[Group], words: Mapping[str, Words]
) -> Picture | None:
    with mpl.rc_context(STYLE):
        labels = [str(group["label"]) for group in groups]
        figure = draw_differences(pairs, labels, words, mark=_mark(groups))
        if figure is None:
            return None
        return _picture(figure, "Differences to group 1 with their 95 % intervals, a row per group")


def _title(groups: Sequence[Group]) -> str:
    runs = sum(group["num_runs"] for group in groups)
    return f"{runs} runs in {len(groups)} group{'s' * (len(groups) > 1)}"


def _headline(groups: Sequence[Group], main: Sequence[str], words: Mapping[str, Words]) -> str:
    """One sentence: what the groups scored; for many of them the range."""
    known = [group for group in groups if main and has_value(group, main[0])]
    if not known:
        return "No run has a test score."
    metric, experiments = f"test/{main[0]}", [group["experiment"] for group in groups]

    def told(group: Group) -> str:
        name = str(group["experiment"])
        if experiments.count(name) > 1:
            name += f", group {groups.index(group) + 1}"
        return f"{mean_in_words(group, main[0], words)} ({name}, {group['size']})"

    name = f"Test {words[main[0]].name}"
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
    words: Mapping[str, Words],
) -> list[Drawn]:
    return [
        Drawn(
            name=f"{number} {group['label']}",
            size=str(group["size"]),
            has_spread=len(set(group["seeds"])) == group["num_runs"] > 1,
            auroc=mean_in_words(group, "auroc", words),
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
    what = "images" if task == "classification" else "pixels"
    with mpl.rc_context(STYLE):
        curves = {
            label: draw_validation(drawn, metric=metric, label=label, mark=mark)
            for metric, label in CURVES[task].items()
            if any(group.validates(metric) for group in drawn)
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
