from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medvision.reports.page import breakable
from medvision.reports.plots.segmentation import (
    choose_rows,
    draw_roc,
    draw_samples,
    write_test_plots,
)
from medvision.reports.plots.style import draw_curve, write_curves
from medvision.scores import LOSS, named_scores

HISTORY = [
    {"epoch": 0, "train/loss": 0.6, "val/loss": 0.7, "train/dice": 0.2, "val/dice": None},
    {"epoch": 1, "train/loss": 0.5, "val/loss": 0.4, "train/dice": 0.5, "val/dice": 0.6},
    {"epoch": 2, "train/loss": 0.4, "val/loss": 0.5, "train/dice": 0.7, "val/dice": 0.5},
]


def read(path: str, target: str) -> tuple[np.ndarray, np.ndarray]:
    image = np.full((32, 32, 3), 90, np.uint8)
    mask = np.zeros((32, 32), np.uint8)
    mask[8:20, 8:20] = 1
    return image, mask


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "predictions_test").mkdir()
    (tmp_path / "plots").mkdir()
    probability = np.zeros((32, 32), np.uint8)
    probability[10:22, 8:20] = 200
    for number in range(20):
        Image.fromarray(probability).save(tmp_path / "predictions_test" / f"{number}.png")
    return tmp_path


def row(number: int) -> dict:
    return {
        "path": f"images/${number}.png",
        "target": f"masks/{number}.png",
        "predicted": f"predictions_test/{number}.png",
        "dice": number / 20,
        "iou": number / 30,
    }


def test_a_curve_shows_every_epoch_and_marks_the_best_validation() -> None:
    axes = draw_curve(HISTORY, score=LOSS, mark="").axes[0]
    train, val, best = axes.lines
    assert train.get_xydata().tolist() == [[1, 0.6], [2, 0.5], [3, 0.4]]
    assert val.get_xydata().tolist() == [[1, 0.7], [2, 0.4], [3, 0.5]]
    assert best.get_xydata().tolist() == [[2, 0.4]]


def test_the_best_dice_is_the_largest_and_undefined_epochs_are_left_out() -> None:
    axes = draw_curve(HISTORY, score=named_scores("segmentation")["dice"], mark="").axes[0]
    assert axes.lines[1].get_xydata().tolist() == [[2, 0.6], [3, 0.5]]
    assert axes.lines[2].get_xydata().tolist() == [[2, 0.6]]


def test_a_curve_without_any_value_is_empty_and_not_an_error() -> None:
    assert not draw_curve([{"epoch": 0}], score=LOSS, mark="").axes[0].lines


def test_the_roc_states_its_area() -> None:
    rates = np.array([0.0, 0.1, 1.0])
    axes = draw_roc(rates, np.array([0.0, 0.9, 1.0]), auroc=0.9, mark="").axes[0]
    assert axes.get_legend().get_texts()[0].get_text() == "AUROC 0.9000"


def test_worst_median_and_best_are_shown_once_each() -> None:
    rows = [row(number) for number in np.random.default_rng(0).permutation(20)]
    chosen = choose_rows(rows)
    assert [title for title, _ in chosen] == ["worst"] * 4 + ["median"] * 4 + ["best"] * 4
    values = [shown["dice"] for _, shown in chosen]
    assert values == sorted(values)
    assert values[:4] == [0.0, 0.05, 0.1, 0.15]
    assert len(choose_rows(rows[:5])) == 5


def test_the_grid_shows_four_pictures_of_each_sample(run: Path) -> None:
    figure = draw_samples(run, choose_rows([row(n) for n in range(20)]), read=read, mark="")
    shown = [axes for axes in figure.axes if axes.images]
    assert len(shown) == 48
    predicted = shown[2].images[0].get_array()
    assert predicted.sum() == 144
    contours = np.asarray(shown[3].images[0].get_array())
    assert {tuple(color) for color in contours.reshape(-1, 3)} == {
        (90, 90, 90),
        (90, 255, 90),
        (60, 110, 255),
    }


def test_synthetic_data_is_named_in_every_title(run: Path) -> None:
    rows = [row(number) for number in range(3)]
    figure = draw_samples(run, choose_rows(rows), read=read, mark=" (synthetic data)")
    assert "(synthetic data)" in figure.get_suptitle()
    curve = draw_curve(HISTORY, score=LOSS, mark=" (synthetic data)")
    assert "(synthetic data)" in curve.axes[0].get_title()


def test_every_plot_is_written_and_readable(run: Path) -> None:
    rates = (np.array([0.0, 1.0]), np.array([0.0, 1.0]), np.array([1.0, 0.0]))
    rows = [row(number) for number in range(1)]
    write_curves(run, task="segmentation", history=HISTORY, synthetic=True)
    write_test_plots(run, roc=rates, auroc=0.5, rows=rows, read=read, synthetic=True)
    names = {path.name for path in (run / "plots").iterdir()}
    assert names == {
        "loss.png",
        "accuracy.png",
        "iou.png",
        "dice.png",
        "roc.png",
        "test_images.png",
    }
    for path in (run / "plots").iterdir():
        with Image.open(path) as picture:
            assert min(picture.size) > 100


def test_an_undefined_roc_is_left_out(run: Path) -> None:
    write_test_plots(run, roc=None, auroc=None, rows=[row(0)], read=read, synthetic=False)
    assert not (run / "plots" / "roc.png").exists()


@pytest.mark.parametrize("epochs", [1, 2, 40])
def test_the_axis_of_epochs_counts_from_one_in_whole_numbers(epochs: int) -> None:
    rows = [{"epoch": k, "train/loss": 1 / (k + 1), "val/loss": 1.0} for k in range(epochs)]
    (axes,) = draw_curve(rows, score=LOSS, mark="").axes
    low, high = axes.get_xlim()
    assert 1 - low == pytest.approx(high - epochs)  # as much room on both sides
    assert 1 - low >= 0.5
    ticks = [tick for tick in axes.get_xticks() if low <= tick <= high]
    assert ticks
    assert all(tick == int(tick) >= 1 for tick in ticks)


@pytest.mark.parametrize(
    ("text", "broken"),
    [
        ("predicted glioma_tumor 97.1 %", "predicted glioma_<wbr>tumor 97.1\u00a0%"),
        ("a/b.jpg", "a/<wbr>b.<wbr>jpg"),
        ("Dice 0.312, IoU 0.184", "Dice 0.312, IoU 0.184"),
        ("v1.5.png <b>", "v1.5.<wbr>png &lt;b&gt;"),
    ],
)
def test_a_caption_may_break_between_parts_of_a_name_and_not_inside_a_number(
    text: str, broken: str
) -> None:
    assert str(breakable(text)) == broken
