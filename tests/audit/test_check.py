import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medvision.audit.check import Audit, audit
from medvision.audit.dataset import AuditedSet
from medvision.data.duplicates.search import NearDuplicates

MakeSet = Callable[..., AuditedSet]


def run(data: AuditedSet) -> Audit:
    return audit(data, started=time.perf_counter())


def with_equal(data: AuditedSet, *pairs: tuple[int, int]) -> AuditedSet:
    groups = np.arange(len(data))
    for one, other in pairs:
        groups[other] = groups[one]
    return replace(
        data,
        near_duplicates=NearDuplicates(
            groups=groups,
            first=np.array([pair[0] for pair in pairs]),
            second=np.array([pair[1] for pair in pairs]),
            similarity=np.ones(len(pairs), np.float32),
            relation=np.zeros(len(pairs), np.uint8),
        ),
    )


@pytest.fixture
def clean(make_set: MakeSet) -> AuditedSet:
    rng = np.random.default_rng(0)
    return make_set(
        120,
        targets=["a", "b"] * 60,
        splits=["train", "train", "test", "test"] * 30,
        thumbnail=rng.integers(0, 256, (120, 48, 48)),
    )


@pytest.fixture
def leaky(clean: AuditedSet) -> AuditedSet:
    """Two test images equal one of train each, the second one of another class."""
    hashes = clean.properties.pixel_hash.copy()
    hashes[2], hashes[3] = hashes[0], hashes[4]
    properties = replace(clean.properties, pixel_hash=hashes)
    return with_equal(replace(clean, properties=properties), (0, 2), (3, 4))


def test_a_clean_set_has_exit_code_0_and_a_clean_verdict(clean: AuditedSet) -> None:
    found = run(clean)
    assert found.exit_code == 0
    assert found.leaks == []
    assert [f for f in found.findings if f.severity != "note"] == []
    assert found.verdict == "No problem was found that invalidates a score on this test split"


def test_without_a_test_split_nothing_can_leak(clean: AuditedSet) -> None:
    samples = clean.samples.with_column(splits=[""] * len(clean.samples))
    found = run(replace(clean, samples=samples))
    assert found.exit_code == 0
    assert found.verdict.endswith("there is no test split that could leak")


def test_the_most_severe_finding_comes_first_with_exit_code_1(leaky: AuditedSet) -> None:
    found = run(replace(leaky, faults=(("x.png", "not a picture"),), notes=("read so",)))
    severities = [finding.severity for finding in found.findings]
    order = ["leak", "conflict", "fault", "warning", "note"]
    assert severities == sorted(severities, key=order.index)
    assert severities[:3] == ["leak", "conflict", "fault"]
    assert found.findings[-1].text == "read so"
    assert found.exit_code == 1


@pytest.mark.parametrize("faults", [(), (("x.png", "not a picture"),)])
def test_a_fault_alone_has_exit_code_1(
    clean: AuditedSet, faults: tuple[tuple[str, str], ...]
) -> None:
    assert run(replace(clean, faults=faults)).exit_code == len(faults)


def test_the_verdict_depends_on_the_share_of_leaks(leaky: AuditedSet) -> None:
    few = (
        "A test score on this split may be slightly too high:"
        " 2 of 60 test images are identical to one in train"
    )
    assert run(leaky).verdict == few
    kept = [row for row in range(40) if row % 4 < 2 or row < 8]
    small = replace(
        leaky,
        samples=leaky.samples.select(np.array(kept)),
        origin=leaky.origin[kept],
        properties=leaky.properties.take(kept),
        near_duplicates=replace(leaky.near_duplicates, groups=leaky.near_duplicates.groups[kept]),
    )
    assert run(small).verdict.startswith("A test score on this split is not valid: 2 of 4")
    assert run(small).severity == "leak"


def test_few_copies_are_a_warning_and_do_not_hide_a_larger_leak(clean: AuditedSet) -> None:
    copied = with_equal(clean, (0, 2))
    assert run(copied).severity == "warning"
    assert "slightly" in run(copied).verdict
    groups = [f"person{k // 4}" for k in range(120)]
    torn = run(replace(copied, samples=clean.samples.with_column(groups=groups)))
    assert torn.severity == "leak"
    assert torn.verdict.startswith("A test score on this split is not valid: 30 of 30 groups")


def test_a_validation_set_identical_to_the_test_set_is_a_leak(clean: AuditedSet) -> None:
    splits = np.array(["train", "train", "val", "test"] * 30)
    hashes = clean.properties.pixel_hash.copy()
    hashes[splits == "test"] = hashes[splits == "val"]
    copied = replace(
        clean,
        samples=clean.samples.with_column(splits=splits.tolist()),
        properties=replace(clean.properties, pixel_hash=hashes),
    )
    pairs = [(k, k + 1) for k in range(2, 120, 4)]
    found = run(with_equal(copied, *pairs))
    assert found.exit_code == 1
    words = "30 of 30 test images are identical to one in val"
    assert found.verdict == f"A test score on this split is not valid: {words}"
    assert found.leaks[0].startswith(f"{words}; checkpoint, threshold and temperature are chosen")
    content = found.to_dict()
    for part in ("exact_duplicates", "near_duplicates"):
        assert content[part]["test_images_in_val"] == 30
        assert content[part]["test_images_in_train"] == 0


def test_validation_and_test_images_of_their_own_are_no_leak(clean: AuditedSet) -> None:
    splits = ["train", "train", "val", "test"] * 30
    found = run(replace(clean, samples=clean.samples.with_column(splits=splits)))
    assert (found.exit_code, found.leaks) == (0, [])


def test_a_leak_is_one_sentence_with_advice(leaky: AuditedSet) -> None:
    (sentence,) = run(leaky).leaks
    assert sentence.startswith("2 of 60 test images are identical to one in train; ")
    assert "data.protocol=grouped" in sentence


def test_near_duplicates_include_the_identical_images(leaky: AuditedSet) -> None:
    data = with_equal(leaky, (0, 2), (3, 4), (5, 7))  # 5 is train, 7 is test
    near = replace(data.near_duplicates, relation=np.array([0, 0, 1], np.uint8))
    (sentence,) = run(replace(data, near_duplicates=near)).leaks
    assert sentence.startswith(
        "3 of 60 test images have a near-duplicate in train, 2 of them identical"
    )


def test_audit_json_contains_the_promised_keys(leaky: AuditedSet) -> None:
    content = run(leaky).to_dict()
    again = json.loads(json.dumps(content, allow_nan=False))
    assert again == content
    assert content["num_images"] == 120
    assert content["num_images_by_split"] == {"train": 60, "test": 60}
    assert content["exact_duplicates"]["groups"] == 2
    assert content["exact_duplicates"]["test_images_in_train"] == 2
    assert content["near_duplicates"]["test_images_in_train"] == 2
    (conflict,) = content["label_conflicts"]
    assert conflict["files"] == ["images/00003.png", "images/00004.png"]
    assert 0 <= content["memory_baseline"]["accuracy"] <= 1
    assert content["elapsed_s"] >= 0
    assert content["settings"] == {"threshold": 0.99, "thumbnail_px": 48, "against": False}
    assert content["class_counts"]["train"] == {"a": 30, "b": 30}
    leak = content["findings"][0]
    assert leak["files"] == ["images/00002.png", "images/00003.png"]


def test_the_summary_of_a_run_names_no_file(leaky: AuditedSet) -> None:
    found = run(leaky)
    summary = found.summary()
    assert ".png" not in json.dumps(summary)
    assert summary["leaks"] == found.leaks
    assert summary["num_label_conflicts"] == 1
    assert summary["exact_duplicates"]["test_images_in_train"] == 2
    assert summary["memory_baseline"] == found.to_dict()["memory_baseline"]
    assert summary["findings"][0].keys() == {"kind", "severity", "text", "count", "advice"}
    assert summary["findings"][0]["severity"] == "leak"


def test_a_segmentation_set_is_measured_by_dice(make_set: MakeSet) -> None:
    masks = np.zeros((30, 48, 48), np.uint8)
    masks[:, 10:20, 10:20] = 255
    data = make_set(30, splits=["train", "test"] * 15, mask={"thumbnail": masks})
    content = run(data).to_dict()
    assert content["memory_baseline"]["dice"] == 1
    assert content["class_counts"] == {}
    assert content["label_conflicts"] == []


def test_equal_sets_give_equal_audits(leaky: AuditedSet) -> None:
    one, other = (run(leaky).to_dict() | {"elapsed_s": 0} for _ in range(2))
    assert one == other


def compared(data: AuditedSet, **columns: Any) -> AuditedSet:
    """Treat the first 60 images as one set, and the others as another one."""
    second = np.arange(120) >= 60
    splits = ["test" if k else "train" for k in second]
    properties = replace(data.properties, **{n: np.where(second, *v) for n, v in columns.items()})
    return replace(
        data,
        roots=(Path("one"), Path("two")),
        origin=second.astype(np.int8),
        samples=data.samples.with_column(splits=splits),
        properties=properties,
    )


def test_another_set_from_another_source_is_another_set(clean: AuditedSet) -> None:
    """Size and format separate the two sets, and so would any class in only one of them."""
    targets = ["a", "b"] * 30 + ["a"] * 50 + ["b"] * 10
    samples = clean.samples.with_column(targets=targets)
    data = compared(
        replace(clean, samples=samples), height=(900, 64), width=(900, 64), jpeg_quality=(90, -1)
    )
    found = run(data)
    assert found.exit_code == 0
    assert found.answer == (
        "two is another set: none of its 60 images is a near-duplicate of one of the 60 in one"
    )
    kinds = {finding.kind for finding in found.findings}
    assert not kinds & {"shortcuts", "size_outliers", "sequences"}
    assert found.verdict.startswith("No problem was found within the two sets")
    assert found.to_dict()["answer"] == found.answer


def test_copies_in_another_set_are_answered_apart_from_what_is_wrong_inside(
    clean: AuditedSet,
) -> None:
    data = with_equal(compared(clean), *((k, 60 + k) for k in range(6)), (70, 72))
    found = run(data)
    assert found.exit_code == 1
    assert found.answer == (
        "two is not another set: 6 of its 60 images are near-duplicates of one in one,"
        " 6 identical in pixels"
    )
    texts = [finding.text for finding in found.findings]
    assert "6 of 60 images of two are identical to one in one" in texts
    assert "two: 2 of 60 images have a near-duplicate, in 1 group" in texts
    assert not any(text.startswith("one: ") and "near-duplicate" in text for text in texts)
    assert found.verdict.startswith("No problem was found within the two sets")
    single = run(with_equal(compared(clean), (0, 60)))
    assert single.answer is not None
    assert single.answer.startswith("two is another set, except for single images: 1 of its 60")


def test_advice_on_another_set_draws_no_split_of_it(clean: AuditedSet) -> None:
    targets = ["a", "b"] * 30 + ["a"] * 55 + ["b"] * 5
    classes = clean.samples.with_column(targets=targets)
    found = run(compared(replace(clean, samples=classes)))
    kinds = {finding.kind: finding for finding in found.findings}
    few = kinds["few_test_images"]
    assert few.text == "two has few images of some classes: 5 of b"
    assert few.advice.endswith("by 0.2: read its interval")
    assert (
        "class shares differ between two and one: b is 50.0 % of one" in kinds["prior_shift"].text
    )
    assert not any("data.protocol" in f.advice or "split_seed" in f.advice for f in found.findings)
    single = run(replace(clean, samples=classes))
    assert any("data.protocol=kfold" in finding.advice for finding in single.findings)


def test_the_verdict_counts_all_files_that_cannot_be_used(make_set: MakeSet) -> None:
    size = "the mask is 48 x 48 pixels, the image m.png is 96 x 96"
    broken = [(f"images/{k}.png", "the file is empty") for k in range(2)]
    only_masks = run(make_set(37, faults=[("images/a.png", size)])).verdict
    assert only_masks.startswith(
        "Part of the data cannot be used: 1 of 38 masks differs in size from its image"
    )
    both = run(make_set(37, faults=[("images/a.png", size), *broken])).verdict
    assert both.startswith(
        "Part of the data cannot be used, 3 of 40 images; among them: 1 of 40 masks differs"
    )


def test_the_same_number_in_two_sets_is_a_question(clean: AuditedSet) -> None:
    groups = [f"person{k % 60}" for k in range(120)]
    data = compared(replace(clean, samples=clean.samples.with_column(groups=groups)))
    (finding,) = [f for f in run(data).findings if f.kind == "groups_across_splits"]
    assert finding.severity == "warning"
    assert "60 of 60 groups (patients, videos) are in both sets by their names" in finding.text
    assert run(data).exit_code == 0


def test_nothing_depends_on_a_class_where_images_have_masks(make_set: MakeSet) -> None:
    formats = ["PNG", "JPEG"] * 20
    found = run(make_set(40, file_format=formats, colour=[True, False] * 20))
    assert {"mixed_formats", "colour_mixed_with_grey"} <= {f.kind for f in found.findings}
    assert not [f for f in found.findings if "class" in f"{f.text} {f.advice}"]


def test_no_clean_verdict_stands_above_a_warning(clean: AuditedSet) -> None:
    low = clean.properties.low.copy()
    low[:1] = clean.properties.high[:1]  # a constant image
    found = run(replace(clean, properties=replace(clean.properties, low=low)))
    assert found.exit_code == 0
    assert found.verdict.endswith("a score on this test split; 1 warning needs a look")
    assert (found.severity, run(clean).severity) == ("warning", "note")
