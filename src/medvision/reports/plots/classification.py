"""Plots of a classification run: curves, ROC, confusion, calibration and test images."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from medvision.reports.plots.overlays import as_rgb
from medvision.reports.plots.style import (
    PHOTO_DPI,
    STYLE,
    draw_chance,
    line_look,
    new_axes,
    new_figure,
    save,
    short_name,
    title_mark,
    to_unit_square,
)
from medvision.types import IGNORE_INDEX

Read = Callable[[str], NDArray[np.uint8]]
"""Function that reads the image (H, W, C) in [0, 255] of a row's path."""

WRONG_COLOR = "#cc0022"


def choose_images(
    predicted: NDArray[np.integer],
    confidence: NDArray[np.floating],
    target: NDArray[np.integer],
    *,
    count: int = 16,
) -> list[int]:
    """Choose rows to show: at most half of them the most confident mistakes, the rest correct.

    Correct rows are taken from each class in turn, evenly spaced over the table, in which
    neighbours are often alike. Mistakes fill up the count if there are too few correct rows.
    """
    known = target != IGNORE_INDEX
    wrong = np.flatnonzero(known & (predicted != target))
    wrong = wrong[np.argsort(-confidence[wrong], kind="stable")]
    chosen = wrong[: count // 2].tolist()
    classes = np.unique(target[known])
    turns: list[tuple[int, int, int]] = []
    for label in classes:
        right = np.flatnonzero((predicted == target) & (target == label))
        stride = max(1, len(right) * len(classes) // (count - len(chosen)))
        order = sorted(range(len(right)), key=lambda place: (place % stride, place))
        turns += [(turn, int(label), int(right[place])) for turn, place in enumerate(order)]
    chosen += [row for _, _, row in sorted(turns)]
    return [*chosen, *wrong[count // 2 :].tolist()][:count]


def draw_images(
    probability: NDArray[np.floating],
    target: NDArray[np.integer],
    class_names: Sequence[str],
    *,
    threshold: float,
    rows: Sequence[Mapping[str, Any]],
    read: Read,
    mark: str,
) -> Figure:
    """Draw up to 16 test images with predicted class, its probability and true class."""
    predicted = probability.argmax(axis=1)
    if len(class_names) == 2:
        predicted = (probability[:, 1] >= threshold).astype(np.int64)
    confidence = probability[np.arange(len(predicted)), predicted]
    chosen = choose_images(predicted, confidence, target)
    lines = -(-len(chosen) // 4)
    figure = new_figure(9, 2.5 * lines + 0.6)
    cells = figure.subplots(lines, 4, squeeze=False).ravel()
    for axes in cells[len(chosen) :]:
        axes.set_axis_off()
    for axes, row in zip(cells, chosen, strict=False):
        axes.imshow(as_rgb(read(rows[row]["path"])))
        axes.set(xticks=[], yticks=[])
        right = predicted[row] == target[row]
        axes.spines[:].set(visible=not right, color=WRONG_COLOR, linewidth=3)
        axes.set_title(
            f"{'' if right else '✗ '}{short_name(class_names[predicted[row]])} "
            f"{100 * confidence[row]:.1f} %\ntrue: {short_name(class_names[target[row]])}",
            fontsize=9,
            color="black" if right else WRONG_COLOR,
        )
    figure.suptitle(f"Test images: predicted class and its probability, true class{mark}")
    return figure


Bins = tuple[NDArray[np.floating], NDArray[np.floating], NDArray[np.integer]]
"""Mean confidence, accuracy and number of images of B equal-width bins over [0, 1]."""


def draw_calibration(
    confidence: NDArray[np.floating],
    accuracy: NDArray[np.floating],
    count: NDArray[np.integer],
    *,
    ece: float | None,
    mark: str,
    after: Bins | None = None,
    after_ece: float | None = None,
    temperature: float | None = None,
) -> Figure:
    """Draw a reliability diagram: accuracy against confidence.

    With ``after``, the bins after temperature scaling are drawn beside those before it.
    """
    figure = new_figure(5.5, 6.2 if after else 6)
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    edges = np.linspace(0, 1, len(count) + 1)
    shown = [(confidence, accuracy, count), *([after] if after else [])]
    width = np.diff(edges) / len(shown)
    looks = [("#4477aa", "#aa3377", "o", " before"), ("#ccbb44", "#228833", "D", " after")]
    axes.plot([0, 1], [0, 1], color="grey", linewidth=1, linestyle=":", label="calibrated")
    for place, ((sure, right, images), (bar, point, marker, when)) in enumerate(
        zip(shown, looks, strict=False)
    ):
        where = when if after else " in the bin"
        filled, left = images > 0, edges[:-1] + place * width
        bars: dict[str, Any] = {"width": width, "align": "edge", "edgecolor": "white"}
        heights = np.where(filled, right, 0)
        axes.bar(left, heights, **bars, color=bar, alpha=0.55, label=f"accuracy{where}")
        label = f"at its mean confidence{when if after else ''}"
        points = sure[filled], right[filled]
        axes.plot(*points, marker, color=point, markeredgecolor="white", label=label, zorder=3)
        below.bar(left, images, **bars, color=bar, label=f"images{when}")
    axes.set(ylabel="accuracy", ylim=(0, 1.04), xlim=(0, 1))
    title = f"Calibration, ECE {value_text(ece)[1]}, test images{mark}"
    if after:
        title = (
            f"Calibration, test images{mark}\nECE {value_text(ece)[1]} before,"
            f" {value_text(after_ece)[1]}"
            f" after temperature {temperature:.3g}"
        )
    axes.set_title(title)
    below.set(xlabel="confidence: probability of the most probable class", ylabel="images")
    handles = axes.get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=2 if after else 3, fontsize=9)
    return figure


def value_text(score: float | None) -> tuple[bool, str]:
    """Return whether a score is a finite number, and its text with four decimals."""
    known = score is not None and bool(np.isfinite(score))
    return known, f"{score:.4f}" if known else "undefined"


Points = tuple[NDArray[np.float64], NDArray[np.float64]]
"""x and y of a curve from the strictest to the loosest threshold; x never falls."""
NOTHING: Points = (np.empty(0), np.empty(0))
Scores = Mapping[str, float | None]

MOST_NUMBERS = 20  # with more classes, the cells are too small for text


def write_classification_plots(
    folder: Path,
    *,
    probability: NDArray[np.floating],
    target: NDArray[np.integer],
    class_names: Sequence[str],
    threshold: float,
    rows: Sequence[Mapping[str, Any]],
    read: Read,
    roc: Mapping[str, Points],
    precision_recall: Mapping[str, Points],
    confusion: NDArray[np.integer],
    calibration: Bins,
    scores: Scores,
    synthetic: bool,
    protocol: str | None,
    calibrated: Bins | None = None,
    temperature: float | None = None,
    net_benefit: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Write all plots of the test images of a classification to ``folder/plots``.

    With two classes only the curves of class 1 are drawn.

    Args:
        folder: Run folder.
        probability: Class probabilities of the test images, (N, K) in [0, 1].
        target: Class indices (N,), or ``IGNORE_INDEX``.
        class_names: Name of each class, (K,).
        threshold: For two classes, probability from which class 1 is predicted.
        rows: Rows of predictions_test.csv, one per test image, (N,); ``path`` is used.
        read: Function that reads the image of a path.
        roc: False and true positive rates by class name; classes may be missing.
        precision_recall: Recall and precision by class name; classes may be missing.
        confusion: Test images by true and by predicted class, (K, K).
        calibration: Bins of the calibration diagram; confidence and accuracy of empty bins are
            ignored.
        scores: Test scores by name without the stage: ``auroc``, ``auroc/<class>``,
            ``average_precision/<class>``, ``ece`` and, with a temperature, ``ece_calibrated``;
            None or NaN where undefined.
        synthetic: If True, titles state that the images are phantoms.
        protocol: Split protocol; titles name ``merged``, which leaks.
        calibrated: Bins of the calibrated probabilities, if any.
        temperature: Temperature of the calibration, if any.
        net_benefit: Points of ``decision_curve``, for two classes.

    Raises:
        ValueError: If the shapes do not agree, or x of a curve falls.
    """
    shape = (len(rows), len(class_names))
    if probability.shape != shape or target.shape != shape[:1]:
        raise ValueError(
            f"expected probability {shape} and target {shape[:1]}, "
            f"got {probability.shape} and {target.shape}"
        )
    for name, (x, _) in chain(roc.items(), precision_recall.items()):
        if np.any(np.diff(x) < 0):
            raise ValueError(f"expected x of the curve of {name!r} to rise, got falling values")
    mark = title_mark(synthetic=synthetic, protocol=protocol)
    with mpl.rc_context(STYLE):
        figures: dict[str, Figure] = {}
        figures["roc"] = draw_roc(
            roc, confusion, class_names, threshold=threshold, scores=scores, mark=mark
        )
        figures["precision_recall"] = draw_precision_recall(
            precision_recall, confusion, class_names, scores=scores, mark=mark
        )
        figures["confusion"] = draw_confusion(confusion, class_names, mark=mark)
        figures["calibration"] = draw_calibration(
            *calibration,
            ece=scores["ece"],
            mark=mark,
            after=calibrated,
            after_ece=scores.get("ece_calibrated"),
            temperature=temperature,
        )
        if net_benefit:
            figures["decision_curve"] = draw_decision_curve(net_benefit, mark=mark)
        figures["test_images"] = draw_images(
            probability, target, class_names, threshold=threshold, rows=rows, read=read, mark=mark
        )
        for name, figure in figures.items():
            dpi = PHOTO_DPI if name == "test_images" else None
            save(figure, folder / "plots" / f"{name}.png", dpi=dpi)


def draw_roc(
    roc: Mapping[str, Points],
    confusion: NDArray[np.integer],
    class_names: Sequence[str],
    *,
    threshold: float,
    scores: Scores,
    mark: str,
    of: str = "test images",
) -> Figure:
    """Draw the ROC of each class and their mean; for two classes mark the threshold in use."""
    figure, axes = _square(class_names)
    draw_chance(axes, f"ROC of {of}{mark}")
    defined = []
    for name, look in _lines(class_names):
        known, text = value_text(scores.get(f"auroc/{name}"))
        if known:
            defined.append(roc[name])
        axes.plot(
            *(roc[name] if known else NOTHING), **look, label=f"AUC {text}  {short_name(name)}"
        )
    if len(class_names) == 2:
        of_true = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
        if defined:
            false, true = of_true[:, 1]
            label = (
                f"at threshold {threshold:.3f}: sensitivity {true:.3f}, specificity {1 - false:.3f}"
            )
            axes.plot(false, true, "o", color="black", fillstyle="none", markersize=9, label=label)
    else:
        curve = macro_mean(defined) if defined else NOTHING
        text = value_text(scores.get("auroc"))[1]
        axes.plot(*curve, color="black", linewidth=2, label=f"AUC {text}  macro mean")
    _legend(figure)
    return figure


def macro_mean(curves: Sequence[Points]) -> Points:
    """Average curves vertically at every x; its area is the mean of their areas.

    Both ends of every vertical step are kept, which interpolation on a grid would tilt.
    """
    grid = np.unique(np.concatenate([x for x, _ in curves]))
    before = np.mean([np.interp(-grid, -x[::-1], y[::-1]) for x, y in curves], axis=0)
    after = np.mean([np.interp(grid, x, y) for x, y in curves], axis=0)
    return np.repeat(grid, 2), np.column_stack([before, after]).ravel()


def draw_precision_recall(
    precision_recall: Mapping[str, Points],
    confusion: NDArray[np.integer],
    class_names: Sequence[str],
    *,
    scores: Scores,
    mark: str,
    of: str = "test images",
) -> Figure:
    """Draw precision against recall of each class, and its share of the images as a dotted line."""
    figure, axes = _square(class_names)
    prevalence = confusion.sum(axis=1) / max(confusion.sum(), 1)
    for name, look in _lines(class_names):
        known, text = value_text(scores.get(f"average_precision/{name}"))
        label = f"AP {text}  {short_name(name)}"
        # the precision of a threshold extends back to the recall of the stricter one
        points = precision_recall[name] if known else NOTHING
        axes.plot(*points, **look, drawstyle="steps-pre", label=label)
        share = float(prevalence[list(class_names).index(name)])
        axes.axhline(share, color=look["color"], linewidth=1, linestyle=":")
    alone = f" {prevalence[1]:.3f}" if len(class_names) == 2 else ""
    axes.plot(*NOTHING, color="grey", linewidth=1, linestyle=":", label=f"prevalence{alone}")
    title = f"Precision and recall of {of}{mark}"
    axes.set(xlabel="recall", ylabel="precision", title=title)
    to_unit_square(axes)
    _legend(figure)
    return figure


def draw_decision_curve(points: Sequence[Mapping[str, Any]], *, mark: str) -> Figure:
    """Draw net benefit against the threshold, beside treating all and treating none."""
    figure, axes = new_axes(5.5, 4.8)
    threshold, network, everyone = (
        [float(point[name]) for point in points]
        for name in ("threshold", "net_benefit", "treat_all")
    )
    unknown = [float("nan")] * 2
    low, high = zip(*(point["net_benefit_ci95"] or unknown for point in points), strict=True)
    axes.fill_between(threshold, low, high, color="#4477aa", alpha=0.2, linewidth=0)
    axes.plot(threshold, network, color="#4477aa", label="network, with 95 % interval")
    axes.plot(threshold, everyone, color="#aa3377", linestyle="--", label="treat all")
    axes.axhline(0, color="grey", linestyle=":", label="treat none")
    top = max(0.05, *network, *everyone)
    axes.set(xlim=(0, 1), ylim=(-0.4 * top, 1.4 * top), xlabel="threshold", ylabel="net benefit")
    axes.set_title(f"Decision curve of test images{mark}")
    _legend(figure)
    return figure


def draw_confusion(
    confusion: NDArray[np.integer],
    class_names: Sequence[str],
    *,
    mark: str,
    of: str = "test images",
) -> Figure:
    """Draw counts and per cent of the true class as a heat map: rows true, columns predicted."""
    num_classes = len(class_names)
    side = float(np.clip(0.85 * num_classes, 2.6, 11))
    figure, axes = new_axes(side + 2.2, side + 1.9)
    images = confusion.sum(axis=1, keepdims=True)
    share = confusion / np.maximum(images, 1)
    picture = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    names = [short_name(name) for name in class_names]
    axes.set_xticks(range(num_classes), names, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(num_classes), names)
    axes.grid(visible=False)
    axes.set(xlabel="predicted class", ylabel="true class (rows add up to 100 %)")
    # centred on the figure: with two classes the map is narrower than its title
    figure.suptitle(f"Confusion of {of}{mark}", fontsize=12)
    if num_classes > MOST_NUMBERS:
        figure.colorbar(picture, label="share of the true class")
        return figure
    for (row, column), count in np.ndenumerate(confusion):
        per_cent = f"{share[row, column]:.1%}".replace("%", " %") if images[row, 0] else "-"
        color = "white" if share[row, column] > 0.5 else "black"
        text = f"{count}\n{per_cent}"
        axes.text(column, row, text, ha="center", va="center", color=color, fontsize=9)
    return figure


def _square(class_names: Sequence[str]) -> tuple[Figure, Axes]:
    return new_axes(5, 5.5 + 0.2 * len(class_names))


def _lines(class_names: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each class that has a curve, with its line style."""
    for number, name in enumerate(class_names if len(class_names) > 2 else class_names[1:]):
        yield name, line_look(number)


def _legend(figure: Figure) -> None:
    figure.legend(loc="outside lower left", fontsize=9)
