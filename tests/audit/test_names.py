import hashlib
import random
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from medvision.audit.dataset import AuditedSet
from medvision.audit.groups import (
    date_findings,
    keys_of,
    name_hint_findings,
    prefix_patterns,
    word_patterns,
)
from medvision.data.discovery.index import index_classification

MakeSet = Callable[..., AuditedSet]
SHARED = Path(__file__).parents[2].parent / "shared/data"
DRAW = random.Random(0)


def proposed(finding_text: str) -> str:
    """Return the pattern proposed by a hint."""
    match = re.search(r"'(.+?)' makes", finding_text)
    assert match
    return match.group(1)


NAMED = {
    "person": ([f"images/person{p}_{k}.jpeg" for p in range(9) for k in range(3)], 9),
    "patient": ([f"images/patient{p:03d}_img{k}.png" for p in range(9) for k in range(4)], 9),
    "folder": ([f"images/case_{c}/frame_{k:04d}.png" for c in range(4) for k in range(9)], 4),
    "video": ([f"images/video{v}_{k:04d}.png" for v in range(3) for k in range(20)], 3),
    "nih": ([f"images/{p:08d}_{k:03d}.png" for p in range(30) for k in range(1 + p % 4)], 30),
    "uid": ([f"images/1.2.840.55.{s * 7919}.{k}.png" for s in range(30) for k in range(5)], 30),
    "bids": ([f"images/sub-{p:02d}_slice{k:03d}.png" for p in range(20) for k in range(5)], 20),
    "plain folder": ([f"images/{p:05d}/{k}.png" for p in range(30) for k in range(5)], 30),
    "series": (
        [f"images/{p:04d}_{s:02d}_{k}.png" for p in range(30) for s in range(9) for k in range(2)],
        30,
    ),
    "site": (  # patients share the number of a site, sites share no patient number
        [f"images/{p % 9:03d}_S_{p + 100:04d}_{k}.png" for p in range(60) for k in range(4)],
        60,
    ),
}
UNNAMED = {
    "running": [f"images/image_{k:04d}.png" for k in range(200)],
    "one file per case": [f"images/case_{k:03d}.png" for k in range(200)],
    "split in the name": [
        f"images/{split}_{k}.jpg" for split in ("train", "test") for k in range(99)
    ],
    "hash": [f"images/{hashlib.md5(str(k).encode()).hexdigest()}.png" for k in range(200)],
    "letters and digits": [
        f"images/cju{''.join(DRAW.choices('abcdefg0123456789', k=22))}.jpg" for _ in range(200)
    ],
    "constant second number": [f"images/IM-{k:04d}-0001.jpeg" for k in range(200)],
    "date": [f"images/201901{10 + k % 20}_{k:04d}.png" for k in range(200)],
    "parted date": [f"images/2019-{1 + k % 9:02d}-{10 + k % 20}_{k:04d}.png" for k in range(200)],
    "tiles": [f"images/tile_{row}_{column}.png" for row in range(14) for column in range(14)],
    "folds": [f"images/fold{k % 9}_{k:04d}.png" for k in range(200)],
}


@pytest.mark.parametrize("kind", NAMED)
def test_a_pattern_finds_every_group_of_the_usual_ways_to_name(
    make_set: MakeSet, kind: str
) -> None:
    paths, groups = NAMED[kind]
    (hint,) = name_hint_findings(make_set(paths))
    expression = re.compile(proposed(hint.text))
    found = [match.group(1) for path in paths if (match := expression.search(path))]
    assert expression.groups == 1
    assert len(found) == len(paths)
    assert len(set(found)) == groups
    assert hint.severity == "warning"
    assert f"data.group_pattern='{expression.pattern}'" in hint.advice


@pytest.mark.parametrize("kind", UNNAMED)
def test_names_that_identify_no_patient_give_no_hint(make_set: MakeSet, kind: str) -> None:
    assert name_hint_findings(make_set(UNNAMED[kind])) == []


def test_numbers_that_restart_in_every_class_give_no_hint(make_set: MakeSet) -> None:
    paths = [f"{c}/image({k}).jpg" for c in "abcd" for k in range(60)]
    paths += [f"b/m{s} ({k}).jpg" for s in (1, 2, 3) for k in range(60)]
    assert name_hint_findings(make_set(paths, targets=[path[0] for path in paths])) == []
    again = [f"{s}/{c}/image({k}).jpg" for s in ("train", "test") for c in "abc" for k in range(60)]
    assert name_hint_findings(make_set(again, targets=[path.split("/")[1] for path in again])) == []
    ends = [f"{c}/{k:04d}_{c}.png" for c in "ab" for k in range(99)]
    assert name_hint_findings(make_set(ends, targets=[path[0] for path in ends])) == []
    first = [f"{c}/{c}_{k:04d}.png" for c in range(10) for k in range(30)]
    assert name_hint_findings(make_set(first, targets=[path[0] for path in first])) == []


def test_a_hint_counts_the_groups_across_splits(make_set: MakeSet) -> None:
    paths = [f"train/person{p}_{k}.png" for p in range(8) for k in range(2)]
    paths += [f"test/person{p}_{k}.png" for p in (6, 7, 8) for k in (7, 8)]
    splits = [path.split("/")[0] for path in paths]
    (hint,) = name_hint_findings(make_set(paths, splits=splits))
    assert hint.text == (
        r"the file names may identify patients or videos: '(person\d+)' makes 9 groups of 22 of"
        " the 22 images; if so, it links 2 of the 3 groups of test (4 of 6 images) to train"
    )
    assert hint.count == 4
    assert hint.files == tuple(f"test/person{p}_{k}.png" for p in (6, 7) for k in (7, 8))
    assert "restart in every class or split" in hint.advice
    assert not hint.spoils


def test_a_word_after_the_number_that_removes_the_links_is_included(make_set: MakeSet) -> None:
    paths = [f"train/person{p}_bacteria_{k}.png" for p in range(12) for k in range(2)]
    paths += [f"train/person{p}_virus_{k}.png" for p in range(20, 30) for k in range(2)]
    paths += [f"test/person{p}_virus_{k}.png" for p in range(8) for k in range(2)]
    splits = [path.split("/")[0] for path in paths]
    (hint,) = name_hint_findings(make_set(paths, splits=splits))
    assert proposed(hint.text) == r"(person\d+_[A-Za-z]+)"
    assert "makes 30 groups of 60 of the 60 images, none of them in two splits" in hint.text
    assert r"the number alone, '(person\d+)', would link 8 of the 8 groups of test" in hint.text


def test_names_that_are_used_as_groups_give_no_hint(make_set: MakeSet) -> None:
    paths, _ = NAMED["person"]
    assert name_hint_findings(make_set(paths, groups=[path.split("_")[0] for path in paths])) == []


def test_patients_come_before_their_studies() -> None:
    paths = [
        f"patient{p:05d}/study{s}/view{v}.jpg" for p in range(20) for s in (1, 2) for v in (1, 2)
    ]
    assert word_patterns(paths)[0] == r"(patient\d+)"


def test_a_hint_is_given_once_for_the_same_images(make_set: MakeSet) -> None:
    paths = [f"patient{p}/study{s}/{v}.jpg" for p in range(20) for s in (1, 2) for v in (1, 2)]
    assert len(name_hint_findings(make_set(paths))) == 1


def test_keys_are_those_of_the_group_pattern() -> None:
    assert keys_of(r"(p\d+)_", ["p1_2.png", "x/p12_0.png", "q.png"]) == ["p1", "p12", ""]


def test_patients_may_have_images_of_several_classes() -> None:
    paths = [f"{p:08d}_{k:03d}.png" for p in range(200) for k in range(4)]
    classes = random.Random(0).choices("abcdefghijklmn", k=800)
    assert prefix_patterns(paths, classes) == [r"(?:^|/)(\d+)_"]


def test_prefixes_are_evaluated_within_a_class() -> None:
    paths = [f"{p:04d}_{side}.png" for p in range(40) for side in ("left", "right")]
    assert prefix_patterns(paths, ["x"] * 80) == [r"(?:^|/)(\d+)_"]
    assert prefix_patterns(paths, ["x", "y"] * 40) == []


def test_sets_that_are_too_small_give_no_hint(make_set: MakeSet) -> None:
    assert name_hint_findings(make_set(["images/person1_1.png"])) == []
    assert name_hint_findings(make_set([])) == []


@pytest.mark.skipif(not SHARED.is_dir(), reason="the data sets are not on this machine")
def test_real_sets_get_the_expected_hints(make_set: MakeSet) -> None:
    brain = [sample.path for sample in index_classification(SHARED / "brain_tumor_mri").samples]
    assert name_hint_findings(make_set(brain, targets=[path.split("/")[1] for path in brain])) == []
    polyps = [f"images/{path.name}" for path in sorted((SHARED / "kvasir_seg/images").iterdir())]
    assert name_hint_findings(make_set(polyps)) == []
    chest = [sample.path for sample in index_classification(SHARED / "chest_xray").samples]
    kinds, splits = zip(*((path.split("/")[1], path.split("/")[0]) for path in chest), strict=True)
    (hint,) = name_hint_findings(make_set(chest, targets=kinds, splits=splits))
    assert proposed(hint.text) == r"(person\d+_[A-Za-z]+)"
    assert "none of them in two splits" in hint.text
    assert "would link 170 of the 202 groups of test (320 of 624 images) to train" in hint.text


def test_two_eyes_of_one_person_are_asked_about_with_the_pattern(make_set: MakeSet) -> None:
    paths = [f"images/Image_{k:02d}{side}.jpg" for k in range(1, 15) for side in "LR"]
    splits = ["train", "test"] * 14
    (finding,) = name_hint_findings(make_set(paths, splits=splits))
    assert finding.severity == "warning"
    assert "may identify" in finding.text
    assert r"data.group_pattern='(?:^|/)([^/]*\d)[_-]?[LR]\.'" in finding.advice
    assert "it links 14 of the 14 groups of test (14 of 14 images) to train" in finding.text


def test_numbers_with_one_letter_each_are_no_groups(make_set: MakeSet) -> None:
    paths = [f"images/scan{k}x.png" for k in range(30)]
    assert [f for f in name_hint_findings(make_set(paths)) if "[x]" in f.text] == []


@pytest.mark.parametrize("form", ["2019-03-{:02d}_{}", "x_201903{:02d}_{}", "{1}.2019.03.{0:02d}"])
def test_dates_are_a_question_with_their_pattern_and_no_patients(
    make_set: MakeSet, form: str
) -> None:
    data = make_set([f"images/{form.format(1 + k % 12, k)}.png" for k in range(60)])
    assert name_hint_findings(data) == []
    (finding,) = date_findings(data)
    assert (finding.severity, finding.kind) == ("note", "dates_in_names")
    keys = keys_of(proposed(finding.text), list(data.samples.paths))
    assert (len(set(keys)), "" in keys) == (12, False)
    assert "a date identifies no patient" in finding.advice


def test_long_numbers_are_no_dates_and_groups_answer_the_question(make_set: MakeSet) -> None:
    numbers = [20_190_101 + 37 * (k // 2) for k in range(60)]
    assert date_findings(make_set([f"images/{n}_{k}.png" for k, n in enumerate(numbers)])) == []
    each = [f"images/2019-{1 + k // 28:02d}-{1 + k % 28:02d}.png" for k in range(60)]
    assert date_findings(make_set(each)) == []  # one image a day makes no group
    paths = [f"images/2019-03-{1 + k % 12:02d}_{k}.png" for k in range(60)]
    assert date_findings(make_set(paths, groups=[f"p{k % 9}" for k in range(60)])) == []
