"""Audit a data set: run every check and report how duplicates affect a score."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sized
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from medvision.audit.classes import class_counts, class_findings
from medvision.audit.dataset import AuditedSet
from medvision.audit.duplicates import (
    Duplicates,
    Pair,
    duplicate_numbers,
    find_duplicates,
    shared_foreground,
)
from medvision.audit.finding import CROSSINGS, SEVERITIES, Finding, Severity, findings_of
from medvision.audit.groups import (
    date_findings,
    group_findings,
    group_numbers,
    name_hint_findings,
    sequence_findings,
    ungrouped_findings,
)
from medvision.audit.images import (
    UNUSABLE_KINDS,
    annotator_findings,
    image_findings,
    mask_findings,
)
from medvision.audit.memory import MemoryBaseline, memory_baseline
from medvision.audit.shortcuts import Shortcuts, shortcut_findings, shortcut_scores
from medvision.console import counted
from medvision.data.duplicates.search import THRESHOLD
from medvision.types import STAGES

_GROUPED = "data.protocol=grouped draws a split that keeps them together"
_ADVICE = {
    ("test", "train"): f"a score on {{them}} measures memorisation: {_GROUPED}",
    ("val", "train"): f"the checkpoint is chosen on memorised images: {_GROUPED}",
    ("test", "val"): f"checkpoint, threshold and temperature are chosen on test images: {_GROUPED}",
}


def duplicate_findings(data: AuditedSet, found: Duplicates) -> list[Finding]:
    """Report the result of `find_duplicates` as leaks and contradictions."""
    across = (_across(data, found, of, into) for of, into in CROSSINGS)
    return [*_conflicts(data, found), *chain(*across)]


NOT_JUDGED = "targets_not_judged"
"""Kind of the finding that lists the checks skipped for targets they do not support."""


def not_judged(data: AuditedSet) -> list[Finding]:
    """List the checks that are skipped for images with neither a class nor a mask."""
    if data.has_classes or data.has_masks:
        return []
    return [
        Finding(
            kind=NOT_JUDGED,
            severity="note",
            text="the targets are neither classes nor masks: only identical images were compared;"
            " the score of a nearest neighbour and the prediction of the target from file"
            " properties were not measured",
            count=len(data),
        )
    ]


def _across(data: AuditedSet, found: Duplicates, of: str, into: str) -> Iterator[Finding]:
    pairs = found.crossing[of, into]
    images, where, advice = f"{of} images", into, _ADVICE[of, into]
    if data.compares_two:
        where, other = map(data.set_name, (0, 1))
        images = f"images of {other}"
        advice = f"a score on {{them}} measures memorisation: leave {{them}} out of {other}"
    equal = [pair for pair in pairs if pair.relation == "identical"]
    total = int((found.near.splits == of).sum())
    severity: Severity = "leak" if of == "test" else "warning"

    def leak_findings(kind: str, pairs: list[Pair], words: str) -> list[Finding]:
        return findings_of(
            data.names([pair.first for pair in pairs]),
            kind=f"{kind}_duplicates_{of}_{into}",
            severity=severity,
            text=f"{len(pairs)} of {total} {images} {words}",
            advice=advice.replace("{them}", _verb(pairs, "it", "them")),
        )

    if equal:
        yield from leak_findings(
            "exact", equal, f"{_verb(equal, 'is', 'are')} identical to one in {where}"
        )
    if len(pairs) > len(equal):
        identical = f", {len(equal)} of them identical" if equal else ""
        words = f"{_verb(pairs, 'has', 'have')} a near-duplicate in {where}{identical}"
        yield from leak_findings("near", pairs, words)


def _conflicts(data: AuditedSet, found: Duplicates) -> Iterator[Finding]:
    what = data.targets_in_words
    for kind, words, pairs in (
        ("exact", "identical", [p for p in found.conflicts if p.relation == "identical"]),
        ("near", "nearly identical", [p for p in found.conflicts if p.relation != "identical"]),
    ):
        if not pairs:
            continue
        yield Finding(
            kind=f"{'mask' if data.has_masks else 'label'}_conflicts_{kind}",
            severity="conflict",
            text=f"{counted(len(pairs), 'pair')} of {words} images"
            f" {_verb(pairs, 'has', 'have')} contradicting {what}{_dice_of(data, pairs)}",
            count=len(pairs),
            files=tuple(data.shown(row) for pair in pairs for row in pair.rows),
            advice="no model can get both right: check them, and fix or remove one",
        )
    if found.outlines:
        yield Finding(
            kind="two_outlines",
            severity="note",
            text=f"{counted(len(found.outlines), 'pair')} of identical images"
            f" {_verb(found.outlines, 'has', 'have')} two outlines of one lesion"
            f"{_dice_of(data, found.outlines)}",
            count=len(found.outlines),
            files=tuple(data.shown(row) for pair in found.outlines for row in pair.rows),
            advice="they show how far annotators agree: a model can hardly reach a higher Dice",
        )


def _dice_of(data: AuditedSet, pairs: list[Pair]) -> str:
    """Return the range of the Dice between the masks of some pairs, empty without masks."""
    values = [shared_foreground(data, pair) for pair in pairs] if data.has_masks else []
    known = sorted(value for value in values if value is not None)
    if not known:
        return ""
    ends = dict.fromkeys(f"{value:.2f}" for value in (known[0], known[-1]))
    return f", Dice {' to '.join(ends)} between their masks"


def repeated_images(data: AuditedSet, found: Duplicates) -> Iterator[Finding]:
    """Report images that occur more than once in a set."""
    has_splits = bool((found.near.splits != "").any())
    included = " (identical ones included)" if found.exact.members() else ""
    for kind, words, copies in (
        ("exact", "are identical to another", found.exact),
        ("near", f"have a near-duplicate{included}", found.near),
    ):
        groups = copies.members()
        rows = [row for group in groups for row in group]
        yield from findings_of(
            data.names(rows),
            kind=f"{kind}_duplicates",
            severity="note" if has_splits else "warning",
            text=f"{len(rows)} of {len(data)} images {words}, in {counted(len(groups), 'group')}",
            advice=""
            if has_splits
            else "a random split of single images would separate them; the split that training"
            " draws keeps them together, unless data.protocol=merged",
        )
    largest = next(iter(found.near.members()), [])
    if 2 * len(largest) > len(data):
        yield from findings_of(
            data.names(largest),
            kind="one_large_group",
            severity="warning",
            text=f"{len(largest)} of {len(data)} images are near-duplicates of each other, directly"
            " or through others, and stay in one split",
            advice="the other splits may lack a class: look at the images; if they only look alike,"
            " give the splits in a csv (data.splits)",
        )
    tested = found.near.members("test")
    spare = sum(map(len, tested)) - len(tested)
    total = int((found.near.splits == "test").sum())
    yield from findings_of(
        data.names([row for group in tested for row in group[1:]]),
        kind="repeated_test_images",
        severity="warning",
        text=f"{total} test images show {counted(total - spare, 'different picture')}:"
        " intervals that count every image as independent are too narrow",
        advice="keep one of each group in test; the intervals of a training resample whole groups,"
        " except with data.protocol=merged",
    )


def _verb(subjects: Sized, one: str, many: str) -> str:
    return one if len(subjects) == 1 else many


FEW = 0.05
"""Share of the test images below which a leak has little effect on a score."""

_LISTS = ("members", "pairs_across_splits")
"""Parts of audit.json that name every file, omitted from a summary."""


@dataclass(frozen=True, kw_only=True)
class Audit:
    """Result of an audit.

    Attributes:
        data: The audited data set.
        findings: Problems and irregularities, the most severe first.
        duplicates: Images that occur more than once.
        memory: Score of the nearest neighbour; None for a single image.
        shortcuts: Scores of predicting the class from file properties, of two compared sets those
            of the first; None if not evaluated.
        numbers: The parts of audit.json about duplicates.
        elapsed_s: Seconds from the given start to the end.
    """

    data: AuditedSet
    findings: tuple[Finding, ...]
    duplicates: Duplicates
    memory: MemoryBaseline | None
    shortcuts: Shortcuts | None
    numbers: dict[str, Any]
    elapsed_s: float

    @property
    def exit_code(self) -> int:
        """1 if a finding invalidates the test score or makes training impossible, else 0."""
        return int(any(finding.spoils for finding in self.findings))

    @property
    def leaks(self) -> list[str]:
        """One sentence per leak, with advice; near-duplicates include identical images."""
        return [leak.with_advice for leak in self._reported_leaks]

    @property
    def verdict(self) -> str:
        """Consequence of the findings for a test score, as a sentence without a full stop."""
        leak = self._largest_leak
        if leak is not None:
            few = "A test score on this split may be slightly too high"
            many = "A test score on this split is not valid"
            return f"{few if self._is_few(leak) else many}: {leak.text}"
        spoiling = next((f for f in self.findings if f.spoils and f.severity != "leak"), None)
        if spoiling is not None:
            words = "Part of the data cannot be used"
            unusable = len(self.data.faults)
            if spoiling.severity == "conflict":
                words = "The targets contradict each other"
            elif spoiling.kind in UNUSABLE_KINDS and unusable > spoiling.count:
                words += f", {unusable} of {len(self.data) + unusable} images; among them"
            return f"{words}: {spoiling.text}"
        warnings = sum(finding.severity == "warning" for finding in self.findings)
        look = (
            f"; {counted(warnings, 'warning')} {'needs' if warnings == 1 else 'need'} a look"
            if warnings
            else ""
        )
        if self.data.compares_two:
            return f"No problem was found within the two sets that prevents their use{look}"
        if {"train", "test"} <= set(self.data.splits.tolist()):
            return f"No problem was found that invalidates a score on this test split{look}"
        if look:
            return f"There is no test split that could leak{look} before training"
        return "No problem was found in the files; there is no test split that could leak"

    @property
    def severity(self) -> Severity:
        """Severity of the verdict: that of the worst finding; a few copies are a warning."""
        leak = self._largest_leak
        if leak is not None and not self._is_few(leak):
            return "leak"
        kinds = {finding.severity for finding in self.findings} - {"leak"}
        kinds |= set() if leak is None else {"warning"}
        return min(kinds, key=SEVERITIES.index, default="note")

    @property
    def _largest_leak(self) -> Finding | None:
        """Leak with most images; None for two sets, of which none is a split of the other."""
        leaks = [] if self.data.compares_two else self._reported_leaks
        return max(leaks, key=lambda leak: leak.count, default=None)

    def _is_few(self, leak: Finding) -> bool:
        return leak.count < FEW * max(1, split_sizes(self.data).get("test", 0))

    @property
    def answer(self) -> str | None:
        """Statement if the second of two compared sets is another one; None for a single set."""
        if not self.data.compares_two:
            return None
        root, other = map(self.data.set_name, (0, 1))
        pairs = self.duplicates.crossing["test", "train"]
        total, known = ((self.data.origin == which).sum() for which in (1, 0))
        if not pairs:
            return (
                f"{other} is another set: none of its {counted(int(total), 'image')} is a"
                f" near-duplicate of one of the {known} in {root}"
            )
        equal = sum(pair.relation == "identical" for pair in pairs)
        few = len(pairs) < FEW * total
        return (
            f"{other} is {'another set, except for single images' if few else 'not another set'}:"
            f" {len(pairs)} of its {counted(int(total), 'image')}"
            f" {_verb(pairs, 'is a near-duplicate', 'are near-duplicates')} of one in {root},"
            f" {equal} identical in pixels"
        )

    def to_dict(self) -> dict[str, Any]:
        """Content of audit.json: plain values, None where undefined."""
        data = self.data
        return {
            "name": data.name,
            "task": data.task,
            "roots": [str(root) for root in data.roots],
            "verdict": self.verdict,
            **({} if self.answer is None else {"answer": self.answer}),
            "severity": self.severity,
            "exit_code": self.exit_code,
            "num_images": len(data),
            "num_images_by_split": split_sizes(data),
            "num_unusable": len(data.faults),
            "class_counts": class_counts(data),
            **self.numbers,
            "groups": group_numbers(data),
            "grouping": list(data.grouping),
            "memory_baseline": self._memory(),
            "shortcuts": None if self.shortcuts is None else self.shortcuts.to_dict(),
            "findings": [finding.to_dict() for finding in self.findings],
            "unusable": [{"path": path, "reason": reason} for path, reason in data.faults],
            "notes": list(data.notes),
            "settings": {
                "threshold": THRESHOLD,
                "thumbnail_px": int(data.properties.thumbnail.shape[1]),
                "against": len(data.roots) > 1,
            },
            "elapsed_s": round(self.elapsed_s, 3),
        }

    def summary(self) -> dict[str, Any]:
        """Entry ``audit`` of a run's summary.json: counts and sentences, no file names."""
        exact, near = (
            {key: value for key, value in self.numbers[part].items() if key not in _LISTS}
            for part in ("exact_duplicates", "near_duplicates")
        )
        return {
            "leaks": self.leaks,
            "findings": [finding.without_files() for finding in self.findings],
            "exact_duplicates": exact,
            "near_duplicates": near,
            "num_label_conflicts": len(self.duplicates.conflicts),
            "memory_baseline": self._memory(),
            "elapsed_s": round(self.elapsed_s, 3),
        }

    @property
    def _reported_leaks(self) -> list[Finding]:
        kinds = {finding.kind for finding in self.findings}
        return [
            finding
            for finding in self.findings
            if finding.severity == "leak"
            and not (finding.kind.startswith("exact_") and f"near_{finding.kind[6:]}" in kinds)
        ]

    def _memory(self) -> dict[str, Any] | None:
        return None if self.memory is None else self.memory.to_dict()


def audit(data: AuditedSet, *, started: float) -> Audit:
    """Find problems that invalidate a test score or make a training fail.

    Args:
        data: The data set with the properties of its files.
        started: Value of `time.perf_counter` before the files were read.
    """
    duplicates = find_duplicates(data)
    sets = data.each()
    shortcuts = shortcut_scores(sets[0])
    findings = [
        *not_judged(data),
        *duplicate_findings(data, duplicates),
        *group_findings(data),
        *class_findings(data),
        *(
            replace(finding, text=f"{data.set_name(which)}: {finding.text}")
            if data.compares_two
            else finding
            for which, part in enumerate(sets)
            for finding in _findings_within(
                part,
                duplicates if part is data else find_duplicates(part),
                shortcuts if which == 0 else shortcut_scores(part),
            )
        ),
        *(Finding(kind="reading", severity="note", text=note, count=1) for note in data.notes),
    ]
    memory = memory_baseline(data)
    return Audit(
        data=data,
        findings=tuple(sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))),
        duplicates=duplicates,
        memory=memory,
        shortcuts=shortcuts,
        numbers=duplicate_numbers(data, duplicates),
        elapsed_s=time.perf_counter() - started,
    )


def _findings_within(
    data: AuditedSet, duplicates: Duplicates, shortcuts: Shortcuts | None
) -> Iterator[Finding]:
    """Report what concerns the images of one set among themselves."""
    yield from repeated_images(data, duplicates)
    yield from mask_findings(data)
    yield from annotator_findings(data)
    yield from image_findings(data)
    yield from shortcut_findings(shortcuts)
    yield from ungrouped_findings(data)
    yield from name_hint_findings(data)
    yield from date_findings(data)
    yield from sequence_findings(data)


def split_sizes(data: AuditedSet) -> dict[str, int]:
    """Count the images of each non-empty split; ``none`` counts images without a split."""
    splits = data.splits.tolist()
    counts = {stage or "none": splits.count(stage) for stage in (*STAGES, "")}
    return {name: count for name, count in counts.items() if count}
