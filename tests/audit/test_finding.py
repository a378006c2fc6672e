import json
from collections.abc import Callable

import numpy as np
import pytest

from medvision.audit.classes import class_findings
from medvision.audit.dataset import AuditedSet
from medvision.audit.finding import SEVERITIES, Finding, findings_of, some_of
from medvision.audit.groups import group_findings, name_hint_findings
from medvision.audit.images import image_findings, mask_findings
from medvision.audit.shortcuts import shortcut_findings, shortcut_scores

MakeSet = Callable[..., AuditedSet]
FINDERS = [
    class_findings,
    group_findings,
    image_findings,
    mask_findings,
    name_hint_findings,
    lambda data: shortcut_findings(shortcut_scores(data)),
]


def test_leaks_conflicts_and_faults_invalidate_a_score_and_others_do_not() -> None:
    findings = [Finding(kind="k", severity=s, text="t", count=1) for s in SEVERITIES]
    assert [finding.spoils for finding in findings] == [True, True, True, False, False]


def test_a_finding_about_rows_names_their_files_in_order(make_set: MakeSet) -> None:
    (finding,) = findings_of(
        make_set(["a.png", "b.png", "c.png"]).names(np.array([2, 0])),
        kind="k",
        severity="note",
        text="t",
        advice="do",
    )
    assert (finding.count, finding.files) == (2, ("c.png", "a.png"))
    assert json.loads(json.dumps(finding.to_dict())) == {
        "kind": "k",
        "severity": "note",
        "text": "t",
        "count": 2,
        "files": ["c.png", "a.png"],
        "advice": "do",
    }


def test_the_verb_agrees_with_the_count() -> None:
    assert some_of(1, 40, "masks") == "1 of 40 masks is"
    assert some_of(2, 40, "masks") == "2 of 40 masks are"
    assert some_of(1, 40, "masks", "have") == "1 of 40 masks has"


@pytest.mark.parametrize("finder", FINDERS)
def test_no_image_and_one_image_give_no_finding(
    make_set: MakeSet, finder: Callable[[AuditedSet], list[Finding]]
) -> None:
    assert finder(make_set(0)) == []
    assert finder(make_set(1)) == []
    assert finder(make_set(1, targets=["a"])) == []


@pytest.mark.parametrize("finder", FINDERS)
def test_texts_are_sentences_without_full_stop_and_finders_are_pure(
    make_set: MakeSet, finder: Callable[[AuditedSet], list[Finding]]
) -> None:
    count = 200
    data = make_set(
        [f"{'ab'[k % 2]}/person{k // 4}_{k}.png" for k in range(count)],
        targets=["ab"[k % 2] for k in range(count)] if finder is not mask_findings else None,
        splits=["train" if k % 4 < 3 else "test" for k in range(count)],
        groups="" if finder is name_hint_findings else [f"g{k % 7}" for k in range(count)],
        height=np.where(np.arange(count) % 2, 64, 80),
        low=np.where(np.arange(count) == 9, 255, 0),
        faults=[("x.png", "x.png: a mask of two classes contains the values 0, 1, 2")],
    )
    findings = finder(data)
    assert findings
    assert findings == finder(data)
    for finding in findings:
        assert not finding.text.endswith(".")
        assert not finding.advice.endswith(".")
        assert finding.advice
