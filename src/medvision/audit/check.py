"""The whole audit of a data set: what was found, the numbers, and what they mean for a score."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from medvision.audit.classes import class_counts, class_findings
from medvision.audit.dataset import AuditedSet
from medvision.audit.duplicate_findings import duplicate_findings
from medvision.audit.duplicates import Duplicates, duplicate_numbers, find_duplicates
from medvision.audit.finding import SEVERITIES, Finding
from medvision.audit.groups import group_findings
from medvision.audit.images import image_findings
from medvision.audit.masks import mask_findings
from medvision.audit.memory import MemoryBaseline, memory_baseline
from medvision.audit.names import name_hint_findings
from medvision.audit.shortcuts import Shortcuts, findings_of, shortcut_scores
from medvision.types import STAGES

FEW = 0.05
"""Share of the test images below which a leak moves a score by little."""

_LISTS = ("members", "pairs_across_splits")
"""Parts of audit.json that name every file: a summary leaves them out."""


@dataclass(frozen=True, kw_only=True)
class Audit:
    """What `audit` returns.

    Attributes:
        data: What was looked at.
        findings: What is wrong or odd, the gravest first.
        duplicates: Images that are there more than once.
        memory: What the nearest neighbour scores; None for a single image.
        shortcuts: What properties of the files tell about the class; None where they were not
            asked.
        numbers: The parts of audit.json about duplicates.
        elapsed_s: From the start that was told until the end.
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
        """1 where a finding makes a test score untrue or training impossible, else 0."""
        return int(any(finding.spoils for finding in self.findings))

    @property
    def leaks(self) -> list[str]:
        """A sentence for each leak, with the way out; near-duplicates stand for identical ones."""
        return [
            f"{leak.text}; {leak.advice}" if leak.advice else leak.text for leak in self._told_leaks
        ]

    @property
    def verdict(self) -> str:
        """What it all means for a test score, in a sentence without a full stop."""
        leak = next(iter(self._told_leaks), None)
        if leak is not None:
            share = leak.count / max(1, split_sizes(self.data).get("test", 0))
            few = "A test score is a little too high"
            many = "A test score on this split would not be true"
            return f"{few if share < FEW else many}: {leak.text}"
        spoiling = next((finding for finding in self.findings if finding.spoils), None)
        if spoiling is not None:
            words = "The targets contradict each other" if spoiling.severity == "conflict" else ""
            return f"{words or 'Not all of it can be used'}: {spoiling.text}"
        if {"train", "test"} <= set(self.data.splits.tolist()):
            return "Nothing was found that would make a score on this test split untrue"
        return "Nothing is wrong with the files; no test split is given that could leak"

    def to_dict(self) -> dict[str, Any]:
        """What audit.json holds: plain values, None where something is undefined."""
        data = self.data
        return {
            "name": data.name,
            "task": data.task,
            "roots": [str(root) for root in data.roots],
            "verdict": self.verdict,
            "exit_code": self.exit_code,
            "num_images": len(data),
            "num_images_by_split": split_sizes(data),
            "num_unusable": len(data.faults),
            "class_counts": class_counts(data),
            **self.numbers,
            "memory_baseline": self._memory(),
            "shortcuts": None if self.shortcuts is None else self.shortcuts.to_dict(),
            "findings": [finding.to_dict() for finding in self.findings],
            "unusable": [{"path": path, "reason": reason} for path, reason in data.faults],
            "notes": list(data.notes),
            "settings": {
                "threshold": data.threshold,
                "thumbnail_px": int(data.facts.thumbnail.shape[1]),
                "against": len(data.roots) > 1,
            },
            "elapsed_s": round(self.elapsed_s, 3),
        }

    def summary(self) -> dict[str, Any]:
        """The part ``audit`` of a run's summary.json: counts and sentences, no names of files."""
        exact, near = (
            {key: value for key, value in self.numbers[part].items() if key not in _LISTS}
            for part in ("exact_duplicates", "near_duplicates")
        )
        return {
            "leaks": self.leaks,
            "findings": [
                {"kind": f.kind, "severity": f.severity, "text": f.text, "count": f.count}
                for f in self.findings
            ],
            "exact_duplicates": exact,
            "near_duplicates": near,
            "num_label_conflicts": len(self.duplicates.conflicts),
            "memory_baseline": self._memory(),
            "elapsed_s": round(self.elapsed_s, 3),
        }

    @property
    def _told_leaks(self) -> list[Finding]:
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
    """Look for whatever would make a test score untrue or a training fail.

    Args:
        data: The set, its files read.
        started: `time.perf_counter` when the work began, reading of files included.
    """
    duplicates = find_duplicates(data)
    shortcuts = shortcut_scores(data)
    findings = [
        *duplicate_findings(data, duplicates),
        *group_findings(data),
        *mask_findings(data),
        *image_findings(data),
        *class_findings(data),
        *([] if shortcuts is None else findings_of(shortcuts)),
        *name_hint_findings(data),
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


def split_sizes(data: AuditedSet) -> dict[str, int]:
    """Number of images of each split that has any; those without one as ``none``."""
    splits = data.splits.tolist()
    counts = {stage or "none": splits.count(stage) for stage in (*STAGES, "")}
    return {name: count for name, count in counts.items() if count}
