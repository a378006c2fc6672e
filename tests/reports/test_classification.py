"""Plots of a classification run show exactly the given numbers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from medvision.reports.plots.classification import (
    choose_images,
    draw_calibration,
    draw_confusion,
    draw_images,
    draw_precision_recall,
    draw_roc,
    macro_mean,
    write_classification_plots,
)
from medvision.reports.plots.style import short_name, title_mark, write_curves

PICTURES = {
    "loss.png",
    "accuracy.png",
    "balanced_accuracy.png",
    "auroc.png",
    "roc.png",
    "precision_recall.png",
    "confusion.png",
    "decision_curve.png",
    "calibration.png",
    "test_images.png",
}
STEP = (np.array([0.0, 0.0, 0.5, 0.5, 1.0]), np.array([0.0, 0.5, 0.5, 1.0, 1.0]))  # area 0.75
SLOPE = (np.array([0.0, 1.0]), np.array([0.0, 1.0]))  # area 0.5
HISTORY = [
    {"epoch": 0, "train/loss": 0.6, "val/loss": 0.7, "train/accuracy": 0.5, "val/auroc": None},
    {"epoch": 1, "train/loss": 0.5, "val/loss": 0.4, "train/accuracy": 0.7, "val/auroc": 0.8},
]


def read(path: str) -> np.ndarray:
    return np.full((20, 24, 1), 90, np.uint8)


def legend_of(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def results(names: list[str], num_images: int = 20) -> dict[str, Any]:
    """All results for drawing, for images with cycling classes."""
    num_classes = len(names)
    target = np.arange(num_images) % num_classes
    probability = np.full((num_images, num_classes), 0.1 / (num_classes - 1))
    probability[np.arange(num_images), (target + (np.arange(num_images) == 3)) % num_classes] = 0.9
    confusion = np.zeros((num_classes, num_classes), int)
    np.add.at(confusion, (target, probability.argmax(axis=1)), 1)
    filled = np.array([0.0] * 14 + [num_images]).astype(int)
    return {
        "probability": probability,
        "target": target,
        "class_names": names,
        "threshold": 0.5,
        "rows": [{"path": f"{names[k]}/$im_{n}.png"} for n, k in enumerate(target)],
        "read": read,
        "roc": dict.fromkeys(names, STEP),
        "precision_recall": dict.fromkeys(names, (STEP[0], 1 - STEP[1] / 2)),
        "confusion": confusion,
        "calibration": (
            np.where(filled, 0.9, np.nan),
            np.where(filled, 0.95, np.nan),
            filled,
        ),
        "scores": {"auroc": 0.75, "ece": 0.05}
        | {f"auroc/{name}": 0.75 for name in names}
        | {f"average_precision/{name}": 0.6 for name in names},
        "synthetic": False,
        "protocol": "official",
        "net_benefit": [
            {
                "threshold": t,
                "net_benefit": 0.3 - t / 10,
                "net_benefit_ci95": None if t > 0.5 else [0.1, 0.4],
                "treat_all": 0.3 - t,
            }
            for t in (0.25, 0.75)
        ],
    }


@pytest.mark.parametrize(
    "names",
    [
        ["NORMAL", "PNEUMONIA"],
        ["$a_{b$ \\frac", "_hidden", "x" * 90, "two\nlines"],
        pytest.param(
            [f"{n} a rather long name of a class" for n in range(9)], marks=pytest.mark.slow
        ),
    ],
    ids=["two", "unkind-names", "nine"],
)
def test_every_picture_is_written_and_readable(tmp_path: Path, names: list[str]) -> None:
    (tmp_path / "plots").mkdir()
    write_curves(
        tmp_path, task="classification", history=HISTORY, synthetic=False, protocol="official"
    )
    write_classification_plots(tmp_path, **results(names))
    assert {path.name for path in (tmp_path / "plots").iterdir()} == PICTURES
    for path in (tmp_path / "plots").iterdir():
        with Image.open(path) as picture:
            assert 300 < min(picture.size) <= max(picture.size) < 2000


@pytest.mark.slow
def test_the_same_numbers_give_the_same_picture(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name / "plots").mkdir(parents=True)
        write_curves(tmp_path / name, task="classification", history=HISTORY, synthetic=False)
        write_classification_plots(tmp_path / name, **results(["a", "b"], num_images=3))
    for name in PICTURES:
        first, second = (tmp_path / run / "plots" / name for run in ("one", "two"))
        assert first.read_bytes() == second.read_bytes()


def test_mismatched_shapes_are_named(tmp_path: Path) -> None:
    wrong = results(["a", "b"]) | {"class_names": ["a", "b", "c"]}
    with pytest.raises(ValueError, match=r"expected probability \(20, 3\).*got \(20, 2\)"):
        write_classification_plots(tmp_path, **wrong)


def test_swapped_precision_and_recall_are_refused(tmp_path: Path) -> None:
    wrong = results(["a", "b"])
    wrong["precision_recall"] = {"b": wrong["precision_recall"]["b"][::-1]}
    with pytest.raises(ValueError, match="expected x of the curve of 'b' to rise"):
        write_classification_plots(tmp_path, **wrong)


def test_titles_mark_synthetic_and_merged_data_only() -> None:
    assert title_mark(synthetic=False, protocol="grouped") == ""
    assert title_mark(synthetic=True) == " (synthetic data)"
    assert title_mark(synthetic=False, protocol="merged") == " (merged protocol)"
    both = title_mark(synthetic=True, protocol="merged")
    assert both.split("\n")[1] == "(synthetic data) (merged protocol)"


def test_every_figure_has_the_mark() -> None:
    given, mark = results(["a", "b", "c"]), " (synthetic data)"
    names, confusion = given["class_names"], given["confusion"]
    shared = {"scores": given["scores"], "mark": mark}
    titles = [
        draw_roc(given["roc"], confusion, names, threshold=0.5, **shared).axes[0].get_title(),
        draw_precision_recall(given["precision_recall"], confusion, names, **shared)
        .axes[0]
        .get_title(),
        draw_confusion(confusion, names, mark=mark).get_suptitle(),
        draw_calibration(*given["calibration"], ece=0.05, mark=mark).axes[0].get_title(),
        draw_images(
            given["probability"],
            given["target"],
            names,
            threshold=0.5,
            rows=given["rows"],
            read=read,
            mark=mark,
        ).get_suptitle(),
    ]
    assert all(mark in title for title in titles)


def test_two_classes_show_the_curve_of_the_second_and_the_threshold_in_use() -> None:
    confusion = np.array([[90, 10], [5, 15]])
    figure = draw_roc(
        {"sick": STEP},
        confusion,
        ["well", "sick"],
        threshold=0.3,
        scores={"auroc/sick": 0.75},
        mark="",
    )
    _, curve, point = figure.axes[0].lines
    assert curve.get_xdata().tolist() == STEP[0].tolist()
    assert point.get_xydata().tolist() == [[0.1, 0.75]]
    assert legend_of(figure) == [
        "AUC 0.7500  sick",
        "at threshold 0.300: sensitivity 0.750, specificity 0.900",
    ]


def test_a_class_without_a_curve_is_named_as_undefined() -> None:
    figure = draw_roc(
        {"a": STEP, "b": SLOPE},
        np.eye(3, dtype=int),
        ["a", "b", "c"],
        threshold=0.5,
        scores={"auroc/a": 0.75, "auroc/b": 0.5, "auroc/c": float("nan"), "auroc": 0.625},
        mark="",
    )
    assert legend_of(figure) == [
        "AUC 0.7500  a",
        "AUC 0.5000  b",
        "AUC undefined  c",
        "AUC 0.6250  macro mean",
    ]


def test_undefined_scores_give_a_picture_without_curves() -> None:
    nothing: dict[str, Any] = {"scores": {}, "mark": ""}
    counts = np.array([[4, 0], [0, 0]])
    roc = draw_roc({}, counts, ["well", "sick"], threshold=0.5, **nothing)
    assert legend_of(roc) == ["AUC undefined  sick"]
    curves = draw_precision_recall({}, counts, ["well", "sick"], **nothing)
    assert legend_of(curves) == ["AP undefined  sick", "prevalence 0.000"]


def test_the_area_of_the_mean_curve_is_the_mean_of_the_areas() -> None:
    x, y = macro_mean([STEP, SLOPE])
    assert np.trapezoid(y, x) == pytest.approx((0.75 + 0.5) / 2)
    rng = np.random.default_rng(0)
    curves = [
        (np.sort(np.r_[0, rng.integers(0, 5, 9) / 4, 1]), np.sort(np.r_[0, rng.random(9), 1]))
        for _ in range(5)
    ]
    x, y = macro_mean(curves)
    areas = [np.trapezoid(y, x) for x, y in curves]
    assert np.trapezoid(y, x) == pytest.approx(np.mean(areas))


def test_the_area_below_the_drawn_precision_is_the_average_precision() -> None:
    """Scores 0.9 to 0.6 of a positive, a negative, a positive and a negative: AP 5/6."""
    recall, precision = np.array([0, 0.5, 0.5, 1, 1]), np.array([1, 1, 1 / 2, 2 / 3, 1 / 2])
    figure = draw_precision_recall(
        {"b": (recall, precision)},
        np.array([[1, 1], [0, 2]]),
        ["a", "b"],
        scores={"average_precision/b": 5 / 6},
        mark="",
    )
    line = figure.axes[0].lines[0]
    assert line.get_drawstyle() == "steps-pre"
    assert (np.diff(line.get_xdata()) * line.get_ydata()[1:]).sum() == pytest.approx(5 / 6)
    assert legend_of(figure) == ["AP 0.8333  b", "prevalence 0.500"]
    assert set(figure.axes[0].lines[1].get_ydata()) == {0.5}


def test_each_cell_of_the_confusion_has_count_and_per_cent_of_its_row() -> None:
    figure = draw_confusion(np.array([[3, 1], [0, 0]]), ["a", "b"], mark="")
    cells = [text.get_text() for text in figure.axes[0].texts]
    assert cells == ["3\n75.0 %", "1\n25.0 %", "0\n-", "0\n-"]
    assert figure.axes[0].get_ylabel().startswith("true class")
    assert figure.axes[0].get_xlabel() == "predicted class"


def test_empty_bins_of_the_calibration_have_no_point() -> None:
    nan = float("nan")
    figure = draw_calibration(
        np.array([nan, 0.8]), np.array([nan, 0.6]), np.array([0, 5]), ece=None, mark=""
    )
    axes, below = figure.axes
    assert axes.lines[1].get_xydata().tolist() == [[0.8, 0.6]]
    assert [bar.get_height() for bar in below.patches] == [0, 5]
    assert axes.get_title() == "Calibration, ECE undefined, test images"


def test_the_bins_before_and_after_calibration_are_side_by_side() -> None:
    nan = float("nan")
    before = np.array([nan, 0.8]), np.array([nan, 0.6]), np.array([0, 5])
    after = np.array([0.45, 0.7]), np.array([0.5, 0.65]), np.array([2, 3])
    figure = draw_calibration(
        *before, ece=0.2, mark=" (x)", after=after, after_ece=0.05, temperature=1.5
    )
    axes, below = figure.axes
    assert axes.get_title() == (
        "Calibration, test images (x)\nECE 0.2000 before, 0.0500 after temperature 1.5"
    )
    assert [line.get_xydata().tolist() for line in axes.lines[1:]] == [
        [[0.8, 0.6]],
        [[0.45, 0.5], [0.7, 0.65]],
    ]
    assert [bar.get_height() for bar in below.patches] == [0, 5, 2, 3]
    assert [bar.get_x() for bar in below.patches] == [0, 0.5, 0.25, 0.75]
    assert set(legend_of(figure)) == {
        "calibrated",
        "accuracy before",
        "accuracy after",
        "at its mean confidence before",
        "at its mean confidence after",
    }


def test_the_most_confident_mistakes_come_first_and_fill_at_most_half() -> None:
    target = np.repeat([0, 1, 2, 3], 25)
    predicted = target.copy()
    predicted[:12] = 1
    confidence = np.linspace(0.3, 0.99, 100)
    chosen = choose_images(predicted, confidence, target)
    assert chosen[:8] == [11, 10, 9, 8, 7, 6, 5, 4]
    assert target[chosen[8:]].tolist() == [0, 1, 2, 3] * 2
    assert (predicted == target)[chosen[8:]].all()


def test_without_mistakes_the_classes_share_the_places_evenly_along_the_table() -> None:
    target = np.repeat([0, 1], [80, 3])
    chosen = choose_images(target, np.ones(83), target)
    assert sorted(chosen) == sorted({*range(80, 83), *(i for i in chosen if i < 80)})
    assert len(chosen) == 16
    assert (target[chosen] == 1).sum() == 3
    assert np.diff(sorted(i for i in chosen if i < 80)).max() >= 6


def test_few_images_are_all_shown_once_and_unlabelled_ones_never() -> None:
    target = np.array([0, 1, 255, 1])
    chosen = choose_images(np.array([1, 1, 1, 0]), np.array([0.6, 0.7, 0.9, 0.8]), target)
    assert chosen == [3, 0, 1]


def test_more_mistakes_than_half_fill_the_remaining_places() -> None:
    target, predicted = np.zeros(20, int), np.ones(20, int)
    assert len(choose_images(predicted, np.linspace(0, 1, 20), target)) == 16


def test_mistakes_by_the_threshold_are_crossed_and_framed() -> None:
    probability = np.array([[0.7, 0.3], [0.9, 0.1]])
    figure = draw_images(
        probability,
        np.array([0, 0]),
        ["well", "sick"],
        threshold=0.25,
        rows=[{"path": "a"}, {"path": "b"}],
        read=read,
        mark="",
    )
    wrong, right = figure.axes[:2]
    assert wrong.get_title() == "✗ sick 30.0 %\ntrue: well"
    assert right.get_title() == "well 90.0 %\ntrue: well"
    assert wrong.spines["top"].get_visible()
    assert not right.spines["top"].get_visible()


def test_a_long_name_keeps_both_ends() -> None:
    assert short_name("glioma") == "glioma"
    short = short_name("large.cell.carcinoma_left.hilum_T2_N2_M0_IIIa")
    assert (short, len(short)) == ("large.cell.ca..._M0_IIIa", 24)
