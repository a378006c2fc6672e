"""The scores of a run as tables: over all test images, by class, by lesion size, by threshold."""

from collections.abc import Mapping, Sequence
from typing import Any

from medvision.reports.metric_words import Words, anchor_of, words_of
from medvision.reports.page import (
    UNDEFINED,
    Row,
    Table,
    is_interval,
    is_number,
    score,
    whole,
    with_interval,
)
from medvision.reports.run_files import RunFiles

STAGES = {"train": "train", "val": "validation", "test": "test"}
NOT_MEASURED = "–"
MAIN = ("dice", "iou", "accuracy", "balanced_accuracy", "auroc")
BY_CLASS = ("dice", "iou", "recall", "precision", "specificity", "f1", "auroc", "average_precision")
RATES = {"sensitivity": "sensitivity", "specificity": "specificity", "ppv": "PPV", "npv": "NPV"}


def shown_scores(run: RunFiles) -> dict[str, Words]:
    """The scores that the report shows, by name, in their order."""
    return {
        name: words
        for name, words in words_of(run.task).items()
        if any(f"{stage}/{name}" in run.metrics for stage in STAGES)
    }


def key_numbers(run: RunFiles) -> Table | None:
    """Every score over all images of each split, with the interval of the split that counts."""
    stages = [s for s in STAGES if any(name.startswith(f"{s}/") for name in run.metrics)]
    rows = []
    for name, words in shown_scores(run).items():
        value = run.metrics.get(f"{run.stage}/{name}")
        ends = run.metrics.get(f"{run.stage}/{name}_ci95")
        values = [_cell(run.metrics, f"{stage}/{name}", words) for stage in stages]
        rows.append(
            Row(
                name=_named(words),
                cells=[*values, _ends(ends, words)],
                anchor=anchor_of(name),
                bar=None if words.unit or name == "loss" else (value, ends),
                strong=name in MAIN[: 2 if run.task == "segmentation" else len(MAIN)],
            )
        )
    if not rows:
        return None
    undefined = [
        f"{words.name} is undefined for {whole(count)} {STAGES[run.stage]} images, which are left "
        "out of its mean."
        for name, words in words_of(run.task).items()
        if (count := run.metrics.get(f"{run.stage}/{name}_undefined"))
    ]
    return Table(
        caption=f"Scores of the best epoch; the interval is that of {STAGES[run.stage]}",
        head=["", *(STAGES[stage] for stage in stages), "95 % interval"],
        rows=rows,
        note=" ".join(undefined),
    )


def class_table(run: RunFiles) -> Table | None:
    """The scores of each class; None where there are none."""
    stage, words = run.stage, words_of(run.task)
    found = [
        (name, metric)
        for metric in BY_CLASS
        for name in _classes_with(run.metrics, f"{stage}/{metric}/")
    ]
    metrics = list(dict.fromkeys(metric for _, metric in found))
    names = list(dict.fromkeys([*run.class_names, *(name for name, _ in found)]))
    names = [name for name in names if any(name == with_score for with_score, _ in found)]
    if not names:
        return None
    counts = (run.dataset.get("class_counts") or {}).get(stage)
    leading = metrics[0]
    rows = [
        Row(
            name=name,
            cells=[
                *([whole(counts.get(name, 0))] if counts else []),
                *(_class_cell(run.metrics, f"{stage}/{metric}/{name}") for metric in metrics),
            ],
            bar=(
                run.metrics.get(f"{stage}/{leading}/{name}"),
                run.metrics.get(f"{stage}/{leading}/{name}_ci95"),
            ),
        )
        for name in names
    ]
    headed = [words[metric].name.replace(" (pixels)", "") for metric in metrics]
    return Table(
        caption=f"Scores of each class on the {STAGES[stage]} images, 95 % interval in brackets",
        head=["class", *(["images"] if counts else []), *headed],
        rows=rows,
        note=f"The scale on the right shows the {headed[0]} and its interval.",
    )


def lesion_table(run: RunFiles) -> Table | None:
    """The scores of images with small, medium and large lesions; None where there are none."""
    sizes: Sequence[Mapping[str, Any]] = run.summary.get("lesion_sizes") or []
    words = words_of("segmentation")
    metrics = [
        name for name in ("dice", "iou", "hd95_px", "nsd_2px") if any(name in s for s in sizes)
    ]
    if not metrics:
        return None
    rows = []
    for size in sizes:
        empty = not size.get("num_images")
        cells = [
            NOT_MEASURED if empty else _sized(size, metric, words[metric]) for metric in metrics
        ]
        bar = None if empty else (size.get(metrics[0]), size.get(f"{metrics[0]}_ci95"))
        share = _share(size.get("from_percent"), size.get("to_percent"))
        rows.append(
            Row(name=str(size["name"]), cells=[share, whole(size["num_images"]), *cells], bar=bar)
        )
    headed = [_named(words[metric]) for metric in metrics]
    return Table(
        caption="Scores by the share of the image that the true mask covers, 95 % interval in "
        "brackets",
        head=["lesion", "share of the image", "images", *headed],
        rows=rows,
        note=f"The scale on the right shows {headed[0]} and its interval.",
    )


def operating_table(run: RunFiles) -> Table | None:
    """What each threshold of a binary classifier gives; None where there are none."""
    points: Sequence[Mapping[str, Any]] = run.summary.get("operating_points") or []
    if not points:
        return None
    origin = {"val": "validation", "fixed": "fixed beforehand"}
    rows = [
        Row(
            name=str(point["name"]),
            cells=[
                score(point.get("threshold")),
                origin.get(str(point.get("chosen_on")), str(point.get("chosen_on"))),
                *(with_interval(point.get(rate), point.get(f"{rate}_ci95")) for rate in RATES),
            ],
            strong=point["name"] == "in use",
        )
        for point in points
    ]
    positives, negatives = points[0].get("num_positives"), points[0].get("num_negatives")
    note = "No threshold was chosen on test images."
    if is_number(positives) and is_number(negatives) and positives + negatives:
        share = 100 * positives / (positives + negatives)
        note += (
            f" Of the images {whole(positives)} are positive and {whole(negatives)} negative. PPV "
            f"and NPV hold where {share:.1f} % of the images are positive, as here, and nowhere "
            "else."
        )
    return Table(
        caption="What each threshold gives on the test images, 95 % interval in brackets",
        head=["threshold", "from", "chosen on", *RATES.values()],
        rows=rows,
        note=note,
    )


def _cell(metrics: Mapping[str, Any], name: str, words: Words) -> str:
    return _written(metrics[name], words) if name in metrics else NOT_MEASURED


def _written(value: float | None, words: Words) -> str:
    if words.unit:
        return f"{value:.1f}" if is_number(value) else UNDEFINED
    return score(value)


def _ends(ends: Any, words: Words) -> str:
    if not is_interval(ends):
        return NOT_MEASURED
    return " to ".join(_written(end, words) for end in ends)


def _class_cell(metrics: Mapping[str, Any], name: str) -> str:
    if name not in metrics:
        return NOT_MEASURED
    return with_interval(metrics[name], metrics.get(f"{name}_ci95"))


def _sized(size: Mapping[str, Any], metric: str, words: Words) -> str:
    ends = size.get(f"{metric}_ci95")
    text = _written(size.get(metric), words)
    return f"{text} ({_ends(ends, words)})" if is_interval(ends) else text


def _named(words: Words) -> str:
    return f"{words.name}, {words.unit}" if words.unit else words.name


def _share(low: float | None, high: float | None) -> str:
    """A range of per cent; one number where both ends are equal, an open end in words."""
    if not is_number(low) or not is_number(high):
        known = [f"{word} {end:.3g} %" for word, end in (("over", low), ("up to", high)) if end]
        return known[0] if known else NOT_MEASURED
    return f"{low:.3g} %" if low == high else f"{low:.3g} to {high:.3g} %"


def _classes_with(metrics: Mapping[str, Any], prefix: str) -> list[str]:
    """Classes that have a score of this name, in the order of the summary."""
    names = [name.removeprefix(prefix) for name in metrics if name.startswith(prefix)]
    return [
        name
        for name in names
        if not (name.endswith("_ci95") and name.removesuffix("_ci95") in names)
    ]
