"""Report of a run: a self-contained page that starts with a one-sentence result."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvision.files import write_atomically
from medvision.reports.page import Picture, jpeg_picture, png_picture, render, whole
from medvision.reports.run_facts import (
    commands,
    duration,
    groups_of,
    set_name,
    split_in_words,
)
from medvision.reports.run_files import RunFiles
from medvision.reports.score_tables import (
    STAGES,
    TWINS,
    images_of,
    key_stages,
    scores_in,
    scores_of_classes,
    share_in_words,
    shown_scores,
    stages_with,
)
from medvision.reports.task_report import TaskReport, further_sections, listed
from medvision.scores import (
    Score,
    is_number,
    named_scores,
    other_scores,
    scores_at,
    scores_of,
)
from medvision.task_definition import task_of

UNFINISHED = {"running": "is still running", "interrupted": "was interrupted", "failed": "failed"}


def report_of(run: RunFiles) -> TaskReport:
    """Return the report text of the run's task."""
    report: TaskReport = task_of(run.task).load("report")()
    return report


def title(run: RunFiles) -> str:
    """Title of the page: experiment, task and data set."""
    name = str(run.summary.get("experiment", "run"))
    made = " (synthetic)" if run.dataset.get("synthetic") else ""
    about = f"{run.task} of {set_name(run)}{made}"
    text = about[:1].upper() + about[1:] if name == run.task else f"{name}: {about}"
    return f"{text}, evaluated" if run.summary.get("evaluated") else text


def headline(run: RunFiles) -> str:
    """Summarise training data and result, with its interval, in one sentence."""
    evaluated: dict[str, Any] = run.summary.get("evaluated") or {}
    model: dict[str, Any] = run.summary.get("model") or {}
    network = str(model.get("name", "The network"))
    if is_number(model.get("num_parameters")):
        network += f" ({parameters(model['num_parameters'])} parameters)"
    if run.external:
        trained = PurePath(str(evaluated["run"]))
        drawn = " on synthetic images" if run.trained_on_synthetic else ""
        name = "/".join(trained.parts[-2:])
        history = f"trained{drawn} in the run {name} and evaluated on other images,"
    elif run.num_images.get("train"):
        kind = "synthetic images" if run.dataset.get("synthetic") else "images"
        history = f"trained on {whole(run.num_images['train'])} {kind} of {set_name(run)},"
    else:
        history = f"trained on {set_name(run)},"
    result = report_of(run).result(run)
    status = run.status
    if result is None:
        return f"{network}, {history} has no result yet: the run {UNFINISHED.get(status, status)}."
    late = f" The run {UNFINISHED[status]}." if status in UNFINISHED else ""
    return f"{network}, {history} {result}.{late}"


def tiles(run: RunFiles) -> list[tuple[Score, float, Any]]:
    """Select the most important scores, with value and interval."""
    classes = "tile of two classes" if len(run.class_names) == 2 else "tile of many classes"
    found = [
        (score, run.metrics.get(f"{run.stage}/{score.name}"))
        for score in scores_of(run.task)
        if not {"tile", classes}.isdisjoint(score.places)
    ]
    return [
        (score, value, run.metrics.get(f"{run.stage}/{score.name}_ci95"))
        for score, value in found
        if is_number(value)
    ]


def parameters(count: float) -> str:
    """Format a number of parameters in thousands or millions."""
    for size, unit in ((1e6, " M"), (1e3, " k")):
        if count >= size:
            return f"{count / size:.1f}{unit}"
    return whole(count)


JUDGED = {
    "roc": (
        "ROC",
        "ROC curve",
        "Sensitivity against 1 - specificity at every threshold. The dotted line is chance.",
    ),
    "precision_recall": (
        "precision-recall",
        "Precision-recall curve",
        "Precision against recall at every threshold. The dotted line is chance: the "
        "share of the class.",
    ),
    "calibration": (
        "calibration",
        "Calibration diagram",
        "Accuracy against predicted probability; bars on the dotted line show perfect "
        "calibration. Below: images in each bin.",
    ),
    "confusion": (
        "confusion",
        "Confusion matrix",
        "Images by true and by predicted class.",
    ),
}
"""Plots of the test images: name in a title, text alternative, caption."""

GRID = "test_images"

IN_A_BANNER = ("the data were not audited", "the test split is sealed")
"""Starts of the warnings that a banner of the page repeats."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A test image in the report.

    Attributes:
        title: Name of the file.
        caption: Result for the image, such as ``Dice 0.312, IoU 0.184``.
        picture: RGB (H, W, 3) in [0, 255]: the image, for masks with the overlay beside it.
        wrong: If True, the prediction is wrong and the page marks it.
    """

    title: str
    caption: str
    picture: NDArray[np.uint8]
    wrong: bool = False


def write_report(
    folder: Path,
    *,
    summary: Mapping[str, Any] | None = None,
    worst: Sequence[Case] = (),
    typical: Sequence[Case] = (),
) -> Path:
    """Write ``report.html`` of a run, or of an evaluation, from the files in its folder.

    Reads ``summary.json`` and, if they exist, ``config.yaml``, ``environment.json``,
    ``splits.csv``, ``predictions_test.csv`` and ``plots/*.png``.

    Args:
        folder: Run folder.
        summary: Content of ``summary.json``, if it is written after the report.
        worst: Test images with the lowest scores, the worst first.
        typical: Test images with average scores.

    Returns:
        Path of the page.

    Raises:
        MedvisionError: If there is no ``summary.json``, or a file cannot be read.
    """
    run = RunFiles.read(folder, summary=summary)
    page = render("report.html.j2", **_context(run, worst=worst, typical=typical))
    path = folder / "report.html"
    write_atomically(path, page)
    return path


def _context(run: RunFiles, *, worst: Sequence[Case], typical: Sequence[Case]) -> Mapping[str, Any]:
    """Build the template context; empty parts produce no section."""
    summary, own = run.summary, report_of(run)
    sections = [*own.sections(run), *further_sections(run)]
    curves = {s.name: (f"{s.capitalized} by epoch", "") for s in scores_at("curve", run.task)}
    judged = {name: texts for name, texts in JUDGED.items() if name in run.plots}
    pictured = {*curves, *JUDGED, GRID, *(part.plot for part in sections)}
    further = {name: name.replace("_", " ") for name in run.plots if name not in pictured}
    stages, others = key_stages(run), other_scores(run.metrics, run.task)
    other_stages = stages_with(run, [score.name for score in others], STAGES)
    lesion_sizes, points = (summary.get(k) or [] for k in ("lesion_sizes", "operating_points"))
    twins, fitted = (summary.get(key) or {} for key in ("twins", "calibration"))
    twin_scores = scores_in(run, [twins.get(part) or {} for part in TWINS])
    baselines = [(twins.get("memory_baseline") or {}).get(part) or {} for part in TWINS]
    remembered = {score.name for score in scores_in(run, baselines)}
    calibrated = stages_with(run, ["ece_calibrated"], dict.fromkeys((run.stage, "val")))
    scored_classes, class_scores = scores_of_classes(run)
    class_counts = run.dataset.get("class_counts") or {}
    groups, audit = groups_of(run), summary.get("audit") or {}
    found = [
        (finding["severity"], "; ".join(filter(None, (finding["text"], finding.get("advice")))))
        for finding in audit.get("findings") or []
        if finding["severity"] != "leak"  # leaks are in the banner
    ]
    elsewhere = {
        *(text for _, text in found),
        *(f"LEAK: {leak}" for leak in audit.get("leaks") or ()),
    }
    memory = audit.get("memory_baseline") or {}
    splits = [stage for stage in STAGES if run.num_images.get(stage) is not None]
    if run.external:  # every image of the other data set is tested
        splits = [split for split in splits if run.num_images[split]]
    return {
        "run": run,
        "scores": named_scores(run.task),
        "own": own,
        "sections": sections,
        "section_plots": {
            part.plot: _plots(run, {part.plot: (part.title, "")}) for part in sections if part.plot
        },
        "own_parts": [(part.anchor, part.title, True) for part in sections],
        "title": title(run),
        "headline": headline(run),
        "audit": audit,
        "external_check": summary.get("external_check") or {},
        "learnt": "training or validation" if run.external else "training",
        "severities": {
            **Counter(finding.get("severity") for finding in audit.get("findings") or []),
            **({"leak": len(audit["leaks"])} if audit.get("leaks") else {}),  # identical ones once
        },
        "tiles": tiles(run),
        "stages": stages,
        "stage_titles": STAGES,
        "stage_heads": [STAGES[stage] for stage in stages],
        "images_of": images_of,
        "shown": shown_scores(run),
        "looks": summary.get("test_evaluations"),
        "others": others,
        "other_stages": other_stages,
        "other_heads": [STAGES[stage] for stage in other_stages],
        "twins": twins,
        "twin_scores": twin_scores,
        "remembered": remembered,
        "twin_heads": [
            head
            for score in twin_scores
            for head in (
                score.heading,
                *[f"{score.heading} of the memory baseline"] * (score.name in remembered),
            )
        ],
        "warnings": [
            text
            for text in summary.get("warnings") or []
            if text not in elsewhere and not text.startswith(IN_A_BANNER)
        ],
        "found": found,
        "memory": memory if run.stage == "test" and memory.get("protocol") == "test split" else {},
        "set_name": set_name(run),
        "split": split_in_words(run.dataset) if run.dataset.get("protocol") else None,
        "groups": groups,
        "splits": splits,
        "class_counts": class_counts,
        "counted_classes": [*run.class_names] if class_counts else [],
        "groups_in": {s: sum(s in found for found in groups.values()) for s in splits},
        "lesion_sizes": lesion_sizes,
        "annotators": summary.get("annotators") or {},
        "lesion_scores": scores_in(run, lesion_sizes),
        "share_in_words": share_in_words,
        "class_scores": class_scores,
        "scored_classes": scored_classes,
        "fitted": fitted,
        "calibrated": calibrated if is_number(fitted.get("temperature")) else [],
        "calibrated_heads": [
            f"{STAGES[stage]}, {when}" for stage in calibrated for when in ("before", "after")
        ],
        "points": points,
        "curves": _plots(run, curves),
        "judged": _plots(run, {name: texts[1:] for name, texts in judged.items()}),
        "judged_title": _listed_title([title for title, *_ in judged.values()]),
        "worst": [*map(_shown, worst)],
        "typical": [*map(_shown, typical)],
        "grid": [] if worst or typical else _plots(run, {GRID: ("Some of the test images", "")}),
        "outcome": own.outcome(run),
        "further": _plots(run, {name: (words, words) for name, words in further.items()}),
        "definitions": [*shown_scores(run).values(), *others],
        "has_intervals": any(name.endswith("_ci95") for name in run.metrics),
        "duration": duration,
        "commands": commands(run),
    }


def _plots(run: RunFiles, texts: Mapping[str, tuple[str, ...]]) -> list[Picture]:
    """Load the existing plots of these names, each with its text alternative."""
    return [
        png_picture(run.plots[name], alt=alt, caption=caption)
        for name, (alt, caption) in texts.items()
        if name in run.plots
    ]


def _listed_title(titles: Sequence[str]) -> str:
    """Title of the section with the plots of the test images."""
    text = listed(titles)
    return text[:1].upper() + text[1:]


def _shown(case: Case) -> tuple[Case, Picture]:
    """Pair a case with its embedded picture."""
    return case, jpeg_picture(case.picture, alt=f"Test image {case.title}: {case.caption}")
