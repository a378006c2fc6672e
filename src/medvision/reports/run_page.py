"""Report of a run: one self-contained page that starts with the result in one sentence."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvision.files import write_atomically
from medvision.reports.page import (
    Picture,
    jpeg_picture,
    png_picture,
    render,
    whole,
)
from medvision.reports.run_facts import (
    commands,
    data_counts,
    data_facts,
    run_facts,
    set_name,
)
from medvision.reports.run_files import RunFiles
from medvision.reports.score_tables import (
    STAGES,
    calibration_table,
    class_table,
    key_numbers,
    lesion_table,
    operating_table,
    other_table,
    shown_scores,
)
from medvision.reports.task_report import TaskReport
from medvision.reports.warnings import looks, twin_table
from medvision.scores import (
    Score,
    is_interval,
    is_number,
    other_scores,
    scores_at,
    scores_of,
)
from medvision.task_definition import task_of

UNFINISHED = {"running": "is still running", "interrupted": "was interrupted", "failed": "failed"}


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One large number: what it is called, its value and its interval, empty without one."""

    name: str
    value: str
    ends: str


def report_of(run: RunFiles) -> TaskReport:
    """What the run's task adds to its report."""
    report: TaskReport = task_of(run.task).load("report")()
    return report


def title(run: RunFiles) -> str:
    """Name of the page."""
    name = str(run.summary.get("experiment", "run"))
    return f"{name}, evaluated" if run.summary.get("evaluated") else name


def headline(run: RunFiles) -> str:
    """One sentence: what was trained on what, with which result and interval."""
    evaluated: dict[str, Any] = run.summary.get("evaluated") or {}
    model: dict[str, Any] = run.summary.get("model") or {}
    network = str(model.get("name", "The network"))
    if is_number(model.get("num_parameters")):
        network += f" ({parameters(model['num_parameters'])} parameters)"
    if run.external:
        trained = PurePath(str(evaluated["run"]))
        drawn = " on synthetic images" if run.trained_on_synthetic else ""
        name = "/".join(trained.parts[-2:])
        history = f"trained{drawn} in the run {name} and measured on other images,"
    elif run.num_images.get("train"):
        kind = "synthetic images" if run.dataset.get("synthetic") else "images"
        history = f"trained on {whole(run.num_images['train'])} {kind} of {set_name(run)},"
    else:
        history = f"trained on {set_name(run)},"
    result = report_of(run).result(run)
    status = str(run.summary.get("status", "finished"))
    if result is None:
        return f"{network}, {history} has no result yet: the run {UNFINISHED.get(status, status)}."
    late = f" The run {UNFINISHED[status]}." if status in UNFINISHED else ""
    return f"{network}, {history} {result}.{late}"


def tiles(run: RunFiles) -> list[Tile]:
    """The few scores that matter most."""
    classes = "tile of two classes" if len(run.class_names) == 2 else "tile of many classes"
    found = []
    for score in scores_of(run.task):
        value = run.metrics.get(f"{run.stage}/{score.name}")
        ends = run.metrics.get(f"{run.stage}/{score.name}_ci95")
        if {"tile", classes}.isdisjoint(score.places) or not is_number(value):
            continue
        found.append(
            Tile(
                name=score.capitalized,
                value=f"{score.text(value)} {score.unit}".strip(),
                ends=score.interval_text(ends) if is_interval(ends) else "",
            )
        )
    return found


def parameters(count: float) -> str:
    """A number of parameters in thousands or millions."""
    for size, unit in ((1e6, " M"), (1e3, " k")):
        if count >= size:
            return f"{count / size:.1f}{unit}"
    return whole(count)


JUDGED = {
    "roc": "Sensitivity against 1 - specificity at every threshold. The dotted line is chance.",
    "precision_recall": "Precision against recall at every threshold. Dotted: share of the class, "
    "which is the precision of chance.",
    "calibration": "How often the network is right against how sure it is; bars on the dotted line "
    "would be calibrated. Below, the images in each bin.",
    "confusion": "Images by true and by predicted class.",
}
ALTERNATIVES = {
    "roc": "ROC curve",
    "precision_recall": "Precision-recall curve",
    "calibration": "Calibration diagram",
    "confusion": "Confusion matrix",
}
TITLES = {
    "roc": "ROC",
    "precision_recall": "precision-recall",
    "calibration": "calibration",
    "confusion": "confusion",
}
GRID = "test_images"


@dataclass(frozen=True, kw_only=True)
class Case:
    """One test image that the report shows.

    Attributes:
        title: Name of the file.
        caption: What the network made of it, such as ``Dice 0.312, IoU 0.184``.
        picture: RGB (H, W, 3) in [0, 255]: the image, for masks with the overlay beside it.
        wrong: Whether the prediction is wrong, which the page marks.
    """

    title: str
    caption: str
    picture: NDArray[np.uint8]
    wrong: bool = False


@dataclass(frozen=True, kw_only=True)
class ShownCase:
    """A case whose picture is ready for the page."""

    title: str
    caption: str
    picture: Picture
    wrong: bool


def write_report(
    folder: Path,
    *,
    summary: Mapping[str, Any] | None = None,
    worst: Sequence[Case] = (),
    typical: Sequence[Case] = (),
) -> Path:
    """Write ``report.html`` of a run, or of an evaluation, from what lies in its folder.

    Read are ``summary.json`` and, where they are, ``config.yaml``, ``environment.json``,
    ``splits.csv``, ``predictions_test.csv`` and ``plots/*.png``.

    Args:
        folder: Run folder.
        summary: What ``summary.json`` will hold, where it is written after the report.
        worst: Test images with the lowest scores, the worst first.
        typical: Test images with middling scores.

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
    """What the template shows; a part that is empty makes no section."""
    curves = {score.name: f"{score.capitalized} by epoch" for score in scores_at("curve", run.task)}
    pictured = {*curves, *JUDGED, GRID}
    further = {name: name.replace("_", " ") for name in run.plots if name not in pictured}
    grid = {} if worst or typical else {GRID: "Some of the test images"}
    own = report_of(run)
    sections = own.sections(run)
    return {
        "image_note": own.image_note,
        "sections": sections,
        "own_parts": [(part.anchor, part.title, True) for part in sections],
        "started": run.environment.get("started"),
        "title": title(run),
        "headline": headline(run),
        "audit": run.summary.get("audit") or {},
        "sealed": run.sealed,
        "dataset": run.dataset,
        "tiles": tiles(run),
        "key_numbers": key_numbers(run),
        "looks": looks(run),
        "other_table": other_table(run),
        "twin_table": twin_table(run),
        "warnings": [str(warning) for warning in run.summary.get("warnings") or []],
        "data_facts": data_facts(run),
        "data_counts": data_counts(run),
        "detail_tables": [t for t in (lesion_table(run), class_table(run)) if t is not None],
        "detail_title": "By lesion size" if run.summary.get("lesion_sizes") else "By class",
        "calibration_table": calibration_table(run),
        "operating_table": operating_table(run),
        "curves": _plots(run, curves),
        "judged": _plots(run, ALTERNATIVES, captions=JUDGED),
        "judged_title": _listed_title([name for name in JUDGED if name in run.plots]),
        "cases": {"worst": [*map(_shown, worst)], "typical": [*map(_shown, typical)]},
        "grid": _plots(run, grid),
        "others": _plots(run, further, captions=further),
        "outcome": own.outcome(run),
        "definitions": _defined(run),
        "class_names": run.class_names,
        "terms": _terms(run),
        "run_facts": run_facts(run),
        "commands": commands(run),
        "config": run.config_text,
    }


def _plots(
    run: RunFiles, names: Mapping[str, str], *, captions: Mapping[str, str] | None = None
) -> list[Picture]:
    """The plots of these names that there are, each with its text for those who see none."""
    captions = captions or {}
    return [
        png_picture(run.plots[name], alt=alt, caption=captions.get(name, ""))
        for name, alt in names.items()
        if name in run.plots
    ]


def _listed_title(names: Sequence[str]) -> str:
    """Title of the section with the pictures that judge the test images."""
    shown = [TITLES[name] for name in names]
    text = ", ".join(shown[:-1]) + " and " + shown[-1] if len(shown) > 1 else "".join(shown)
    return text[:1].upper() + text[1:]


def _shown(case: Case) -> ShownCase:
    alt = f"Test image {case.title}: {case.caption}"
    return ShownCase(
        title=case.title,
        caption=case.caption,
        picture=jpeg_picture(case.picture, alt=alt),
        wrong=case.wrong,
    )


def _defined(run: RunFiles) -> list[Score]:
    """Every score on the page."""
    return [*shown_scores(run).values(), *other_scores(run.metrics, run.task)]


def _terms(run: RunFiles) -> set[str]:
    """What else on the page the template defines."""
    shown = key_numbers(run)
    heads = shown.head if shown is not None else ()
    points: Sequence[Mapping[str, Any]] = run.summary.get("operating_points") or []
    terms = {
        "classes": report_of(run).of_classes,
        "predictive": bool(points),
        "prevalence": bool(points) and "prevalence" in points[0],
        "interval": any(name.endswith("_ci95") for name in run.metrics),
        "train": STAGES["train"] in heads,
    }
    return {name for name, there in terms.items() if there}
