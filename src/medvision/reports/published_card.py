"""Model card in Markdown, for a model that is given to others.

Its metadata (YAML at the head) is that of the Hugging Face Hub, as described in its documentation
on model cards; its sections follow Mitchell et al., "Model Cards for Model Reporting", FAT* 2019.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import yaml

from medvision.console import counted
from medvision.files import read_rows
from medvision.reports.findings import findings
from medvision.reports.run_facts import set_name, split_in_words
from medvision.reports.run_files import RunFiles
from medvision.scores import is_interval, is_number, scores_of
from medvision.task_definition import task_names, task_of
from medvision.types import RESEARCH_ONLY

MARK = "library_name: medvision"
"""Line of the metadata by which a card is recognised as written by this program."""

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|])")


def published_card(
    *,
    title: str,
    task: str,
    architecture: str,
    num_parameters: int,
    image_size: int,
    class_names: Sequence[str],
    file: str,
    run: RunFiles | None,
) -> str:
    """Write the model card of an exported network.

    Args:
        title: Name of the model.
        task: Kind of the task.
        architecture: Display name of the network.
        num_parameters: Number of trainable parameters.
        image_size: Height and width of the input, in pixels.
        class_names: Names of the classes.
        file: Name of the exported file.
        run: Run folder that the network comes from; None if unknown.

    Returns:
        Markdown with metadata.
    """
    per_pixel = task in task_names() and task_of(task).per_pixel
    scores = [] if run is None else _scores(run)
    kind = "image-segmentation" if per_pixel else "image-classification"
    metadata: dict[str, Any] = {
        "library_name": "medvision",
        "pipeline_tag": kind,
        "tags": ["medical-imaging", task, "research-use-only"],
    }
    if run is not None and scores:
        results = [
            {"type": name, "name": f"{run.stage} {heading}", "value": value}
            for name, heading, value, _ in scores
        ]
        data = {"type": set_name(run), "name": set_name(run), "split": run.stage}
        result = {"task": {"type": kind}, "dataset": data, "metrics": results}
        metadata["model-index"] = [{"name": title, "results": [result]}]
    head = yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True)
    sections = [
        f"---\n{head}---",
        f"# {_plain(title)}",
        f"**{RESEARCH_ONLY}**",
        "## Model",
        f"{_plain(architecture)}, {num_parameters:,} parameters, input {image_size} x {image_size}"
        f" pixels. Task: {task}. Classes: {', '.join(map(_plain, class_names))}.",
        "## Use",
        f"```\nmedvision predict {file} IMAGES --out DIR\n```",
        *(_unknown() if run is None else _of_run(run, scores)),
        "## For the author to complete",
        "Intended use and users; origin, licence and consent of the training images; populations"
        " and devices on which the model was not tested; licence of the model.",
    ]
    return "\n\n".join(sections) + "\n"


def _plain(text: object) -> str:
    """Text of one line without markup."""
    return _SPECIAL.sub(r"\\\1", " ".join(str(text).split()))


def _unknown() -> list[str]:
    return ["## Data and scores", "Unknown: the file was exported without its run folder."]


def _of_run(run: RunFiles, scores: Sequence[tuple[str, str, float, str]]) -> list[str]:
    summary, dataset = run.summary, run.dataset
    images = ", ".join(f"{count} {split}" for split, count in run.num_images.items())
    data = [f"Data set {_plain(set_name(run))}: {images} images."]
    if run.trained_on_synthetic:
        data.append("The images are phantoms drawn by code: scores say nothing about patients.")
    if dataset.get("protocol"):
        data.append(f"Split: {_plain(split_in_words(dataset))}.")
    audit = summary.get("audit") or {"mode": "skip"}
    leaks = [_plain(leak) for leak in audit.get("leaks") or ()]
    audited = audit["mode"] != "skip"
    if leaks:
        found = "\n".join(f"- {leak}" for leak in leaks)
    else:
        found = "No leak was found." if audited else "The data were not audited."
    metrics = run.folder / "metrics.csv"
    history = read_rows(metrics) if metrics.is_file() else []
    remarks = dict.fromkeys([*(summary.get("warnings") or ()), *findings(summary, history)])
    limits = [text for text in map(_plain, remarks) if text.removeprefix("LEAK: ") not in leaks]
    training = [
        f"Experiment {_plain(summary.get('experiment'))}, seed {_plain(summary.get('seed'))},"
        f" {counted(int(summary.get('epochs') or 0), 'epoch')}, precision"
        f" {_plain(summary.get('precision'))}. The best epoch was chosen on validation images."
    ]
    return [
        "## Training data",
        " ".join(data),
        "### Leaks",
        found,
        "## Scores",
        _table(run, scores),
        "## Limits",
        "\n".join(f"- {limit}" for limit in limits) or "None were found automatically.",
        "## Training",
        *training,
    ]


def _scores(run: RunFiles) -> list[tuple[str, str, float, str]]:
    """Name, heading, value and interval of each headline score of the reported split."""
    found = []
    for score in scores_of(run.task) if run.task in task_names() else ():
        value = run.metrics.get(f"{run.stage}/{score.name}")
        if "headline" in score.places and is_number(value):
            ends = run.metrics.get(f"{run.stage}/{score.name}_ci95")
            interval = score.interval_text(ends) if is_interval(ends) else ""
            found.append((score.name, score.heading, float(value), interval))
    return found


def _table(run: RunFiles, scores: Sequence[tuple[str, str, float, str]]) -> str:
    if not scores:
        return "No score is known."
    split = {"test": "test", "val": "validation"}[run.stage]
    lines = [f"| score, {split} images | value | 95 % interval |", "|---|---|---|"]
    lines += [f"| {heading} | {value:.3f} | {interval} |" for _, heading, value, interval in scores]
    note = (
        "" if run.stage == "test" else "\n\nThe test images were not used: their split is sealed."
    )
    return "\n".join(lines) + note
