"""What duplicates mean for a score, in sentences."""

from __future__ import annotations

from collections.abc import Sized

from medvision.audit.dataset import AuditedSet
from medvision.audit.duplicates import CROSSINGS, MASK_DICE, Duplicates, Pair
from medvision.audit.finding import Finding, Severity

_GROUPED = "data.protocol=grouped draws a split that keeps them together"
_ADVICE = {
    ("test", "train"): f"a score on them measures memory: {_GROUPED}",
    ("val", "train"): f"the checkpoint is chosen on remembered images: {_GROUPED}",
    ("test", "val"): f"checkpoint and threshold are chosen on test images: {_GROUPED}",
}


def duplicate_findings(data: AuditedSet, found: Duplicates) -> list[Finding]:
    """Put what `find_duplicates` found into sentences: leaks, contradictions, repetitions."""
    findings = [*_conflicts(data, found), *_repeated(data, found)]
    for of, into in CROSSINGS:
        findings += _across(data, found, of, into)
    return findings


def _across(data: AuditedSet, found: Duplicates, of: str, into: str) -> list[Finding]:
    pairs = found.crossing[of, into]
    equal = [pair for pair in pairs if pair.relation == "identical"]
    total = int((found.near.splits == of).sum())
    severity: Severity = "leak" if (of, into) == ("test", "train") else "warning"

    def tell(kind: str, pairs: list[Pair], words: str) -> Finding:
        return Finding(
            kind=f"{kind}_duplicates_{of}_{into}",
            severity=severity,
            text=f"{len(pairs)} of {total} {of} images {words}",
            count=len(pairs),
            files=tuple(data.shown(pair.first) for pair in pairs),
            advice=_ADVICE[of, into],
        )

    findings = []
    if equal:
        findings.append(
            tell("exact", equal, f"{_verb(equal, 'is', 'are')} identical to one in {into}")
        )
    if len(pairs) > len(equal):
        told = f", {len(equal)} of them an identical one" if equal else ""
        words = f"{_verb(pairs, 'has', 'have')} a near-duplicate in {into}{told}"
        findings.append(tell("near", pairs, words))
    return findings


def _conflicts(data: AuditedSet, found: Duplicates) -> list[Finding]:
    findings = []
    what = "classes" if data.task == "classification" else "masks"
    for kind, words, pairs in (
        ("exact", "identical", [p for p in found.conflicts if p.relation == "identical"]),
        ("near", "nearly identical", [p for p in found.conflicts if p.relation != "identical"]),
    ):
        if not pairs:
            continue
        is_near_mask = kind == "near" and what == "masks"
        below = f", with a Dice below {MASK_DICE}" if is_near_mask else ""
        findings.append(
            Finding(
                kind=f"{'label' if what == 'classes' else 'mask'}_conflicts_{kind}",
                severity="conflict",
                text=f"{_counted(len(pairs), 'pair')} of {words} images"
                f" {_verb(pairs, 'has', 'have')} contradicting {what}{below}",
                count=len(pairs),
                files=tuple(data.shown(row) for pair in pairs for row in pair.rows),
                advice="no model can get both right: look at them, and mend or remove one",
            )
        )
    return findings


def _repeated(data: AuditedSet, found: Duplicates) -> list[Finding]:
    findings = []
    has_splits = bool((found.near.splits != "").any())
    included = " (identical ones included)" if found.exact.members() else ""
    for kind, words, copies in (
        ("exact", "are identical to another", found.exact),
        ("near", f"have a near-duplicate{included}", found.near),
    ):
        groups = copies.members()
        rows = [row for group in groups for row in group]
        if not rows:
            continue
        findings.append(
            Finding(
                kind=f"{kind}_duplicates",
                severity="note" if has_splits else "warning",
                text=f"{len(rows)} of {len(data)} images {words},"
                f" in {_counted(len(groups), 'group')}",
                count=len(rows),
                files=tuple(data.shown(row) for row in rows),
                advice="" if has_splits else f"a random split would part them: {_GROUPED}",
            )
        )
    tested = found.near.members("test")
    spare = sum(map(len, tested)) - len(tested)
    if spare:
        total = int((found.near.splits == "test").sum())
        findings.append(
            Finding(
                kind="repeated_test_images",
                severity="warning",
                text=f"{total} test images show {total - spare} different pictures:"
                " intervals of a score are narrower than they should be",
                count=spare,
                files=tuple(data.shown(row) for group in tested for row in group[1:]),
                advice="keep one of each group in test",
            )
        )
    return findings


def _verb(subjects: Sized, one: str, many: str) -> str:
    return one if len(subjects) == 1 else many


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
