"""Style and saving of all plots, and curves over epochs."""

import io
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator

from medvision.files import atomic_path
from medvision.reports.page import Picture, png_picture
from medvision.scores import Score, scores_at

# Paul Tol's bright scheme: colour-blind safe
STAGE_COLORS = {"train": "#4477aa", "val": "#ee6677"}
CLASS_COLORS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377")
PHOTO_DPI = 110  # for grids of images, which have no more detail and would become large
STYLE: Any = {
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.dpi": 110,
    "font.size": 10,
    "grid.alpha": 0.25,
    "savefig.dpi": 160,  # lines are sharp on a phone and on paper
    "legend.frameon": False,
    "text.parse_math": False,  # names of files and classes may contain dollar signs
}


def title_mark(*, synthetic: bool, protocol: str | None = None) -> str:
    """Return the remark on the data for a title: phantoms, or images split at random."""
    marks = ["(synthetic data)"] * synthetic + ["(merged protocol)"] * (protocol == "merged")
    if len(marks) > 1:  # both do not fit beside a title
        return "\n" + " ".join(marks)
    return "".join(f" {mark}" for mark in marks)


def new_figure(width: float, height: float) -> Figure:
    """Create a figure of this size in inches, whose parts are arranged when it is drawn."""
    return Figure(figsize=(width, height), layout="constrained")


def new_axes(width: float, height: float) -> tuple[Figure, Axes]:
    """Create a figure of this size in inches with a single pair of axes."""
    figure = new_figure(width, height)
    return figure, figure.add_subplot()


def to_unit_square(axes: Axes) -> None:
    """Set both axes to [0, 1], with room for lines along the edges."""
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")


def draw_chance(axes: Axes, title: str) -> None:
    """Set up axes for a ROC, with the chance diagonal."""
    axes.plot([0, 1], [0, 1], color="grey", linewidth=1, linestyle=":")
    axes.set(xlabel="1 - specificity", ylabel="sensitivity", title=title)
    to_unit_square(axes)


def count_from_one(axes: Axes, last: int) -> None:
    """Show whole numbers from 1 to ``last`` along the horizontal axis, also if 1 is the last."""
    room = min(0.95, max(0.5, 0.05 * (last - 1)))  # not as far as 0
    axes.set_xlim(1 - room, last + room)
    axes.xaxis.set_major_locator(FixedLocator([1]) if last == 1 else MaxNLocator(integer=True))


def line_look(number: int) -> dict[str, str]:
    """Colour and dash of the line with this index; colours repeat with another dash."""
    dash = ("-", "--", "-.")[number // len(CLASS_COLORS) % 3]
    return {"color": CLASS_COLORS[number % len(CLASS_COLORS)], "linestyle": dash}


def short_name(name: str, *, length: int = 24) -> str:
    """Shorten the name to one line, cutting out its middle if it is too long."""
    name = " ".join(name.split())
    return name if len(name) <= length else f"{name[: length - 11]}...{name[-8:]}"


def save(figure: Figure, path: Path, *, dpi: int | None = None) -> None:
    """Write a PNG under a temporary name in its folder (created if missing), then rename it.

    Args:
        figure: Figure to write.
        path: Final path.
        dpi: Pixels per inch, if different from ``STYLE``.
    """
    path.parent.mkdir(exist_ok=True)  # copies of a run may lack empty folders
    with atomic_path(path) as temporary, warnings.catch_warnings():
        # the font may lack the script of a class name
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.set_dpi(dpi or mpl.rcParams["savefig.dpi"])
        # savefig draws twice, the first time only for the layout
        FigureCanvasAgg(figure).print_png(temporary)  # type: ignore[no-untyped-call]


def figure_png(figure: Figure, *, dpi: int = PHOTO_DPI) -> bytes:
    """Draw the figure as the bytes of a PNG."""
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.set_dpi(dpi)
        FigureCanvasAgg(figure).print_png(stream)  # type: ignore[no-untyped-call]
    return stream.getvalue()


def figure_picture(figure: Figure, *, alt: str) -> Picture:
    """Convert the figure to a picture inside a page."""
    with TemporaryDirectory() as folder:
        save(figure, Path(folder) / "picture.png")
        return png_picture(Path(folder) / "picture.png", alt=alt)


History = Sequence[Mapping[str, float | int | None]]
"""Rows of metrics.csv, one per epoch; None where a value is undefined."""


def write_curves(
    folder: Path, *, task: str, history: History, synthetic: bool, protocol: str | None = None
) -> None:
    """Write the training curves to ``folder/plots``.

    Args:
        folder: Run folder.
        task: Kind of the task, whose score table defines the scores with a curve.
        history: Rows of metrics.csv, one per epoch.
        synthetic: If True, titles state that the images are phantoms.
        protocol: Split protocol; titles name ``merged``, which leaks.
    """
    mark = title_mark(synthetic=synthetic, protocol=protocol)
    with mpl.rc_context(STYLE):
        for score in scores_at("curve", task):
            figure = draw_curve(history, score=score, mark=mark)
            save(figure, folder / "plots" / f"{score.name}.png")


def draw_curve(history: History, *, score: Score, mark: str) -> Figure:
    """Draw training and validation values per epoch, with the best validation epoch marked."""
    figure, axes = new_axes(6, 4)
    for stage, color in STAGE_COLORS.items():
        points = [(int(row["epoch"] or 0) + 1, row.get(f"{stage}/{score.name}")) for row in history]
        known = [(epoch, value) for epoch, value in points if value is not None]
        if not known:
            continue
        epochs, values = zip(*known, strict=True)
        axes.plot(epochs, values, color=color, marker="o", markersize=3, label=stage)
        if stage == "val":
            best = {"min": min, "max": max}[score.mode](known, key=lambda point: point[1])
            axes.plot(*best, color=color, marker="o", markersize=9, fillstyle="none")
            axes.annotate(
                f"{best[1]:.3f}", best, xytext=(0, 9), textcoords="offset points", ha="center"
            )
    title = f"{score.title}, train and validation{mark}"
    axes.set(xlabel="epoch", ylabel=score.title, title=title)
    count_from_one(axes, max((int(row["epoch"] or 0) for row in history), default=0) + 1)
    axes.margins(y=0.15)
    if axes.has_data():
        axes.legend(loc="best")
    return figure
