"""What was trained on which data, with what and for how long, in words; what is unknown is None."""

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from medvision.reports.page import whole
from medvision.reports.run_files import RunFiles
from medvision.scores import is_number

PROTOCOLS = {
    "official": "official: the given split is kept, and what is missing of it is drawn",
    "merged": "merged: all images pooled and drawn one by one, which leaks",
    "grouped": "grouped: all images pooled, whole groups drawn",
    "kfold": "kfold: all images pooled, whole groups drawn into folds",
}


UNNAMED = ("folder_segmentation", "folder_classification")  # experiments for any data


def set_name(run: RunFiles) -> str:
    """Name of the data set; of images in a folder, that of the folder too."""
    name = str(run.dataset.get("name", "an unnamed set"))
    folder = PurePath(run.root).name if run.root else ""
    if not folder or folder == name:
        return name
    return folder if name in UNNAMED else f"{name} ({folder})"


def data_facts(run: RunFiles) -> dict[str, Any]:
    """Where the images came from and how they were split."""
    dataset, data = run.dataset, run.config.get("data")
    data = data if isinstance(data, dict) else {}
    evaluated: Mapping[str, Any] = run.summary.get("evaluated") or {}
    protocol = dataset.get("protocol")
    size = data.get("image_size")
    return {
        "Data set": set_name(run),
        "Synthetic": "yes, drawn by code" if dataset.get("synthetic") else "no",
        "Folder": run.root,
        "Evaluated": _evaluated(evaluated),
        "Protocol": PROTOCOLS.get(str(protocol), protocol),
        "Groups": groups(run),
        "Audit": _audit(run.summary.get("audit") or {}),
        "Size for the network": f"{size} x {size} px" if is_number(size) else size,
        "Fingerprint": dataset.get("fingerprint"),
    }


def groups_by_split(run: RunFiles, splits: Sequence[str]) -> dict[str, int]:
    """How many groups each split holds; empty where none are known."""
    found = {
        split: {row["group"] for row in run.splits if row["split"] == split and row.get("group")}
        for split in splits
    }
    return {split: len(names) for split, names in found.items()} if any(found.values()) else {}


def groups(run: RunFiles) -> str | None:
    """Whether images that belong together stayed together; None where the split is not known."""
    if not run.splits:
        return None
    where: dict[str, set[str]] = {}
    for row in run.splits:
        if row.get("group"):
            where.setdefault(row["group"], set()).add(row["split"])
    if not where:
        if run.dataset.get("synthetic"):
            return None
        return "not known: images of one patient may lie on both sides of the split"
    single = sum(not row.get("group") for row in run.splits)
    torn = sum(len(stages) > 1 for stages in where.values())
    text = f"{whole(len(where))} known (patients or near-identical images)"
    text += f", {whole(single)} images without one" if single else ""
    return text + (
        f"; {whole(torn)} of them lie in more than one split"
        if torn
        else "; each kept in one split"
    )


def run_facts(run: RunFiles) -> dict[str, Any]:
    """What was trained, for how long, on what, and with which program."""
    summary, found = run.summary, run.environment
    model: Mapping[str, Any] = summary.get("model") or {}
    timing: Mapping[str, Any] = summary.get("timing") or {}
    hardware: Mapping[str, Any] = found.get("hardware") or {}
    git: Mapping[str, Any] = found.get("git") or {}
    packages: Mapping[str, Any] = found.get("packages") or {}
    weights: Mapping[str, Any] = model.get("weights") or {}
    count, speed = model.get("num_parameters"), timing.get("train_images_per_s")
    peak, memory = timing.get("peak_memory_mb"), hardware.get("memory_mb")
    return {
        "Network": f"{model.get('name')}, {whole(count)} parameters" if count else None,
        "Weights to start from": _weights(weights),
        "Epochs": _epochs(summary),
        "Threshold": _threshold(summary),
        "Seed": summary.get("seed"),
        "Training time": _duration(timing.get("fit_s")),
        "Time to the first step": _duration(timing.get("time_to_first_step_s")),
        "Speed": f"{speed:.1f} training images per second" if is_number(speed) else None,
        "Peak memory": f"{whole(peak)} MB" if is_number(peak) else None,
        "Agreement with the run": _agreement(summary.get("evaluated") or {}),
        "Device and precision": _joined(summary.get("device"), summary.get("precision")),
        "Processor": _joined(
            hardware.get("processor"),
            f"{hardware['cores']} cores" if hardware.get("cores") else None,
            hardware.get("cpu_capability"),
            f"{whole(memory)} MB memory" if is_number(memory) else None,
        ),
        "GPU": _joined(*map(_gpu, hardware.get("gpus") or [])),
        "System": hardware.get("system"),
        "Python": found.get("python"),
        "Packages": ", ".join(f"{name} {version}" for name, version in packages.items() if version),
        "Source": _source(git),
        "Started": str(found.get("started") or "").replace("T", " ", 1),
    }


def commands(run: RunFiles) -> list[str]:
    """The command lines that repeat the run and its evaluation, as far as they are known."""
    text = str(run.environment.get("command") or "")
    found = [f"python {text}" if text.split()[0].endswith(".py") else text] if text else []
    evaluated: Mapping[str, Any] = run.summary.get("evaluated") or {}
    if evaluated:
        words = ["medvision", "evaluate", str(evaluated.get("run"))]
        words += ["--data", str(evaluated.get("data"))] if run.external else []
        found.append(shlex.join([*words, "--split", str(evaluated.get("split"))]))
    return found


def _audit(audit: Mapping[str, Any]) -> str | None:
    """How thoroughly the data were audited and what was found, in a line; None if not at all."""
    if not audit:
        return None
    if audit.get("mode") == "skip":
        return "left out, by choice"
    counts = Counter(str(finding.get("severity")) for finding in audit.get("findings") or [])
    told = [f"{whole(n)} {kind}{'s' * (n > 1)}" for kind, n in counts.items() if kind != "note"]
    extent = "complete" if audit.get("complete") else "the cheap checks only"
    return f"{extent}; {', '.join(told) or 'nothing found'}"


def _evaluated(evaluated: Mapping[str, Any]) -> str | None:
    if not evaluated:
        return None
    images = {"all": "all images", "val": "the validation split", "test": "the test split"}
    where = images.get(str(evaluated.get("split")), str(evaluated.get("split")))
    other = ", which is not the data that it was trained on" if evaluated.get("external") else ""
    return f"the run {evaluated.get('run')} on {where}{other}"


def _agreement(evaluated: Mapping[str, Any]) -> str | None:
    """How near the scores came to those that the run had written; None where none did."""
    count, most = evaluated.get("figures_compared"), evaluated.get("largest_difference")
    if not count:
        return None
    off = f"none off by more than {most:.2g}" if is_number(most) else "one of them undefined"
    return f"{whole(count)} figures of the run measured again, {off}"


def _weights(weights: Mapping[str, Any]) -> str | None:
    if not weights:
        return None
    left = len(weights.get("left") or ())
    text = f"{weights.get('source')}: {whole(weights.get('taken'))} tensors taken"
    return f"{text}, {whole(left)} trained from scratch" if left else text


def _epochs(summary: Mapping[str, Any]) -> str | None:
    epochs, best = summary.get("epochs"), summary.get("best_epoch")
    if not epochs:
        return None
    if not is_number(best):
        return whole(epochs)
    return f"{whole(epochs)}; scores are those of epoch {whole(best + 1)}, the best on validation"


def _threshold(summary: Mapping[str, Any]) -> str | None:
    """The threshold in use, and by which rule it came to be."""
    if not summary.get("threshold"):
        return None
    rule: Mapping[str, Any] = summary.get("threshold_rule") or {}
    words = {
        "fixed": "fixed beforehand",
        "validation": "nearest 0.5 within one standard error of the best balanced accuracy",
        "youden": "best Youden's J",
        "sensitivity": f"sensitivity of {100 * (rule.get('sensitivity') or 0):g} %",
    }
    told = words.get(str(rule.get("rule")))
    images = rule.get("num_images")
    where = f" on {whole(images)} validation images" if is_number(images) else ""
    return f"{summary['threshold']:.4g}" + (f", {told}{where}" if told else "")


def _duration(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    minutes, rest = divmod(round(seconds), 60)
    if minutes == 0:
        return f"{seconds:.1f} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _gpu(gpu: Any) -> str:
    return ", ".join(map(str, gpu.values())) if isinstance(gpu, Mapping) else str(gpu)


def _source(git: Mapping[str, Any]) -> str | None:
    if not git.get("sha"):
        return None
    return f"commit {git['sha']}" + (", with changes since" if git.get("dirty") else "")


def _joined(*parts: Any) -> str | None:
    return ", ".join(str(part) for part in parts if part) or None
