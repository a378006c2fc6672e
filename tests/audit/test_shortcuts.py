import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from medvision.audit.check import audit
from medvision.audit.dataset import AuditedSet
from medvision.audit.shortcuts import (
    MAX_IMAGES,
    Score,
    Shortcuts,
    _folds,
    shortcut_findings,
    shortcut_scores,
)

MakeSet = Callable[..., AuditedSet]
COUNT = 400


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def two_classes(count: int = COUNT) -> tuple[np.ndarray, list[str]]:
    labels = np.arange(count) % 2
    return labels, ["normal" if label else "tumour" for label in labels]


def test_a_size_that_predicts_the_class_is_found_and_noise_is_not(
    make_set: MakeSet, rng: np.random.Generator
) -> None:
    labels, targets = two_classes()
    data = make_set(
        COUNT,
        targets=targets,
        height=np.where(labels == 1, 512, 400) + rng.integers(0, 9, COUNT),
        border=rng.uniform(0, 255, (COUNT, 4)),
    )
    shortcuts = shortcut_scores(data)
    assert shortcuts is not None
    scores = {score.features: score for score in shortcuts.scores}
    assert scores["size"].balanced_accuracy == 1
    assert scores["size"].predicts
    assert not scores["border"].predicts
    assert abs(scores["border"].balanced_accuracy - 0.5) < 0.1
    assert shortcuts.chance == 0.5
    assert {"file format", "JPEG quality", "bit depth and colour"} == set(shortcuts.constant)
    (finding,) = shortcut_findings(shortcut_scores(data))
    assert (finding.kind, finding.severity) == ("shortcuts", "warning")
    assert "1.00 (1.00 to 1.00) by size" in finding.text
    assert "border" not in finding.text
    assert finding.text.endswith("chance is 0.50")


@pytest.mark.parametrize(
    ("column", "values", "family"),
    [
        ("file_format", np.array(["PNG", "JPEG"]), "file format"),
        ("jpeg_quality", np.array([75, 95]), "JPEG quality"),
        ("bits", np.array([8, 16]), "bit depth and colour"),
        ("colour", np.array([True, False]), "bit depth and colour"),
        ("num_bytes", np.array([900, 2000]), "bytes per pixel"),
        ("border", np.array([[0, 0, 0, 0], [0, 0, 0, 90]]), "border"),
        ("width", np.array([64, 80]), "aspect ratio"),
    ],
)
def test_each_family_of_properties_is_evaluated_alone(
    make_set: MakeSet, column: str, values: np.ndarray, family: str
) -> None:
    labels, targets = two_classes(80)
    shortcuts = shortcut_scores(make_set(80, targets=targets, **{column: values[labels]}))
    assert shortcuts is not None
    assert family in {s.features for s in shortcuts.scores if s.balanced_accuracy == 1}


def test_a_shortcut_that_anatomy_may_cause_is_only_a_note(
    make_set: MakeSet, rng: np.random.Generator
) -> None:
    labels, targets = two_classes()
    brightness = labels * 15 + rng.normal(50, 10, COUNT)  # a threshold is right for 77 %
    data = make_set(COUNT, targets=targets, border=np.repeat(brightness[:, None], 4, axis=1))
    (finding,) = shortcut_findings(shortcut_scores(data))
    assert finding.severity == "note"
    assert "perfectly" not in finding.text
    assert "the image content may also cause this" in finding.advice


@pytest.mark.parametrize(
    ("column", "values", "advice"),
    [
        ("border", [[90, 90, 90, 90], [0, 90, 90, 90]], "(border: the outer 4 % on each side:"),
        ("num_bytes", [900, 2000], "(bytes per pixel: what compresses well or badly:"),
    ],
)
def test_content_that_predicts_almost_perfectly_is_a_warning(
    make_set: MakeSet, column: str, values: list[Any], advice: str
) -> None:
    labels, targets = two_classes()
    data = make_set(COUNT, targets=targets, **{column: np.array(values)[labels]})
    (finding,) = shortcut_findings(shortcut_scores(data))
    assert finding.severity == "warning"
    assert "alone almost perfectly predict the class: a small tree" in finding.text
    assert advice in finding.advice
    verdict = audit(data, started=0).verdict
    assert verdict == (
        "There is no test split that could leak; 1 warning needs a look before training"
    )


@pytest.mark.parametrize(
    ("families", "low", "severity"),
    [
        (("border", "bytes per pixel"), 0.7, "note"),
        (("border", "bytes per pixel"), 0.9, "warning"),
        (("border", "size"), 0.7, "warning"),
    ],
)
def test_all_together_is_judged_by_the_properties_that_vary(
    families: tuple[str, ...], low: float, severity: str
) -> None:
    scores = [
        Score(features=name, balanced_accuracy=0.5, ci95=(0.4, 0.6), predicts=False)
        for name in families
    ]
    scores.append(
        Score(features="all together", balanced_accuracy=0.95, ci95=(low, 1), predicts=True)
    )
    (finding,) = shortcut_findings(
        Shortcuts(
            class_names=("normal", "tumour"),
            left_out=(),
            chance=0.5,
            num_images=400,
            num_eligible=400,
            scores=tuple(scores),
            constant=(),
        )
    )
    assert finding.severity == severity
    assert "by all together" in finding.text
    assert ("store all alike" in finding.advice) == ("size" in families)


def test_noise_gives_no_finding(make_set: MakeSet, rng: np.random.Generator) -> None:
    _, targets = two_classes()
    data = make_set(
        COUNT,
        targets=targets,
        height=rng.integers(100, 900, COUNT),
        width=rng.integers(100, 900, COUNT),
        num_bytes=rng.integers(1000, 90000, COUNT),
    )
    assert shortcut_findings(shortcut_scores(data)) == []


def test_equal_file_properties_are_not_evaluated(make_set: MakeSet) -> None:
    shortcuts = shortcut_scores(make_set(80, targets=two_classes(80)[1]))
    assert shortcuts is not None
    assert shortcuts.scores == ()
    assert shortcut_findings(shortcuts) == []


def test_copies_are_kept_in_one_fold(make_set: MakeSet, rng: np.random.Generator) -> None:
    # 20 pictures, each 20 times: a height identifies a picture, not a class.
    picture = np.arange(COUNT) // 20
    label = rng.permutation(np.arange(20) % 2)[picture]
    columns = {"targets": [str(value) for value in label], "height": 100 + picture}
    apart = shortcut_scores(make_set(COUNT, **columns, near_duplicates=np.arange(COUNT)))
    together = shortcut_scores(make_set(COUNT, **columns, near_duplicates=picture))
    by_group = shortcut_scores(make_set(COUNT, **columns, groups=[f"g{k}" for k in picture]))
    assert apart is not None
    assert together is not None
    assert by_group is not None
    assert apart.scores[0].balanced_accuracy > 0.65
    assert together.scores[0].balanced_accuracy < 0.6
    assert by_group.scores == together.scores
    wide, narrow = together.scores[0].ci95, apart.scores[0].ci95
    assert wide[1] - wide[0] > 2 * (narrow[1] - narrow[0])


def test_folds_keep_groups_whole_and_class_shares_equal(rng: np.random.Generator) -> None:
    groups = np.sort(rng.integers(0, 150, 900))
    groups = np.unique(groups, return_inverse=True)[1]
    classes = groups % 3
    fold = _folds(classes, groups)
    assert all(len(set(fold[groups == group])) == 1 for group in np.unique(groups))
    for label in range(3):
        held = np.bincount(fold[classes == label], minlength=5)
        assert held.max() <= 1.5 * held.min()


def test_equal_sets_give_equal_scores(make_set: MakeSet, rng: np.random.Generator) -> None:
    _, targets = two_classes()
    height = rng.integers(100, 900, COUNT)
    one, other = (make_set(COUNT, targets=targets, height=height) for _ in range(2))
    assert shortcut_scores(one) == shortcut_scores(other)


def test_rare_classes_are_excluded_and_one_class_is_not_evaluated(make_set: MakeSet) -> None:
    targets = ["a"] * 50 + ["b"] * 50 + ["c"] * 5
    shortcuts = shortcut_scores(make_set(105, targets=targets, height=np.arange(105) + 50))
    assert shortcuts is not None
    assert shortcuts.class_names == ("a", "b")
    assert shortcuts.num_images == 100
    assert shortcut_scores(make_set(55, targets=["a"] * 50 + ["b"] * 5)) is None


def test_empty_masks_are_predicted_for_segmentation(make_set: MakeSet) -> None:
    empty = np.arange(80) % 2 == 0
    masks = {"foreground": np.where(empty, 0, 0.2)}
    shortcuts = shortcut_scores(make_set(80, mask=masks, width=np.where(empty, 64, 99)))
    assert shortcuts is not None
    assert shortcuts.class_names == ("empty mask", "foreground")
    assert shortcuts.scores[0].balanced_accuracy == 1
    assert shortcut_scores(make_set(80)) is None


def test_the_table_is_plain_json_with_its_sources(
    make_set: MakeSet, rng: np.random.Generator
) -> None:
    data = make_set(80, targets=two_classes(80)[1], height=rng.integers(100, 900, 80))
    shortcuts = shortcut_scores(data)
    assert shortcuts is not None
    table = json.loads(json.dumps(shortcuts.to_dict(), allow_nan=False))
    assert (table["num_images"], table["chance"], table["margin"]) == (80, 0.5, 0.1)
    first = table["scores"][0]
    assert first["features"] == "size"
    low, high = first["balanced_accuracy_ci95"]
    assert low <= first["balanced_accuracy"] <= high


def test_a_stated_number_of_many_images_is_drawn(make_set: MakeSet) -> None:
    count = MAX_IMAGES + 100
    thumbnail = np.zeros((count, 1, 1))
    labels, targets = two_classes(count)
    data = make_set(count, targets=targets, height=60 + labels, thumbnail=thumbnail)
    shortcuts = shortcut_scores(data)
    assert shortcuts is not None
    assert (shortcuts.num_images, shortcuts.num_eligible) == (MAX_IMAGES, count)
    assert shortcuts.scores[0].balanced_accuracy == 1


def test_classes_with_too_few_images_are_named_as_left_out(make_set: MakeSet) -> None:
    targets = ["normal", "tumour"] * 40 + ["cyst"] * 9
    height = np.array([512, 400] * 40 + [450] * 9)
    shortcuts = shortcut_scores(make_set(89, targets=targets, height=height))
    assert shortcuts is not None
    assert (shortcuts.class_names, shortcuts.left_out) == (("normal", "tumour"), ("cyst",))
    assert shortcuts.num_images == 80
    (finding,) = shortcut_findings(shortcuts)
    assert (
        "predict the class of normal and tumour (cyst left out: fewer than 20 images): a small tree"
        in finding.text
    )
