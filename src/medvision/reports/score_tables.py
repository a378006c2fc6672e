"""Select the scores of a run for report tables: splits, classes, lesion sizes, near-duplicates."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from medvision.reports.page import NOT_MEASURED
from medvision.reports.run_files import RunFiles
from medvision.scores import Score, is_number, named_scores, names_at

STAGES = {"train": "Train", "val": "Validation", "test": "Test"}
TWINS = ("with_twin", "without_twin")


def images_of(stage: str) -> str:
    """Name the images of a split in words."""
    return {"train": "training images", "val": "validation images"}.get(stage, "test images")


def shown_scores(run: RunFiles) -> dict[str, Score]:
    """Scores shown in the report, by name and in order."""
    return {
        name: score
        for name, score in named_scores(run.task).items()
        if stages_with(run, [name], STAGES)
    }


def stages_with(run: RunFiles, names: Iterable[str], stages: Iterable[str]) -> list[str]:
    """List the splits that have any of the scores."""
    known = [*names]
    return [stage for stage in stages if any(f"{stage}/{name}" in run.metrics for name in known)]


def key_stages(run: RunFiles) -> list[str]:
    """List the splits of the key numbers, the reported one first, for narrow screens.

    Splits with only a loss are left out.
    """
    stages = [run.stage, *(stage for stage in ("val", "train") if stage != run.stage)]
    return stages_with(run, (name for name in shown_scores(run) if name != "loss"), stages)


def scores_in(run: RunFiles, parts: Sequence[Mapping[str, Any]]) -> list[Score]:
    """List the scores that any of the parts of the test images has."""
    return [
        score
        for name, score in named_scores(run.task).items()
        if any(name in part for part in parts)
    ]


def scores_of_classes(run: RunFiles) -> tuple[list[str], list[Score]]:
    """List the classes with separate scores, and these scores."""
    stage, scores = run.stage, named_scores(run.task)
    found = {
        name: _classes_with(run.metrics, f"{stage}/{name}/")
        for name in dict.fromkeys([*names_at("class scale", run.task), *scores])
    }
    measured = [name for names in found.values() for name in names]
    classes = [name for name in dict.fromkeys([*run.class_names, *measured]) if name in measured]
    return classes, [scores[name] for name, names in found.items() if names]


def share_in_words(low: float | None, high: float | None) -> str:
    """Format a range in per cent: one number for equal rounded ends, an open end in words."""
    if not is_number(low) or not is_number(high):
        known = [f"{word} {end:.1f} %" for word, end in (("over", low), ("up to", high)) if end]
        return known[0] if known else NOT_MEASURED
    shown = f"{low:.1f}", f"{high:.1f}"
    return f"{' to '.join(dict.fromkeys(shown))} %"


def _classes_with(metrics: Mapping[str, Any], prefix: str) -> list[str]:
    """List the classes with a score of this name, in the order of the summary."""
    names = [name.removeprefix(prefix) for name in metrics if name.startswith(prefix)]
    return [
        name
        for name in names
        if not (name.endswith("_ci95") and name.removesuffix("_ci95") in names)
    ]
