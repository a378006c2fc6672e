"""The scores of a run as tables: over all images, by class, by lesion size, by threshold."""

from collections.abc import Mapping, Sequence
from typing import Any

from medvision.reports.page import (
    NOT_MEASURED,
    Measured,
    Row,
    Table,
    measured,
    measured_in,
    number,
    whole,
)
from medvision.reports.run_files import RunFiles
from medvision.scores import (
    Score,
    is_interval,
    is_number,
    named_scores,
    names_at,
    other_scores,
)

STAGES = {"train": "Train", "val": "Validation", "test": "Test"}
RATES = {"sensitivity": "Sensitivity", "specificity": "Specificity", "ppv": "PPV", "npv": "NPV"}


def images_of(stage: str) -> str:
    """The images of a split in words."""
    return {"train": "training images", "val": "validation images"}.get(stage, "test images")


def shown_scores(run: RunFiles) -> dict[str, Score]:
    """The scores that the report shows, by name, in their order."""
    return {
        name: score
        for name, score in named_scores(run.task).items()
        if any(f"{stage}/{name}" in run.metrics for stage in STAGES)
    }


def key_numbers(run: RunFiles) -> Table | None:
    """Every score over all images of each split, with the interval of the split that counts.

    That split and its interval come first, where a phone shows them. A split with nothing but
    its loss is left out.
    """
    shown = shown_scores(run)
    stages = [
        stage
        for stage in (run.stage, *(s for s in ("val", "train") if s != run.stage))
        if any(f"{stage}/{name}" in run.metrics for name in shown if name != "loss")
    ]
    rows = []
    for name, score in shown.items():
        if name.endswith("_calibrated"):  # they stand beside what was before
            continue
        full = f"{run.stage}/{name}"
        value, ends = run.metrics.get(full), run.metrics.get(f"{full}_ci95")
        rows.append(
            Row(
                name=score.heading,
                cells=[
                    score.text(value) if full in run.metrics else NOT_MEASURED,
                    score.interval_text(ends) if is_interval(ends) else NOT_MEASURED,
                    *(
                        measured_in(run.metrics, f"{stage}/{name}", score)
                        for stage in stages
                        if stage != run.stage
                    ),
                ],
                anchor=score.anchor,
                bar=(value, ends) if score.bounded else None,
                strong="headline" in score.places,
            )
        )
    if not rows or not stages:
        return None
    left_out = [
        f"{score.capitalized} is undefined for {whole(count)} {images_of(run.stage)}, "
        "which its mean leaves out."
        for name, score in shown.items()
        if (count := run.metrics.get(f"{run.stage}/{name}_undefined"))
    ]
    first, *others = (STAGES[stage] for stage in stages)
    return Table(
        caption=f"Scores of the best epoch, first those of the {images_of(run.stage)}",
        head=["Score", first, "95 % interval", *others],
        rows=rows,
        note=" ".join(left_out),
    )


def other_table(run: RunFiles) -> Table | None:
    """Values that callbacks of the user logged, of the best epoch; None where there are none."""
    others = other_scores(run.metrics, run.task)
    stages = [s for s in STAGES if any(f"{s}/{score.name}" in run.metrics for score in others)]
    if not others:
        return None
    return Table(
        caption="What callbacks of this run logged in the best epoch",
        head=["Name", *(STAGES[stage] for stage in stages)],
        rows=[
            Row(
                name=score.name,
                cells=[
                    measured_in(run.metrics, f"{stage}/{score.name}", score) for stage in stages
                ],
            )
            for score in others
        ],
    )


def class_table(run: RunFiles) -> Table | None:
    """The scores of each class; None where there are none."""
    stage, scores = run.stage, named_scores(run.task)
    found = {
        name: _classes_with(run.metrics, f"{stage}/{name}/")
        for name in dict.fromkeys([*names_at("class scale", run.task), *scores])
    }
    metrics = [metric for metric, names in found.items() if names]
    measured = {name for names in found.values() for name in names}
    extra = (name for metric in metrics for name in found[metric])
    names = [name for name in dict.fromkeys([*run.class_names, *extra]) if name in measured]
    if not names:
        return None
    counts = (run.dataset.get("class_counts") or {}).get(stage)
    leading = f"{stage}/{metrics[0]}"
    rows = [
        Row(
            name=name,
            cells=[
                *([whole(counts.get(name, 0))] if counts else []),
                *(measured_in(run.metrics, f"{stage}/{m}/{name}", scores[m]) for m in metrics),
            ],
            bar=(
                run.metrics.get(f"{leading}/{name}"),
                run.metrics.get(f"{leading}/{name}_ci95"),
            ),
        )
        for name in names
    ]
    headed = [scores[metric].heading for metric in metrics]
    return Table(
        caption=f"Scores of each class on the {images_of(stage)}, with 95 % intervals",
        head=["Class", *(["Images"] if counts else []), *headed],
        rows=rows,
        note=f"On the scale: {headed[0]} and its interval.",
    )


def lesion_table(run: RunFiles) -> Table | None:
    """The scores of images with small, medium and large lesions; None where there are none."""
    sizes: Sequence[Mapping[str, Any]] = run.summary.get("lesion_sizes") or []
    scores = named_scores(run.task)
    metrics = [name for name in scores if any(name in size for size in sizes)]
    if not metrics:
        return None
    rows = []
    for size in sizes:
        empty = not size.get("num_images")
        cells = [
            NOT_MEASURED
            if empty
            else measured(size.get(metric), size.get(f"{metric}_ci95"), scores[metric])
            for metric in metrics
        ]
        bar = None if empty else (size.get(metrics[0]), size.get(f"{metrics[0]}_ci95"))
        share = _share(size.get("from_percent"), size.get("to_percent"))
        rows.append(
            Row(name=str(size["name"]), cells=[share, whole(size["num_images"]), *cells], bar=bar)
        )
    headed = [scores[metric].heading for metric in metrics]
    return Table(
        caption="Scores by the share of the image that the true mask covers, with 95 % intervals",
        head=["Lesion", "Share of the image", "Images", *headed],
        rows=rows,
        note=f"Scores at the size of the file. On the scale: {headed[0]} and its interval."
        + _left_out(sizes),
    )


def operating_table(run: RunFiles) -> Table | None:
    """What each threshold of a binary classifier gives; None where there are none."""
    points: Sequence[Mapping[str, Any]] = run.summary.get("operating_points") or []
    if not points:
        return None
    origin = {"val": "validation", "fixed": "fixed beforehand"}
    prevalence, stated = points[0].get("prevalence"), {}
    if is_number(prevalence):
        share = f"{100 * prevalence:g} %"
        stated = {f"{key}_at_prevalence": f"{RATES[key]} at {share}" for key in ("ppv", "npv")}
    rows = [
        Row(
            name=str(point["name"]),
            cells=[
                number(point.get("threshold")),
                origin.get(str(point.get("chosen_on")), str(point.get("chosen_on"))),
                *(measured(point.get(rate), point.get(f"{rate}_ci95")) for rate in RATES),
                *(_fine(point.get(rate), point.get(f"{rate}_ci95")) for rate in stated),
            ],
            strong=point["name"] == "in use",
        )
        for point in points
    ]
    positives, negatives = points[0].get("num_positives"), points[0].get("num_negatives")
    note = (
        "Every threshold was fixed beforehand or chosen on validation images, none on test images."
    )
    if is_number(positives) and is_number(negatives) and positives + negatives:
        percent = 100 * positives / (positives + negatives)
        note += (
            f" Of the images {whole(positives)} are positive and {whole(negatives)} negative: PPV "
            f"and NPV hold for a share of {percent:.1f} % positive images, and change with it."
        )
    if is_number(prevalence):
        note += (
            f" Where {share} of the patients are ill, they are what the last two "
            "columns say: the rarer the disease, the more of the positive predictions are wrong, "
            "at the same sensitivity and specificity."
        )
    return Table(
        caption="What each threshold gives on the test images, with 95 % intervals",
        head=["Threshold", "From", "Chosen on", *RATES.values(), *stated.values()],
        rows=rows,
        note=note,
    )


def calibration_table(run: RunFiles) -> Table | None:
    """Calibration error and Brier score before and after temperature scaling; None without."""
    fitted: Mapping[str, Any] = run.summary.get("calibration") or {}
    stages = [run.stage, *(["val"] if run.stage != "val" else [])]
    stages = [stage for stage in stages if f"{stage}/ece_calibrated" in run.metrics]
    if not stages or not is_number(fitted.get("temperature")):
        return None
    scores = named_scores(run.task)
    rows = [
        Row(
            name=scores[name].heading,
            cells=[
                measured_in(run.metrics, f"{stage}/{name}{when}", scores[name])
                for stage in stages
                for when in ("", "_calibrated")
            ],
            anchor=scores[name].anchor,
        )
        for name in ("ece", "brier")
    ]
    threshold, moved = run.summary.get("threshold"), fitted.get("threshold_calibrated")
    note = (
        f"Temperature {fitted['temperature']:.3g}, fitted on {whole(fitted.get('num_images'))} "
        f"validation images, on which it therefore looks a little better than it is. It changes "
        "the probabilities and no prediction"
    )
    if is_number(threshold) and is_number(moved):
        note += f": the threshold of {threshold:.4g} becomes {moved:.4g}"
    note += ". Predictions and all other scores are those of the probabilities before."
    before, after = (run.metrics.get(f"{run.stage}/{n}") for n in ("ece", "ece_calibrated"))
    if run.stage == "test" and is_number(before) and is_number(after) and after > before:
        note += (
            " On the test images the error has grown: the validation images do not stand for them."
        )
    return Table(
        caption="Before and after temperature scaling, with 95 % intervals",
        head=[
            "Score",
            *(f"{STAGES[stage]}, {when}" for stage in stages for when in ("before", "after")),
        ],
        rows=rows,
        note=note,
    )


def _fine(value: float | None, ends: Any) -> str | Measured:
    """A score with four decimals: the NPV of a rare disease is 0.99 and more."""
    if not is_number(value) or not is_interval(ends):
        return measured(value, ends)
    return Measured(value=f"{value:.4f}", ends=f"{ends[0]:.4f} to {ends[1]:.4f}")


def _left_out(sizes: Sequence[Mapping[str, Any]]) -> str:
    """Images of which size have no HD95, such as missed lesions."""
    name = "hd95_px_undefined"
    counts = [f"{whole(size[name])} of {size['name']}" for size in sizes if size.get(name)]
    return f" HD95 leaves out images where a mask is empty: {', '.join(counts)}." if counts else ""


def _share(low: float | None, high: float | None) -> str:
    """A range of per cent; one number where both ends read alike, an open end in words."""
    if not is_number(low) or not is_number(high):
        known = [f"{word} {end:.1f} %" for word, end in (("over", low), ("up to", high)) if end]
        return known[0] if known else NOT_MEASURED
    shown = f"{low:.1f}", f"{high:.1f}"
    return f"{' to '.join(dict.fromkeys(shown))} %"


def _classes_with(metrics: Mapping[str, Any], prefix: str) -> list[str]:
    """Classes that have a score of this name, in the order of the summary."""
    names = [name.removeprefix(prefix) for name in metrics if name.startswith(prefix)]
    return [
        name
        for name in names
        if not (name.endswith("_ci95") and name.removesuffix("_ci95") in names)
    ]
