"""Task-specific text of a report: the result, a note on its images, further sections."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from medvision.reports.page import PLAIN, Table, whole
from medvision.reports.run_facts import set_name
from medvision.reports.run_files import RunFiles
from medvision.reports.score_tables import images_of
from medvision.scores import Score, is_interval, is_number, named_scores, scores_at
from medvision.task_definition import task_of

DECISION_CURVE = "decision_curve"
"""Name of the plot of net benefit."""

MOST_NAMES = 4  # with more classes, the list is too long for a sentence


@dataclass(frozen=True, kw_only=True)
class Section:
    """A section that only the report of one task has.

    Attributes:
        title: Heading.
        text: Paragraph before the tables.
        plot: Name of the plot before the tables, shown if the run has it.
        tables: Tables of the section.
    """

    title: str
    text: str = ""
    plot: str = ""
    tables: Sequence[Table] = ()

    @property
    def anchor(self) -> str:
        """Id of the section on the page."""
        return "own-" + re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")


def further_sections(run: RunFiles) -> list[Section]:
    """Build the sections on subgroups, patients, net benefit and reporting guidelines."""
    found = []
    summary = run.summary
    subgroups: Mapping[str, Mapping[str, Any]] = summary.get("subgroups") or {}
    if subgroups:
        text = (
            "Scores of the test images by the value of a column. As the largest of several gaps, a"
            " gap is too large by chance; one whose interval includes 0 is not shown to exist."
        )
        tables = [table for name, of in subgroups.items() for table in _subgroups(run, name, of)]
        found.append(Section(title="Subgroups", text=text, tables=tables))
    patients: Mapping[str, Any] = summary.get("per_patient") or {}
    if patients:
        found.append(_patients(run, patients))
    if points := summary.get("decision_curve"):
        found.append(_decision_curve(points))
    differences: Mapping[str, float] = summary.get("detectable_difference") or {}
    rows = [
        [score.capitalized, score.text(differences[score.name])]
        for score in named_scores(run.task).values()
        if score.name in differences
    ]
    if rows:
        table = Table(
            caption="Difference from a fixed value, such as a published score, that these test"
            " images show in 80 of 100 studies, at a level of 5 %",
            head=["Score", "Smallest difference"],
            rows=rows,
            note="From the width of the 95 % interval. It also holds for two networks on these"
            " images whose results correlate by 0.5; for more alike networks it is smaller.",
        )
        found.append(Section(title="Smallest difference that can be shown", tables=[table]))
    return [*found, _guidelines(run)] if run.metrics else found


def _cell(score: Score, values: Mapping[str, Any], name: str) -> str:
    value, ends = values.get(name), values.get(f"{name}_ci95")
    if not is_number(value):
        return score.text(None)
    interval = f" ({score.interval_text(ends)})" if is_interval(ends) else ""
    return f"{score.text(value)}{interval}"


def _subgroups(run: RunFiles, column: str, of: Mapping[str, Any]) -> list[Table]:
    """Build the tables of one column: scores of each value, and the largest gaps."""
    groups: Sequence[Mapping[str, Any]] = of.get("groups") or ()
    scores = [
        score for name, score in named_scores(run.task).items() if name in (groups or [{}])[0]
    ]
    if not groups:
        caption = f"{column}: {whole(of.get('num_values'))} values, too many for a table"
        return [Table(caption=caption, head=["Value"], rows=[])]
    values = Table(
        caption=f"Scores by {column}, with 95 % intervals",
        head=[column, "Images", *(score.heading for score in scores)],
        rows=[
            [
                str(group["name"]),
                whole(group.get("num_images")),
                *(_cell(score, group, score.name) for score in scores),
            ]
            for group in groups
        ],
    )
    gaps: Mapping[str, Mapping[str, Any]] = of.get("largest_gap") or {}
    rows = [
        [
            score.capitalized,
            _cell(
                score,
                {"gap": gaps[score.name]["gap"], "gap_ci95": gaps[score.name]["gap_ci95"]},
                "gap",
            ),
            " and ".join(map(str, gaps[score.name]["between"])),
        ]
        for score in scores
        if score.name in gaps
    ]
    gap = Table(
        caption=f"Largest gap by {column}",
        head=["Score", "Gap", "Highest and lowest"],
        rows=rows,
        words=True,
    )
    return [values, gap] if rows else [values]


def _patients(run: RunFiles, patients: Mapping[str, Any]) -> Section:
    """Build the section with one value for each group of images."""
    count = whole(patients.get("num_groups"))
    if mixed := patients.get("mixed_groups"):
        text = f"{whole(mixed)} of {count} groups have images of several classes: a group has no"
        return Section(title="By patient", text=f"{text} class of its own, and no score.")
    rows = [
        [score.capitalized, _cell(score, patients, name)]
        for name, score in named_scores(run.task).items()
        if name in patients
    ]
    how = "the mean score" if task_of(run.task).per_pixel else "the mean probability"
    table = Table(
        caption=f"Scores of {count} groups, with 95 % intervals",
        head=["Score", "Value"],
        rows=rows,
        note=f"A group, such as a patient or a video, counts once, with {how} of its images.",
    )
    return Section(title="By patient", tables=[table])


def _decision_curve(points: Sequence[Mapping[str, Any]]) -> Section:
    """Build the section on net benefit."""
    text = (
        "True positives per image, minus false positives weighted by the odds of the threshold: the"
        " probability of disease from which a patient would be treated. A network is of use at a"
        " threshold where it is above treating all and treating none. The curve chooses no"
        " threshold."
    )
    table = Table(
        caption="Net benefit by threshold, with 95 % intervals",
        head=["Threshold", "Network", "Treat all", "Treat none"],
        rows=[
            [
                f"{point['threshold']:.2f}",
                _cell(PLAIN, point, "net_benefit"),
                PLAIN.text(point.get("treat_all")),
                PLAIN.text(0.0),
            ]
            for point in points
        ],
    )
    return Section(title="Decision curve", text=text, plot=DECISION_CURVE, tables=[table])


@cache
def _items() -> list[dict[str, str]]:
    text = Path(__file__).with_name("guidelines.yaml").read_text(encoding="utf-8")
    items: list[dict[str, str]] = yaml.safe_load(text)
    return items


def _guidelines(run: RunFiles) -> Section:
    """Map the content of the report to the items of two reporting guidelines."""
    present = {
        *(key for key, value in run.summary.items() if value),
        *(["class_counts"] if run.dataset.get("class_counts") else []),
        *(
            ["calibration_intercept"]
            if any("/calibration_intercept" in name for name in run.metrics)
            else []
        ),
        *(["predictions"] if run.predictions else []),
        "external" if run.external else "internal",
    }
    words = {"author": "for the author to write", "none": "not applicable"}
    rows = []
    for item in _items():
        state = words.get(item["state"])
        if state is None:
            there = item.get("when") is None or item["when"] in present
            state = f"reported: {item['where']}" if there else "not applicable to this run"
        rows.append([item["topic"], state, item["claim"], item["tripod"]])
    table = Table(
        caption="Items of CLAIM 2024 and TRIPOD+AI, and where this page answers them",
        head=["Topic", "This page", "CLAIM 2024", "TRIPOD+AI"],
        rows=rows,
        words=True,
    )
    return Section(title="Reporting guidelines", tables=[table])


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
        predicted = {row["predicted"] for row in self._judged(run)}
        if len(predicted) == 1 and len(self._judged(run)) > 1:
            of = f"; the balanced accuracy is {score_of(run, 'balanced_accuracy')}"
            return (
                f"predicts {predicted.pop()} for each of {images(run)}, an accuracy of"
                f" {score_of(run, 'accuracy')}" + of * measured(run, "balanced_accuracy")
            )
        text = (
            f"distinguishes {names} in {images(run)} with an accuracy of"
            f" {score_of(run, 'accuracy')}"
        )
        if is_number(run.metrics.get(f"{run.stage}/auroc")):
            mean = "a mean" if len(run.class_names) > 2 else "an"
            text += f" and {mean} AUROC of {score_of(run, 'auroc')}"
        return text

    def outcome(self, run: RunFiles) -> str | None:
        judged = self._judged(run)
        if not judged:
            return None
        wrong = sum(row["target"] != row["predicted"] for row in judged)
        return f"{whole(wrong)} of {whole(len(judged))} images are misclassified."

    @staticmethod
    def _judged(run: RunFiles) -> list[Mapping[str, str]]:
        return [row for row in run.predictions if row.get("target") and row.get("predicted")]


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
