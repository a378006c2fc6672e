"""What a report says first: the result in one sentence, and in a few large numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from medvision.reports.metric_words import words_of
from medvision.reports.page import interval, is_interval, is_number, score, whole
from medvision.reports.run_files import RunFiles
from medvision.reports.score_tables import images_of

UNFINISHED = {"running": "is still running", "interrupted": "was interrupted", "failed": "failed"}
UNNAMED = ("folder_segmentation", "folder_classification")  # experiments for any data
MOST_NAMES = 4  # classes: more of them make no sentence


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One large number: what it is called, its value and its interval, empty without one."""

    name: str
    value: str
    ends: str


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
    result = _result(run)
    status = str(run.summary.get("status", "finished"))
    if result is None:
        return f"{network}, {history} has no result yet: the run {UNFINISHED.get(status, status)}."
    late = f" The run {UNFINISHED[status]}." if status in UNFINISHED else ""
    return f"{network}, {history} {result}.{late}"


def tiles(run: RunFiles) -> list[Tile]:
    """The few scores that matter most."""
    names = ["dice", "iou", "hd95_px", "auroc"]
    if run.task != "segmentation":
        rates = ["recall", "specificity"] if len(run.class_names) == 2 else ["balanced_accuracy"]
        names = ["accuracy", "auroc", *rates]
    words, found = words_of(run.task), []
    for name in names:
        value = run.metrics.get(f"{run.stage}/{name}")
        ends = run.metrics.get(f"{run.stage}/{name}_ci95")
        if not is_number(value):
            continue
        found.append(
            Tile(
                name=words[name].title,
                value=f"{words[name].written(value)} {words[name].unit}".strip(),
                ends=words[name].written_interval(ends) if is_interval(ends) else "",
            )
        )
    return found


def set_name(run: RunFiles) -> str:
    """Name of the data set; of images in a folder, that of the folder too."""
    name = str(run.dataset.get("name", "an unnamed set"))
    folder = PurePath(run.root).name if run.root else ""
    if not folder or folder == name:
        return name
    return folder if name in UNNAMED else f"{name} ({folder})"


def parameters(count: float) -> str:
    """A number of parameters in thousands or millions."""
    for size, unit in ((1e6, " M"), (1e3, " k")):
        if count >= size:
            return f"{count / size:.1f}{unit}"
    return whole(count)


def _result(run: RunFiles) -> str | None:
    """What the network does, with score and interval; None where nothing was measured."""
    count = run.num_images.get(run.stage) or len(run.predictions)
    images = f"images of {set_name(run)}" if run.external else images_of(run.stage)
    shown = f"{whole(count)} {images}" if count else f"the {images}"
    if run.task == "segmentation":
        if "dice" not in _measured(run):
            return None
        foreground = _listed(run.class_names[1:]) or "the foreground"
        return f"segments {foreground} in {shown} with a mean Dice of {_score(run, 'dice')}"
    if "accuracy" not in _measured(run):
        return None
    names = _listed(run.class_names) or f"{len(run.class_names) or 'the'} classes"
    text = f"tells {names} apart in {shown} with an accuracy of {_score(run, 'accuracy')}"
    if is_number(run.metrics.get(f"{run.stage}/auroc")):
        mean = "a mean" if len(run.class_names) > 2 else "an"
        text += f" and {mean} AUROC of {_score(run, 'auroc')}"
    return text


def _measured(run: RunFiles) -> set[str]:
    prefix = f"{run.stage}/"
    return {name.removeprefix(prefix) for name in run.metrics if name.startswith(prefix)}


def _score(run: RunFiles, name: str) -> str:
    value = run.metrics.get(f"{run.stage}/{name}")
    ends = run.metrics.get(f"{run.stage}/{name}_ci95")
    return score(value) + (f" (95 % interval {interval(ends)})" if is_interval(ends) else "")


def _listed(names: Sequence[str]) -> str:
    """Names as a list in words; empty where there are none or too many."""
    if not 0 < len(names) <= MOST_NAMES:
        return ""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
