from collections.abc import Callable

import pytest
from scipy.stats import chi2_contingency

from medvision.audit.classes import class_counts, class_findings
from medvision.audit.dataset import AuditedSet
from medvision.audit.finding import Finding

MakeSet = Callable[..., AuditedSet]
Counts = dict[str, dict[str, int]]


@pytest.fixture
def make_classes(make_set: MakeSet) -> Callable[[Counts], AuditedSet]:
    """Build a set from counts by split and class."""

    def make(counts: Counts) -> AuditedSet:
        rows = [(s, c) for s, held in counts.items() for c, n in held.items() for _ in range(n)]
        splits = ["" if split == "all" else split for split, _ in rows]
        return make_set(len(rows), targets=[name for _, name in rows], splits=splits)

    return make


MakeClasses = Callable[[Counts], AuditedSet]


def only(data: AuditedSet) -> Finding:
    (finding,) = class_findings(data)
    return finding


@pytest.mark.parametrize(
    "counts",
    [
        pytest.param({"train": {"a": 90, "b": 60}, "test": {"a": 45, "b": 30}}, id="given"),
        pytest.param({"all": {"a": 90, "b": 60}}, id="no-split"),
    ],
)
def test_counts_come_back_and_even_classes_give_no_finding(
    make_classes: MakeClasses, counts: Counts
) -> None:
    data = make_classes(counts)
    assert class_counts(data) == counts
    assert class_findings(data) == []


def test_masks_have_no_classes_to_count(make_set: MakeSet) -> None:
    data = make_set(5)
    assert class_counts(data) == {}
    assert class_findings(data) == []


def test_the_prior_shift_of_the_chest_set_is_reported_with_its_numbers(
    make_classes: MakeClasses,
) -> None:
    counts = {
        "train": {"NORMAL": 1341, "PNEUMONIA": 3875},
        "test": {"NORMAL": 234, "PNEUMONIA": 390},
    }
    finding = only(make_classes(counts))
    assert (finding.kind, finding.severity) == ("prior_shift", "warning")
    reference = chi2_contingency([list(c.values()) for c in counts.values()], correction=False)
    assert reference.pvalue < 0.001
    assert finding.text == (
        "class shares differ between test and train: PNEUMONIA is 74.3 % of train and"
        " 62.5 % of test (chi-square p < 0.001, Cramér's V"
        f" {(reference.statistic / 5840) ** 0.5:.2f})"
    )


def test_a_small_or_random_prior_shift_is_not_reported(
    make_classes: MakeClasses,
) -> None:
    chance = {"train": {"a": 60, "b": 60}, "test": {"a": 35, "b": 45}}
    small = {"train": {"a": 6000, "b": 6000}, "test": {"a": 3264, "b": 2736}}
    assert class_findings(make_classes(chance)) == []
    assert class_findings(make_classes(small)) == []


def test_a_class_missing_in_train_is_a_fault_and_in_test_a_warning(
    make_classes: MakeClasses,
) -> None:
    lacking = {"train": {"a": 60, "b": 60, "c": 0}, "test": {"a": 40, "b": 0, "c": 40}}
    found = [f for f in class_findings(make_classes(lacking)) if f.kind == "class_missing"]
    assert [(finding.severity, finding.count) for finding in found] == [
        ("fault", 40),
        ("warning", 60),
    ]
    assert found[0].text == "train has no image of a class that other splits contain: c"
    assert "scores are undefined" in found[1].advice


def test_strong_imbalance_is_noted_with_the_accuracy_of_the_largest_class(
    make_classes: MakeClasses,
) -> None:
    finding = only(make_classes({"all": {"common": 900, "rare": 100}}))
    assert (finding.kind, finding.severity) == ("imbalance", "note")
    assert finding.text == "the set contains 900 images of common, 9 times as many as of rare (100)"
    assert "an accuracy of 0.90" in finding.advice
    assert class_findings(make_classes({"all": {"common": 490, "rare": 100}})) == []


@pytest.mark.parametrize(("count", "severity"), [(29, "note"), (9, "warning")])
def test_few_test_images_of_a_class_are_reported(
    make_classes: MakeClasses, count: int, severity: str
) -> None:
    data = make_classes({"train": {"a": 90, "b": 90}, "test": {"a": count, "b": count + 1}})
    finding = class_findings(data)[0]
    assert (finding.kind, finding.severity) == ("few_test_images", severity)
    assert f"{count} of a" in finding.text
    assert f"by {1 / count:.2g}" in finding.advice
