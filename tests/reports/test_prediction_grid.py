from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from medvision.reports.plots import style
from medvision.reports.plots.overlays import num_columns, write_grid


def picture(value: int = 90, *, size: tuple[int, ...] = (32, 40, 3)) -> np.ndarray:
    return np.full(size, value, np.uint8)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Figures that were saved."""
    figures: list[Figure] = []
    save = style.save

    def keep(figure: Figure, path: Path, **settings: int) -> None:
        figures.append(figure)
        save(figure, path, **settings)

    monkeypatch.setattr(style, "save", keep)
    return figures


def test_every_picture_is_shown_below_its_title(tmp_path: Path, drawn: list[Figure]) -> None:
    titles = [f"glioma {number}.5 %" for number in range(7)]
    write_grid(tmp_path / "grid.png", [picture(10 * n) for n in range(7)], titles)
    shown = [axes for axes in drawn[0].axes if axes.images]
    assert [axes.get_title() for axes in shown] == titles
    assert [int(np.max(axes.images[0].get_array())) for axes in shown] == list(range(0, 70, 10))
    assert [path.name for path in tmp_path.iterdir()] == ["grid.png"]
    with Image.open(tmp_path / "grid.png") as image:
        assert image.format == "PNG"
        assert min(image.size) > 300


def test_titles_of_a_row_have_the_same_height(tmp_path: Path, drawn: list[Figure]) -> None:
    sizes = [(64, 20, 1), (20, 64, 1), (50, 50, 1), (1, 1, 1)]
    write_grid(tmp_path / "grid.png", [picture(size=size) for size in sizes], ["a"] * 4)
    tops = [axes.get_window_extent().y1 for axes in drawn[0].axes]
    assert max(tops) - min(tops) < 2


@pytest.mark.parametrize(
    ("count", "columns"), [(1, 1), (3, 3), (6, 6), (7, 4), (8, 4), (10, 5), (12, 6), (24, 6)]
)
def test_rows_are_as_full_as_they_can_be(count: int, columns: int) -> None:
    assert num_columns(count) == columns


def test_a_long_name_is_shortened_in_the_middle_and_its_probability_kept(
    tmp_path: Path, drawn: list[Figure]
) -> None:
    title = "adenocarcinoma of the left lower lobe 100.0 %"
    write_grid(tmp_path / "grid.png", [picture()], [f"{title}\ntrue: normal"])
    first, second = drawn[0].axes[0].get_title().splitlines()
    assert first == "adenocarcinoma ... 100.0 %"
    assert second == "true: normal"


def test_grey_is_not_stretched(tmp_path: Path, drawn: list[Figure]) -> None:
    write_grid(tmp_path / "grid.png", [picture(100, size=(8, 8, 1))], ["a"])
    (shown,) = drawn[0].axes[0].images
    assert shown.get_clim() == (0, 255)
    pixels = np.asarray(Image.open(tmp_path / "grid.png").convert("L"))
    assert (pixels == 100).sum() > pixels.size / 10


def test_large_pictures_are_shown_smaller(tmp_path: Path, drawn: list[Figure]) -> None:
    pictures = [picture(size=(1200, 600, 3)), picture(size=(2, 4000, 1))]
    write_grid(tmp_path / "grid.png", pictures, ["a", "b"])
    shapes = [axes.images[0].get_array().shape for axes in drawn[0].axes]
    assert shapes == [(320, 160, 3), (1, 320)]


def test_the_note_is_below(tmp_path: Path, drawn: list[Figure]) -> None:
    write_grid(tmp_path / "grid.png", [picture()], ["$a_1$ 3 %"], note="first 1 of 2 images")
    assert drawn[0].get_supxlabel() == "first 1 of 2 images"


def test_too_many_none_or_untitled_pictures_are_refused(tmp_path: Path) -> None:
    for pictures, titles in [(25, 25), (0, 0), (2, 1)]:
        with pytest.raises(ValueError, match=f"got {pictures} with {titles}"):
            write_grid(tmp_path / "grid.png", [picture()] * pictures, ["a"] * titles)
    assert not list(tmp_path.iterdir())
