"""Facts about a run for its report: data set name, groups, commands, durations."""

import shlex
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from medvision.reports.run_files import RunFiles
from medvision.types import STAGES

UNNAMED = ("folder_segmentation", "folder_classification")  # experiments for any data


def set_name(run: RunFiles) -> str:
    """Name of the data set; for images in a folder with the name of the folder."""
    name = str(run.dataset.get("name", "an unnamed set"))
    folder = PurePath(run.root).name if run.root else ""
    if not folder or folder == name:
        return name
    return folder if name in UNNAMED else f"{name} ({folder})"


def split_in_words(dataset: Mapping[str, Any]) -> str:
    """Describe how images were split: which parts were given, and how the others were drawn.

    Args:
        dataset: Section ``dataset`` of summary.json, with a ``protocol``.
    """
    protocol, drawn, seed = (dataset.get(key) for key in ("protocol", "drawn", "split_seed"))
    seeded = "" if seed is None else f", seed {seed}"
    numbers = dataset.get("num_images") or {}
    given = [] if drawn is None else [s for s in STAGES if numbers.get(s) and s not in drawn]
    if protocol == "merged":
        return f"merged protocol, all images pooled and drawn one by one{seeded} (data leakage)"
    if protocol == "grouped" and not given:
        return f"grouped protocol, all images pooled and whole groups drawn{seeded}"
    if protocol == "kfold":
        fold = f", fold {dataset['fold']} of {dataset['folds']}" if "fold" in dataset else ""
        return f"kfold protocol{fold}, all images pooled and whole groups drawn into folds{seeded}"
    if drawn is None:
        return "the given split is kept, missing parts are drawn"
    if dataset.get("synthetic"):
        return f"made with the phantoms{seeded}"
    words = f"drawn at random{seeded} (groups kept together)"
    if not given:
        return words
    kept = f"{' and '.join(given) if len(given) < 3 else 'all parts'} as given"
    return f"{kept}, {' and '.join(drawn)} {words}" if drawn else kept


def groups_of(run: RunFiles) -> dict[str, set[str]]:
    """Splits of the images of each known group."""
    found: dict[str, set[str]] = {}
    for row in run.splits:
        if row.get("group"):
            found.setdefault(row["group"], set()).add(row["split"])
    return found


def commands(run: RunFiles) -> list[str]:
    """Command lines that repeat the run and its evaluation, as far as known."""
    text = str(run.environment.get("command") or "")
    found = [f"python {text}" if text.split()[0].endswith(".py") else text] if text else []
    evaluated: Mapping[str, Any] = run.summary.get("evaluated") or {}
    if evaluated:
        words = ["medvision", "evaluate", str(evaluated.get("run"))]
        words += ["--data", str(evaluated.get("data"))] if run.external else []
        found.append(shlex.join([*words, "--split", str(evaluated.get("split"))]))
    return found


def duration(seconds: float | None) -> str | None:
    """Format a duration in hours, minutes and seconds."""
    if seconds is None:
        return None
    minutes, rest = divmod(round(seconds), 60)
    if minutes == 0:
        return f"{seconds:.1f} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
