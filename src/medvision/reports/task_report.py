"""Task-specific text of a report: the result, a note on its images, further sections."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from medvision.reports.page import Table, whole
from medvision.reports.run_facts import set_name
from medvision.reports.run_files import RunFiles
from medvision.reports.score_tables import images_of
from medvision.scores import is_interval, is_number, named_scores, scores_at

MOST_NAMES = 4  # with more classes, the list is too long for a sentence


@dataclass(frozen=True, kw_only=True)
class Section:
    """A section that only the report of one task has.

    Attributes:
        title: Heading.
        text: Paragraph before the tables.
        tables: Tables of the section.
    """

    title: str
    text: str = ""
    tables: Sequence[Table] = ()

    @property
    def anchor(self) -> str:
        """Id of the section on the page."""
        return "own-" + re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")


class TaskReport:
    """Report text for any task; tasks with further text derive from it.

    Attributes:
        of_classes: If True, scores are those of image classes, which the page then explains.
        image_note: Explanation of the pictures of test images; may be empty.
    """

    of_classes = False
    image_note = ""

    def result(self, run: RunFiles) -> str | None:
        """Describe what the network does, with score and interval, to follow "trained on ...".

        Returns:
            None if nothing was measured.
        """
        for score in scores_at("headline", run.task):
            if measured(run, score.name):
                value = score_of(run, score.name)
                return f"reaches {article(score.title)} of {value} on {images(run)}"
        return None

    def outcome(self, run: RunFiles) -> str | None:
        """Describe the spread of the scores over the test images; None if unknown."""
        score = next((s for s in scores_at("headline", run.task) if s.per_image), None)
        if score is None:
            return None
        values = sorted(float(row[score.name]) for row in run.predictions if row.get(score.name))
        if len(values) < 10:  # a tenth of fewer is less than one image
            return None
        if score.better == "lower":
            values, word = values[::-1], "less"
        else:
            word = "more"
        text = (
            f"Half of the images have {article(score.title)} of"
            f" {score.text(values[len(values) // 2])} or {word}, nine in ten"
            f" {score.text(values[len(values) // 10])} or {word}"
        )
        if score.bounded and score.better == "higher":
            below = sum(value < 0.5 for value in values)
            text += f"; {whole(below)} of {whole(len(values))} are below 0.5"
        return f"{text}."

    def sections(self, run: RunFiles) -> Sequence[Section]:  # noqa: ARG002  none by default
        """Return sections specific to this task, shown after the class scores."""
        return ()


class SegmentationReport(TaskReport):
    """A mask for every image."""

    image_note = "Green: outline of the true mask. Blue: outline of the prediction."

    def result(self, run: RunFiles) -> str | None:
        if not measured(run, "dice"):
            return None
        foreground = listed(run.class_names[1:]) or "the foreground"
        return f"segments {foreground} in {images(run)} with a mean Dice of {score_of(run, 'dice')}"


class ClassificationReport(TaskReport):
    """A class for every image."""

    of_classes = True

    def result(self, run: RunFiles) -> str | None:
        if not measured(run, "accuracy"):
            return None
        names = listed(run.class_names) or f"{len(run.class_names) or 'the'} classes"
        text = (
            f"distinguishes {names} in {images(run)} with an accuracy of"
            f" {score_of(run, 'accuracy')}"
        )
        if is_number(run.metrics.get(f"{run.stage}/auroc")):
            mean = "a mean" if len(run.class_names) > 2 else "an"
            text += f" and {mean} AUROC of {score_of(run, 'auroc')}"
        return text

    def outcome(self, run: RunFiles) -> str | None:
        judged = [row for row in run.predictions if row.get("target") and row.get("predicted")]
        if not judged:
            return None
        wrong = sum(row["target"] != row["predicted"] for row in judged)
        return f"{whole(wrong)} of {whole(len(judged))} images are misclassified."


def measured(run: RunFiles, name: str) -> bool:
    """Return True if the reported split has a score of this name."""
    return f"{run.stage}/{name}" in run.metrics


def score_of(run: RunFiles, name: str) -> str:
    """Format a score of the reported split with its interval."""
    score = named_scores(run.task)[name]
    value = run.metrics.get(f"{run.stage}/{name}")
    ends = run.metrics.get(f"{run.stage}/{name}_ci95")
    interval = f" (95 % interval {score.interval_text(ends)})" if is_interval(ends) else ""
    return f"{score.text(value)} {score.unit}".strip() + interval


def images(run: RunFiles) -> str:
    """Name the images of the reported split, with their number."""
    count, known = run.num_scored(run.stage), run.num_images.get(run.stage) or 0
    words = f"images of {set_name(run)}" if run.external else images_of(run.stage)
    if max(count, known) == 1:
        words = words.replace("images", "image", 1)
    if 0 < count < known:
        return f"{whole(count)} of {whole(known)} {words}"
    return f"{whole(count)} {words}" if count else f"the {words}"


def listed(names: Sequence[str]) -> str:
    """Format names as a list in words; empty if there are none or too many."""
    if not 0 < len(names) <= MOST_NAMES:
        return ""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def article(noun: str) -> str:
    """Add the indefinite article to a noun."""
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"
