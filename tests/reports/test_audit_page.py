import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from medvision.reports.audit import Gallery, PictureCase, audit_page, side_by_side

Render = Callable[..., str]


@pytest.fixture
def content() -> dict[str, Any]:
    """An audit.json of a data set with leaks."""
    part = {"accuracy": 0.75, "accuracy_ci95": [0.6, 0.9], "balanced_accuracy": 0.7}
    duplicates = {
        "groups": 3,
        "images": 8,
        "largest_group": 4,
        "groups_across_splits": 2,
        "test_images_in_train": 5,
        "val_images_in_train": 0,
        "test_images_in_val": 0,
        "threshold": 0.99,
    }
    return {
        "name": "brains & <b>more</b>",
        "task": "classification",
        "roots": ["/data/brains"],
        "verdict": "A test score on this split is not valid: 5 of 20",
        "severity": "leak",
        "exit_code": 1,
        "num_images": 1100,
        "num_images_by_split": {"train": 1080, "test": 20},
        "num_unusable": 0,
        "class_counts": {"train": {"a": 540, "b": 540}, "test": {"a": 5, "b": 15}},
        "exact_duplicates": duplicates,
        "near_duplicates": duplicates | {"test_images_in_train": 7},
        "label_conflicts": [{}],
        "groups": {"groups": 300, "images": 1090},
        "grouping": ["splits.csv"],
        "memory_baseline": {
            "protocol": "test split",
            "num_images": 20,
            **part,
            "chance": 0.25,
            "with_twin": {"num_images": 7, **part, "accuracy": 1.0},
            "without_twin": {"num_images": 13, **part, "accuracy": 0.4},
        },
        "shortcuts": {
            "scores": [
                {
                    "features": "size",
                    "balanced_accuracy": 0.61,
                    "balanced_accuracy_ci95": [0.55, 0.66],
                    "predicts": False,
                }
            ],
            "constant": ["colour"],
            "folds": 5,
            "num_images": 1100,
            "chance": 0.5,
            "margin": 0.1,
        },
        "findings": [
            {
                "kind": "near_duplicates_test_train",
                "severity": "leak",
                "text": "7 of 20 test images have a near-duplicate in train",
                "count": 7,
                "files": [f"test/a/{k}.png" for k in range(7)],
                "advice": "data.protocol=grouped keeps them together",
            }
        ],
        "settings": {"threshold": 0.99, "thumbnail_px": 48, "against": False},
        "elapsed_s": 12.34,
    }


def case(title: str, *, two: bool = True, wrong: bool = False) -> PictureCase:
    pictures = [np.full((40, 40, 3), 90, np.uint8)] * (2 if two else 1)
    return PictureCase(pictures=pictures, title=title, lines=["left: x_y.png"], wrong=wrong)


@pytest.fixture
def page(content: dict[str, Any]) -> Render:
    """The page with these changes to the audit."""

    def render(**changes: Any) -> str:
        pairs = [
            Gallery(title="Contradicting", cases=[case("Cut, 0.99", wrong=True)], hidden=3),
            Gallery(title="Empty gallery", cases=[]),
        ]
        odd = [Gallery(title="Low contrast", cases=[case("dark.png", two=False)])]
        near = [Gallery(title="Neighbours", cases=[case("Wrong")])]
        return audit_page(content | changes, pairs=pairs, odd=odd, neighbours=near)

    return render


def text_of(html: str) -> str:
    body = re.sub(r"(?s)<(style|title|head).*?</\1>", " ", html).replace("<wbr>", "")
    return " ".join(re.sub(r"<[^>]+>", " ", body).split())


def test_the_page_has_the_verdict_the_numbers_and_the_advice(page: Render) -> None:
    text = text_of(page())
    assert "is not valid: 5 of 20." in text
    assert "Near-duplicates 7 of 20 test images have one in train" in text
    assert "Nearest neighbour 0.750 accuracy, 0.600 to 0.900; chance 0.250" in text
    assert "Test images also in train 5 of 20 7 of 20" in text
    assert "leak 7 of 20 test images have a near-duplicate in train." in text
    assert "data.protocol=grouped keeps them together." in text
    assert "test/a/3.png and 3 more" in text
    assert "test/a/4.png" not in text
    assert "With a near-duplicate in train 7 1.000" in text
    assert "a network that scores no better may have learned nothing beyond this" in text
    assert "a mirrored, turned or cropped copy need not be the nearest" in text
    assert "Conflicts 1 pair with contradicting classes" in text
    assert "Without one 13 0.400" in text
    assert "size 0.610 0.550 to 0.660" in text
    assert "The same for all images: colour." in text
    assert "b 540 50.0 % 15 75.0 %" in text


def test_the_page_is_for_research_only(page: Render) -> None:
    assert text_of(page()).count("For research use only.") == 2


def test_the_source_of_the_groups_is_named(page: Render) -> None:
    assert "300 with 1,090 of 1,100 images, from splits.csv" in text_of(page())
    assert "none given" in text_of(page(groups=None, grouping=[]))


def test_pairs_are_pictures_with_their_names(page: Render) -> None:
    html = page()
    assert html.count('src="data:image/jpeg;base64,') == 3
    assert '<figure class="wrong">' in html
    assert 'alt="Cut, 0.99: left: x_y.png"' in html
    assert "3 more are listed in audit.json." in html
    assert "Empty gallery" not in html


def test_the_page_is_self_contained_and_runs_nothing(page: Render) -> None:
    html = page()
    assert "<script" not in html
    assert re.findall(r'(?:src|href)="(?!data:|#)[^"]*"', html) == []


def test_names_are_escaped(page: Render) -> None:
    html = page()
    assert "brains &amp; &lt;b&gt;more&lt;/b&gt;" in html
    assert "<b>more</b>" not in html


def test_missing_content_has_no_section(content: dict[str, Any]) -> None:
    bare = content | {
        "memory_baseline": None,
        "shortcuts": None,
        "class_counts": {},
        "findings": [],
        "severity": "note",
        "exit_code": 0,
        "num_images_by_split": {"none": 1100},
    }
    text = text_of(audit_page(bare, pairs=[], odd=[], neighbours=[]))
    for absent in ("Shortcuts", "memory", "twice", "Odd", "Nearest", "also in train"):
        assert absent not in text
    assert "Near-duplicates 8 images in 3 groups" in text
    assert "1,100 (no split given 1,100)" in text


def test_leave_one_out_and_dice_are_named(content: dict[str, Any]) -> None:
    part = {"num_images": 4, "dice": 0.5, "dice_ci95": [0.4, 0.6]}
    memory = {"protocol": "leave one out", **part, "chance": 0.2, "with_twin": part | {}}
    memory["without_twin"] = {"num_images": 0, "dice": None, "dice_ci95": None}
    text = text_of(
        audit_page(content | {"memory_baseline": memory}, pairs=[], odd=[], neighbours=[])
    )
    assert "All images, each left out in turn 4 0.500" in text
    assert "With a near-duplicate in the data set" in text
    assert "Without one 0 undefined" in text
    assert "Foreground everywhere 0.200" in text
    assert "Nearest neighbour 0.500 Dice, 0.400 to 0.600; chance 0.200" in text


def test_pictures_are_side_by_side_with_white_between() -> None:
    joined = side_by_side([np.zeros((4, 3, 3), np.uint8), np.full((2, 5, 3), 7, np.uint8)])
    assert joined.shape == (4, 3 + 6 + 5, 3)
    assert (joined[:, 3:9] == 255).all()
    assert (joined[:2, 9:] == 7).all()
    assert (joined[2:, 9:] == 255).all()
    with pytest.raises(ValueError, match=r"expected pictures \(H, W, 3\), got \[\(2, 2\)\]"):
        side_by_side([np.zeros((2, 2), np.uint8)])
