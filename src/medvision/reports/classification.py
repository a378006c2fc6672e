"""Pictures of a classification run: curves, ROC, confusion, calibration and test images."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from medvision.reports.class_images import Read, draw_images
from medvision.reports.curves import History, draw_curve
from medvision.reports.reliability import Bins, draw_calibration, told
from medvision.reports.style import CLASS_COLORS, PHOTO_DPI, STYLE, save, short_name, title_mark

Points = tuple[NDArray[np.float64], NDArray[np.float64]]
"""x and y of a curve, from the strictest threshold to the loosest: x never falls."""
NOTHING: Points = (np.empty(0), np.empty(0))
Scores = Mapping[str, float | None]

CURVES = {
    "loss": "loss",
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "auroc": "AUROC",
}
MOST_NUMBERS = 20  # classes: with more of them the cells hold no readable text


def write_class_curves(
    folder: Path, *, history: History, synthetic: bool, protocol: str | None
) -> None:
    """Write the curves of a fit to ``folder/plots``.

    Args:
        folder: Run folder.
        history: A row per epoch, as metrics.csv holds them.
        synthetic: Whether titles must say that the images are phantoms.
        protocol: How the images were split; titles name ``merged``, which leaks.
    """
    mark = title_mark(synthetic=synthetic, protocol=protocol)
    with mpl.rc_context(STYLE):
        for name, label in CURVES.items():
            figure = draw_curve(history, name=name, label=label, mark=mark)
            save(figure, folder / "plots" / f"{name}.png")


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
) -> None:
    """Write every picture of the test images of a classification to ``folder/plots``.

    With two classes the curves are those of class 1 alone.

    Args:
        folder: Run folder.
        probability: Of each class for each test image, (N, K) in [0, 1].
        target: Class indices (N,), or ``IGNORE_INDEX``.
        class_names: Name of each class, (K,).
        threshold: Two classes: class 1 is predicted from this probability on.
        rows: A row per test image, (N,), as predictions_test.csv holds them; ``path`` is read.
        read: Gives the image of a path.
        roc: False and true positive rate by class name; a class without one may be absent.
        precision_recall: Recall and precision by class name, likewise.
        confusion: Test images by true and by predicted class, (K, K).
        calibration: The bins of the calibration diagram; confidence and accuracy are not read
            where a bin is empty.
        scores: Test scores by name without the stage: ``auroc``, ``auroc/<class>``,
            ``average_precision/<class>``, ``ece`` and, where there is a temperature,
            ``ece_calibrated``; None or NaN where undefined.
        synthetic: Whether titles must say that the images are phantoms.
        protocol: How the images were split; titles name ``merged``, which leaks.
        calibrated: The bins after the probabilities were calibrated, if they were.
        temperature: What they were calibrated with.

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
) -> Figure:
    """ROC of each class against the rest and their mean; for two classes the threshold in use."""
    figure, axes = _square(class_names)
    axes.plot([0, 1], [0, 1], color="grey", linewidth=1, linestyle=":")
    defined = []
    for name, look in _lines(class_names):
        known, text = told(scores.get(f"auroc/{name}"))
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
        text = told(scores.get("auroc"))[1]
        axes.plot(*curve, color="black", linewidth=2, label=f"AUC {text}  macro mean")
    axes.set(xlabel="1 - specificity", ylabel="sensitivity", title=f"ROC of test images{mark}")
    _legend(figure)
    return figure


def macro_mean(curves: Sequence[Points]) -> Points:
    """Mean height of curves at every x; its area is the mean of their areas.

    Both ends of every vertical step are kept, which interpolation on a grid would make slant.
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
) -> Figure:
    """Precision against recall of each class; dotted, its share of the images."""
    figure, axes = _square(class_names)
    prevalence = confusion.sum(axis=1) / max(confusion.sum(), 1)
    for name, look in _lines(class_names):
        known, text = told(scores.get(f"average_precision/{name}"))
        label = f"AP {text}  {short_name(name)}"
        # the precision of a threshold holds back to the recall of the stricter one
        points = precision_recall[name] if known else NOTHING
        axes.plot(*points, **look, drawstyle="steps-pre", label=label)
        share = float(prevalence[list(class_names).index(name)])
        axes.axhline(share, color=look["color"], linewidth=1, linestyle=":")
    alone = f" {prevalence[1]:.3f}" if len(class_names) == 2 else ""
    axes.plot(*NOTHING, color="grey", linewidth=1, linestyle=":", label=f"prevalence{alone}")
    axes.set(
        xlabel="recall", ylabel="precision", title=f"Precision and recall of test images{mark}"
    )
    _legend(figure)
    return figure


def draw_confusion(
    confusion: NDArray[np.integer], class_names: Sequence[str], *, mark: str
) -> Figure:
    """Heat map of counts and per cent of the true class: rows true, columns predicted."""
    num_classes = len(class_names)
    side = float(np.clip(0.85 * num_classes, 2.6, 11))
    figure = Figure(figsize=(side + 2.2, side + 1.9), layout="constrained")
    axes = figure.add_subplot()
    images = confusion.sum(axis=1, keepdims=True)
    share = confusion / np.maximum(images, 1)
    picture = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    names = [short_name(name) for name in class_names]
    axes.set_xticks(range(num_classes), names, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(num_classes), names)
    axes.grid(visible=False)
    axes.set(xlabel="predicted class", ylabel="true class (rows add up to 100 %)")
    # over the whole figure: with two classes the map is narrower than its title
    figure.suptitle(f"Confusion of test images{mark}", fontsize=12)
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
    figure = Figure(figsize=(5, 5.5 + 0.2 * len(class_names)), layout="constrained")
    axes = figure.add_subplot()
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    return figure, axes


def _lines(class_names: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each class that has a curve, and how its line looks; colours return with another dash."""
    for number, name in enumerate(class_names if len(class_names) > 2 else class_names[1:]):
        dash = ("-", "--", "-.")[number // len(CLASS_COLORS) % 3]
        yield name, {"color": CLASS_COLORS[number % len(CLASS_COLORS)], "linestyle": dash}


def _legend(figure: Figure) -> None:
    figure.legend(loc="outside lower left", fontsize=9)
