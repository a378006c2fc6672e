"""Remarks on a run, in sentences."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from medvision.console import counted
from medvision.scores import names_at, score_named, scores_of
from medvision.task_definition import task_names, task_of

MIN_GAP = 0.05
"""Smallest reported lead of training over validation: two seeds of one recipe differ by as much."""

MIN_LATE_GAIN = 0.005
"""Smallest reported gain of a last epoch: the best epoch is often late on a flat curve."""

MIN_LOSS_RISE = 0.25
"""Smallest reported rise above the minimum, as a share: single epochs vary by 0.1 to 0.2."""

MIN_EPOCHS_RISING = 5
"""Epochs since the minimum before a rise is reported: with fewer the loss may still fall."""

MIN_TEST_IMAGES = 100
"""With fewer images, the 95 % interval of a proportion of 0.8 is wider than 0.72 to 0.88."""

MIN_CLASS_IMAGES = 10
"""With fewer images, each moves the recall of its class by more than 0.1."""

ABSENT = {
    "train": "a class cannot be learned without training images",
    "val": "the choice of the best epoch ignores this class",
    "test": "the scores of this class are undefined",
}
"""Consequence of a class that is missing from a split."""

History = Sequence[Mapping[str, Any]]


class _Run:
    """A summary and its epochs, with undefined numbers as None."""

    def __init__(self, summary: Mapping[str, Any], history: History) -> None:
        self.metrics: Mapping[str, Any] = summary.get("metrics") or {}
        self.dataset: Mapping[str, Any] = summary.get("dataset") or {}
        self.warnings: Sequence[str] = summary.get("warnings") or ()
        self.task, self.sealed = str(summary.get("task")), bool(summary.get("sealed"))
        self.per_pixel = self.task in task_names() and task_of(self.task).per_pixel
        self.headlines = names_at("checked", self.task)
        self.history = history
        self.refit: Mapping[str, Any] = summary.get("refit_batch_norm") or {}
        best = summary.get("best_epoch")  # counted from 0
        self.best = -1 if best is None else int(best)
        self.not_finite = bool(summary.get("not_finite"))
        scored: Mapping[str, Mapping[str, Any]] = summary.get("scored") or {}
        self.scored = {stage: behind.get("num_images") for stage, behind in scored.items()}
        self.class_counts: Mapping[str, Mapping[str, int]] = {
            **(self.dataset.get("class_counts") or {}),
            **{
                s: behind["class_counts"]
                for s, behind in scored.items()
                if "class_counts" in behind
            },
        }

    def score(self, name: str) -> float | None:
        return _number(self.metrics.get(name))

    def title(self, name: str) -> str:
        """Title of a score within a sentence."""
        found = score_named(name, self.task)
        return name.replace("_", " ") if found is None else found.title

    def sign(self, name: str) -> int:
        """Return 1 if higher scores are better, -1 if lower ones are."""
        found = score_named(name, self.task)
        return -1 if found is not None and found.better == "lower" else 1

    def gain(self, name: str, value: float, other: float) -> float:
        """Improvement of a value over another, as a share if scores are unbounded."""
        found = score_named(name, self.task)
        scale = 1.0 if found is None or found.bounded else abs(other) or 1.0
        return self.sign(name) * (value - other) / scale

    def interval(self, name: str) -> tuple[float, float] | None:
        """Return low and high end; None if undefined or without spread."""
        low, high = (_number(end) for end in self.metrics.get(f"{name}_ci95") or (None, None))
        return None if low is None or high is None or low == high else (low, high)

    def epochs(self, name: str) -> dict[int, float]:
        """Collect the defined values of a score by epoch, counted from 0."""
        values = {int(float(row["epoch"])): _number(row.get(name)) for row in self.history}
        return {epoch: value for epoch, value in values.items() if value is not None}

    def num_images(self, stage: str) -> int | None:
        count = self.scored.get(stage, (self.dataset.get("num_images") or {}).get(stage))
        return None if count is None else int(count)

    def absent(self, stage: str) -> list[str]:
        """List classes without an image in a split that has images."""
        counts = self.class_counts.get(stage) or {}
        return [name for name, n in counts.items() if n == 0] if any(counts.values()) else []


def findings(summary: Mapping[str, Any], history: History) -> list[str]:
    """List remarks on the data, the fit and the scores of a run.

    Remarks already in ``warnings`` of the summary are not repeated, nor that data are synthetic.
    Training scores are means over an epoch in which weights change and images are augmented; a run
    that mixes images has none. An evaluation on other data has no history.

    Args:
        summary: Content of summary.json; keys may be missing.
        history: Rows of metrics.csv, one per epoch: numbers or their text, and None, "" or NaN
            where undefined.

    Returns:
        One sentence per remark, without a full stop.
    """
    run = _Run(summary, history)
    checks: list[Callable[[_Run], list[str]]] = [
        _missing_classes,
        _few_images,
        _one_answer,
        _no_better_than_chance,
        _overfitting,
        _rising_loss,
        _unfinished,
        _unlike_validation,
        _undefined,
    ]
    return [sentence for check in checks for sentence in check(run)]


def _missing_classes(run: _Run) -> list[str]:
    found = []
    for stage, what in ABSENT.items():
        known = "\n".join(w for w in run.warnings if w.startswith(stage))
        new = [
            name
            for name in run.absent(stage)
            if not re.search(rf"\bno (image of |{re.escape(name)}(?=[,:]|$))", known, re.MULTILINE)
        ]
        if new:
            found.append(f"{stage} has no {', no '.join(new)}: {what}")
    return found


def _few_images(run: _Run) -> list[str]:
    if run.sealed:  # test images were not evaluated
        return []
    found, count = [], run.num_images("test")
    if count and count < MIN_TEST_IMAGES:
        sentence = f"only {counted(count, 'test image')}"
        for name in run.headlines:
            if ends := run.interval(f"test/{name}"):
                sentence += f": the 95 % interval of {run.title(name)} is {_range(ends)}"
                break
        found.append(sentence)
    counts = run.class_counts.get("test") or {}
    few = {name: n for name, n in counts.items() if 0 < n < MIN_CLASS_IMAGES}
    if few and not any(text.startswith("test has few images of") for text in run.warnings):
        each = ", ".join(f"{n} of {name}" for name, n in few.items())
        found.append(
            f"few test images of a class ({each}): a single image changes its recall by"
            f" {1 / max(few.values()):.2f}{' or more' if len(set(few.values())) > 1 else ''}"
        )
    return found


def _one_answer(run: _Run) -> list[str]:
    reported = [text for text in run.warnings if " was never predicted on test" in text]
    if run.per_pixel:
        if run.score("test/recall") == 0 and not reported:
            return ["no foreground pixel of the test images is predicted as foreground (recall 0)"]
        if run.score("test/specificity") == 0:
            every = "every background pixel of the test images"
            return [f"{every} is predicted as foreground (specificity 0)"]
        return []
    if any(re.match(r"all [\d,]+ test images are predicted as ", text) for text in run.warnings):
        return []
    counts = run.class_counts.get("test") or {}
    for name, count in counts.items():
        if run.score(f"test/recall/{name}") == 1 and run.score(f"test/specificity/{name}") == 0:
            total = sum(counts.values())
            return [f"all {total} test images are predicted as {name}, the true class of {count}"]
    never = [
        name
        for name in counts
        if run.score(f"test/recall/{name}") == 0
        and not any(text.startswith(f"{name} was never") for text in reported)
    ]
    each = ", ".join(f"{name} (0 of {counted(counts[name], 'image')})" for name in never)
    return [f"recall on test is 0 for {each}"] if never else []


def _no_better_than_chance(run: _Run) -> list[str]:
    found: list[str] = []
    level: list[str] = []
    values: list[str] = []
    for score in scores_of(run.task):
        name, chance = f"test/{score.name}", score.chance
        ends = run.interval(name)
        if chance is None or ends is None:
            continue
        sign = run.sign(name)
        worst, best = sorted(ends, reverse=sign < 0)
        shown = _with_range(run, name)
        if sign * best < sign * chance:
            found.append(f"{score.capitalized} {shown} on test is worse than chance")
        elif sign * worst <= sign * chance:
            level.append(f"{score.title if level else score.capitalized} {shown}")
            values.append(f"{chance:g}")
    if level:
        verb, of = ("is", "interval includes") if len(level) == 1 else ("are", "intervals include")
        found.append(
            f"{', '.join(level)} on test {verb} not shown to be better than chance: the 95 % {of}"
            f" {', '.join(values)}"
        )
    return found


def _overfitting(run: _Run) -> list[str]:
    for name in run.headlines:
        train, val = (run.epochs(f"{stage}/{name}").get(run.best) for stage in ("train", "val"))
        if train is None or val is None:
            continue
        ends, score = run.interval(f"val/{name}"), run.score(f"val/{name}")
        if ends is None or score is None:  # too few images to tell
            continue
        best = max(ends, key=lambda end: run.sign(name) * end)
        chance = run.gain(name, best, score)
        gap = run.gain(name, train, val)
        if gap < max(MIN_GAP, chance):
            continue
        start = f"{run.title(name)} is {train:.3f} on train and {val:.3f} on val in the best epoch"
        refit = _number(run.refit.get(f"val/{name}"))
        if refit is not None and run.gain(name, refit, val) > max(gap / 2, chance):
            return [
                f"{start}, and {refit:.3f} on val with batch-norm statistics of the validation"
                " images: training images look different to batch norm, which is not overfitting;"
                " a transform in data.train_transforms that changes every image (p: 1.0), such as"
                " noise, should change half of them (p: 0.5)"
            ]
        return [f"{start}: the gap of {abs(train - val):.3f} indicates overfitting"]
    return []


def indicates_overfitting(summary: Mapping[str, Any], history: History) -> bool:
    """Return True if `findings` would remark on a gap between training and validation."""
    return bool(_overfitting(_Run(summary, history)))


def _rising_loss(run: _Run) -> list[str]:
    losses = run.epochs("val/loss")
    lowest = min(losses, key=lambda epoch: losses[epoch], default=0)
    after = [loss for epoch, loss in losses.items() if epoch > lowest]
    if len(after) < MIN_EPOCHS_RISING or losses[lowest] <= 0:
        return []
    late = statistics.median(after[-3:])  # of three epochs: a single bad one is not a trend
    if late < (1 + MIN_LOSS_RISE) * losses[lowest]:
        return []
    kept = losses.get(run.best, 0.0)
    return [
        f"validation loss was lowest in epoch {lowest + 1} of {len(run.history)}"
        f" ({losses[lowest]:.3f}) and rose to {late:.3f} by the end: "
        + (
            f"the best epoch, {run.best + 1}, already has {kept:.3f}, so its probabilities are"
            " likely overconfident"
            if kept >= (1 + MIN_LOSS_RISE) * losses[lowest]
            else f"the network overfits from then on; the best epoch, {run.best + 1}, was kept"
        )
    ]


def _unfinished(run: _Run) -> list[str]:
    if not run.history or run.best != len(run.history) - 1:
        return []
    if len(run.history) == 1:
        return ["training ran for only one epoch and has not converged"]
    for name in run.headlines:
        values = run.epochs(f"val/{name}")
        last = values.pop(run.best, None)
        if last is None or not values:
            continue
        before = max(values.values(), key=lambda value: run.sign(name) * value)
        if run.gain(name, last, before) >= MIN_LATE_GAIN:
            most = "most" if run.sign(name) > 0 else "least"
            return [
                f"the last epoch, {len(run.history)}, is the best: {run.title(name)} on val is"
                f" {last:.3f}, at {most} {before:.3f} in earlier epochs; training may not have"
                " converged"
            ]
    return []


def _unlike_validation(run: _Run) -> list[str]:
    falls, rises = [], []
    for name in run.headlines:
        val, test = run.interval(f"val/{name}"), run.interval(f"test/{name}")
        if val is None or test is None:
            continue
        sentence = (
            f"{run.title(name)} is {_with_range(run, f'val/{name}')} on val"
            f" and {_with_range(run, f'test/{name}')} on test"
        )
        below, above = test[1] < val[0], test[0] > val[1]
        falls += [sentence] if (below if run.sign(name) > 0 else above) else []
        rises += [sentence] if (above if run.sign(name) > 0 else below) else []
    found = []
    if falls:
        found.append(
            f"{', '.join(falls)}: the validation images do not represent the test images;"
            " they may resemble the training images, or the test images have another source"
        )
    if rises:
        found.append(
            f"{', '.join(rises)}: the test images are easier than the validation images,"
            " and the score on other images may be closer to that on val"
        )
    return found


def _undefined(run: _Run) -> list[str]:
    # undefined scores are explained by classes that are missing or never predicted
    explained = {"hd95_px", "hd95_px_penalised", "absence", "dice_present"}
    explained |= {"precision"} if run.score("test/recall") == 0 else set()  # of older runs
    if run.not_finite:
        return []
    names = [
        run.title(name)
        for stage, _, name in (key.partition("/") for key in run.metrics)
        if stage == "test"
        and "/" not in name
        and not name.endswith("_ci95")
        and name not in explained
        and run.score(f"test/{name}") is None
    ]
    found = []
    if names and not run.absent("test"):
        found.append(f"undefined on test because the denominator is zero: {', '.join(names)}")
    return found


def _number(value: object) -> float | None:
    """Convert to a finite number or None; the cells of a csv file are text."""
    if value is None or value == "" or isinstance(value, (list, tuple)):
        return None
    number = float(str(value))
    return number if math.isfinite(number) else None


def _with_range(run: _Run, name: str) -> str:
    """Format a score with its interval."""
    ends = run.interval(name) or (math.nan, math.nan)
    return f"{run.score(name) or 0:.3f} ({_range(ends)})"


def _range(ends: tuple[float, float]) -> str:
    return f"{ends[0]:.3f} to {ends[1]:.3f}"
