import html
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medvision.reports.run_page import write_report

Write = Callable[..., Path]


def report(folder: Path) -> str:
    return write_report(folder).read_text(encoding="utf-8")


def words(text: str) -> str:
    """Visible text, in one line."""
    body = re.sub(r"<style>.*?</style>", "", text, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", body)).split())


def table_row(text: str, name: str) -> list[str]:
    """Cells of the row that starts with a name."""
    for line in re.findall(r"<tr.*?</tr>", text, re.DOTALL):
        cells = [words(cell) for cell in re.findall(r"<t[hd].*?</t[hd]>", line, re.DOTALL)]
        if cells[0] == name:
            return cells[1:]
    raise AssertionError(f"no line {name}")


def sections(text: str) -> list[str]:
    return re.findall(r'<section id="([a-z]+)"', text)


def scored(value: float, low: float, high: float) -> dict[str, Any]:
    return {"accuracy": value, "accuracy_ci95": [low, high]}


def test_leaks_are_the_first_thing_below_the_title(
    write_run: Write, classification: dict[str, Any]
) -> None:
    leaks = ["259 of 394 test images have a near-duplicate in train", "3 patients are in <both>"]
    found = [{"kind": "k", "severity": "leak", "text": "t", "count": 1}] * 2
    found += [{"kind": "k", "severity": "warning", "text": "t", "count": 1}]
    classification["audit"] = {"mode": "warn", "complete": True, "leaks": leaks, "findings": found}
    text = report(write_run(classification))
    after_title = text[text.index("</h1>") + len("</h1>") :].lstrip()
    assert after_title.startswith('<div class="banner leak" role="note"><p><strong>Data leakage')
    seen = words(text)
    assert all(leak in seen for leak in leaks)
    assert seen.index(leaks[1]) < seen.index("distinguishes NORMAL and PNEUMONIA")
    assert table_row(text, "Audit") == ["complete; 2 leaks, 1 warning"]


@pytest.mark.parametrize(
    ("audit", "banner", "fact"),
    [
        pytest.param(
            {"mode": "skip"},
            "The data were not audited (audit=skip).",
            "skipped",
            id="skipped",
        ),
        pytest.param(
            {"mode": "warn", "complete": False, "leaks": [], "findings": []},
            "Only quick checks ran.",
            "quick checks only; nothing found",
            id="incomplete",
        ),
    ],
)
def test_a_skipped_or_incomplete_audit_is_reported(
    write_run: Write, segmentation: dict[str, Any], audit: dict[str, Any], banner: str, fact: str
) -> None:
    again = "the data were not audited: audit=skip"
    text = report(write_run({**segmentation, "audit": audit, "warnings": [again, "another note"]}))
    assert banner in words(text)
    assert again not in words(text)  # the banner says it
    assert "another note" in words(text)
    assert "banner leak" not in text
    assert table_row(text, "Audit") == [fact]


def test_a_clean_audit_and_none_at_all_need_no_banner(
    write_run: Write, segmentation: dict[str, Any]
) -> None:
    clean = {"mode": "strict", "complete": True, "leaks": [], "findings": []}
    folder = write_run({**segmentation, "audit": clean})
    text = report(folder)
    assert 'class="banner' not in text
    assert table_row(text, "Audit") == ["complete; nothing found"]


def test_every_finding_of_the_audit_is_listed_once_with_its_advice(
    write_run: Write, classification: dict[str, Any]
) -> None:
    found = [
        {"kind": "k", "severity": "leak", "text": "it leaks", "count": 1, "advice": "fix it"},
        {
            "kind": "k",
            "severity": "warning",
            "text": "few images",
            "count": 1,
            "advice": "add some",
        },
        {"kind": "k", "severity": "note", "text": "2 near-duplicates", "count": 1, "advice": ""},
    ]
    leaks = ["it leaks; fix it"]
    classification["audit"] = {"mode": "warn", "complete": True, "leaks": leaks, "findings": found}
    classification["warnings"] = ["LEAK: it leaks; fix it", "few images; add some", "another note"]
    text = report(write_run(classification))
    seen = words(text)
    for line in (
        "it leaks; fix it",
        "Warning of the audit: few images; add some",
        "Note of the audit: 2 near-duplicates",
        "another note",
    ):
        assert seen.count(line.rpartition(": ")[2]) == 1
        assert line in seen
    assert table_row(text, "Audit") == ["complete; 1 leak, 1 warning, 1 note"]


@pytest.mark.parametrize("protocol", ["test split", "leave one out"])
def test_the_memory_baseline_is_beside_the_test_score(
    write_run: Write, classification: dict[str, Any], protocol: str
) -> None:
    memory = {"protocol": protocol, "num_images": 12, **scored(0.75, 0.5, 0.9)}
    classification["audit"] = {"mode": "warn", "complete": True, "memory_baseline": memory}
    classification["metrics"]["test/accuracy"] = 0.625
    sentence = (
        "Memory baseline: predicting the class of the most similar training image reaches accuracy"
        " 0.750 (95 % interval 0.500 to 0.900) on 12 test images, the network 0.625."
    )
    assert (sentence in words(report(write_run(classification)))) == (protocol == "test split")


@pytest.mark.parametrize(
    ("difference", "copies", "look", "words_of_it"),
    [
        (0.0, 1, "warn", "Copies in training hardly change the scores below."),
        (-0.015, 1, "warn", "Copies in training do not raise the scores below."),
        (0.015, 1, "alarm", "the scores below may be overestimated."),
        (0.2, 1, "leak", "the scores below are overestimated."),
        (0.0, 300, "alarm", "the scores below may be overestimated."),  # 94 others show little
    ],
)
def test_words_and_colour_of_a_leak_follow_its_effect(
    write_run: Write,
    classification: dict[str, Any],
    difference: float,
    copies: int,
    look: str,
    words_of_it: str,
) -> None:
    leaks = ["1 of 394 test images has a near-duplicate in train; keep them together"]
    classification["audit"] = {"mode": "warn", "complete": True, "leaks": leaks, "findings": []}
    clean = classification["metrics"]["test/accuracy"] - difference
    classification["twins"] = {
        "with_twin": {"num_images": copies, **scored(1.0, 0.9, 1.0)},
        "without_twin": {"num_images": 394 - copies, **scored(clean, clean - 0.02, clean + 0.02)},
    }
    text = report(write_run(classification))
    after_title = text[text.index("</h1>") + len("</h1>") :].lstrip()
    assert after_title.startswith(f'<div class="banner {look}"')
    assert words_of_it in after_title[:400]
    assert leaks[0] in words(text)


@pytest.mark.parametrize(
    ("copies", "start"), [(8, "These are not all"), (15, "Most of these are not")]
)
def test_copies_of_training_images_in_another_set_are_the_first_thing_below_the_title(
    write_run: Write, segmentation: dict[str, Any], copies: int, start: str
) -> None:
    found = f"{copies} of 20 images are near-duplicates of one of the 33 training images of the run"
    outside = {
        **segmentation,
        "evaluated": {"run": "runs/a/b", "data": "other", "split": "all", "external": True},
        "external_check": {"checked": True, "text": found, "near_duplicates": {"images": copies}},
        "twins": {
            "with_twin": {"num_images": copies, "dice": 0.99, "dice_ci95": [0.9, 1.0]},
            "without_twin": {"num_images": 20 - copies, "dice": 0.7, "dice_ci95": [0.6, 0.8]},
        },
    }
    text = report(write_run(outside))
    after_title = text[text.index("</h1>") + len("</h1>") :].lstrip()
    assert after_title.startswith('<div class="banner leak"')
    assert f"{start} external data: the scores below are overestimated." in after_title
    assert found in words(text)
    assert table_row(text, "with a near-duplicate in training or validation")[0] == str(copies)


@pytest.mark.parametrize("checked", [True, False])
def test_another_set_without_copies_or_not_searched_is_named_so(
    write_run: Write, segmentation: dict[str, Any], checked: bool
) -> None:
    found: dict[str, Any] = {"checked": checked, "text": "not checked for them: the run is older"}
    if checked:
        found |= {"text": "none of the 20 images is a copy", "near_duplicates": {"images": 0}}
    evaluated = {"run": "runs/a/b", "data": "o", "external": True}
    text = report(write_run({**segmentation, "evaluated": evaluated, "external_check": found}))
    assert ("External data: none of the 20 images is a copy." in words(text)) == checked
    assert ('class="banner warn"' in text) != checked
    unknown = (
        "Not known to be external data. The images were not checked for them: the run is older."
    )
    assert (unknown in words(text)) != checked


def test_scores_with_and_without_a_near_duplicate_are_beside_the_memory_baseline(
    write_run: Write, classification: dict[str, Any]
) -> None:
    classification["twins"] = {
        "with_twin": {"num_images": 259, **scored(0.98, 0.96, 0.99), "auroc": None},
        "without_twin": {"num_images": 1135, **scored(0.71, 0.62, 0.79), "auroc": 0.8},
        "memory_baseline": {
            "with_twin": scored(0.97, 0.94, 0.98),
            "without_twin": scored(0.52, 0.43, 0.61),
        },
    }
    text = report(write_run(classification))
    assert sections(text)[:2] == ["numbers", "twins"]
    head = ["Images", "Accuracy", "Accuracy of the memory baseline", "AUROC", "0 to 1"]
    assert table_row(text, "Test images") == head
    assert table_row(text, "with a near-duplicate in training")[:4] == [
        "259",
        "0.980 0.960 to 0.990",
        "0.970 0.940 to 0.980",
        "undefined",
    ]
    assert table_row(text, "without one")[:4] == [
        "1,135",
        "0.710 0.620 to 0.790",
        "0.520 0.430 to 0.610",
        "0.800",
    ]


def test_near_duplicates_with_masks_are_scored_by_dice_without_a_baseline(
    write_run: Write, segmentation: dict[str, Any]
) -> None:
    segmentation["twins"] = {
        "with_twin": {"num_images": 9, "dice": 0.95, "dice_ci95": [0.9, 0.97], "iou": 0.9},
        "without_twin": {"num_images": 3, "dice": None, "dice_ci95": None, "iou": None},
    }
    text = report(write_run(segmentation))
    assert table_row(text, "Test images") == ["Images", "Dice", "IoU", "0 to 1"]
    assert table_row(text, "without one")[:3] == ["3", "undefined", "undefined"]
    assert "memory baseline" not in words(text)


@pytest.mark.parametrize(
    ("times", "sentence"),
    [
        (1, "This test split has been evaluated once, for these scores."),
        (7, "This test split has been evaluated 7 times. Choosing the best"),
    ],
)
def test_evaluations_of_the_test_images_are_counted(
    write_run: Write, segmentation: dict[str, Any], times: int, sentence: str
) -> None:
    assert sentence in words(report(write_run({**segmentation, "test_evaluations": times})))


def test_a_sealed_run_is_described_by_its_validation_scores(
    write_run: Write, classification: dict[str, Any]
) -> None:
    metrics = classification["metrics"]
    classification["metrics"] = {
        **{name: value for name, value in metrics.items() if not name.startswith("test/")},
        "val/accuracy": 0.8,
        "val/accuracy_ci95": [0.5, 0.9],
        "val/recall/NORMAL": 0.7,
    }
    classification |= {"sealed": True, "test_evaluations": 3}
    text = report(write_run(classification, plots=("loss",)))
    seen = words(text)
    assert "Sealed: the test split was not used. This run is part of a hyper-parameter" in seen
    assert (
        "distinguishes NORMAL and PNEUMONIA in 10 validation images with an accuracy of 0.800 (95 %"
        " interval 0.5" in seen
    )
    assert table_row(text, "Score") == ["Validation", "0 to 1"]
    assert table_row(text, "Accuracy")[0] == "0.800 0.500 to 0.900"
    assert table_row(text, "Test, sealed")[:3] == ["4", "6", "10"]
    assert sections(text) == ["numbers", "data", "details", "curves", "definitions", "run"]
    assert "has been evaluated" not in seen


def test_an_opened_seal_is_no_longer_reported(
    write_run: Write, segmentation: dict[str, Any]
) -> None:
    assert "Sealed" not in words(report(write_run({**segmentation, "sealed": True})))
