import csv
import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from medvision.data.readers import images
from medvision.errors import MedvisionError
from medvision.inference import Model, predict_files
from medvision.inference.predict import _even_share

MakeModel = Callable[..., Model]


def write_images(folder: Path, count: int = 5) -> None:
    folder.mkdir()
    for index in range(count):
        image = np.zeros((20 + index, 30, 3), np.uint8)
        image[5:15, 10 : 12 + index] = 255
        cv2.imwrite(str(folder / f"case {index}.png"), image)


def table(out: Path) -> list[dict[str, str]]:
    with (out / "predictions.csv").open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_masks_have_the_size_of_their_files_and_the_table_their_areas(
    make_model: MakeModel, tmp_path: Path
) -> None:
    write_images(tmp_path / "in")
    out = tmp_path / "out"
    progress: list[tuple[int, int]] = []
    done = predict_files(
        make_model(),
        [tmp_path / "in"],
        out=out,
        probabilities=True,
        batch_size=2,
        advance=lambda *numbers: progress.append(numbers),
    )
    rows = table(out)
    assert (done.num_done, done.failures) == (5, [])
    assert progress == [(2, 5), (4, 5), (5, 5)]
    assert [Path(row["path"]).name for row in rows] == [f"case {k}.png" for k in range(5)]
    for index, row in enumerate(rows):
        mask = cv2.imread(str(out / row["mask"]), cv2.IMREAD_UNCHANGED)
        assert mask is not None
        assert mask.shape == (20 + index, 30)
        assert set(np.unique(mask)) == {0, 255}
        area = int(np.count_nonzero(mask))
        assert int(row["foreground_px"]) == area
        assert float(row["foreground_percent"]) == pytest.approx(100 * area / mask.size)
        assert row["num_regions"] == "1"
        assert 0.5 <= float(row["mean_confidence"]) <= 1
        assert float(row["time_s"]) > 0
        assert row["error"] == ""
        p = cv2.imread(str(out / f"probabilities/case {index}.png"), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(p >= 128, mask > 0)
        overlay = cv2.imread(str(out / f"overlays/case {index}.png"), cv2.IMREAD_UNCHANGED)
        assert overlay is not None
        assert overlay.shape == (20 + index, 60, 3)


def test_unreadable_files_are_reported_and_the_others_predicted(
    make_model: MakeModel, tmp_path: Path
) -> None:
    write_images(tmp_path / "in")
    (tmp_path / "in" / "case 1.png").write_text("no picture")
    (tmp_path / "in" / "case 3.png").write_bytes(b"")
    done = predict_files(make_model(), [tmp_path / "in"], out=tmp_path / "out", overlays=False)
    rows = table(tmp_path / "out")
    assert done.num_done == 3
    assert [path.name for path, _ in done.failures] == ["case 1.png", "case 3.png"]
    assert rows[1]["error"] == "not an image in a supported format: the file is text"
    assert rows[3]["error"] == "the file is empty"
    assert rows[1]["mask"] == rows[1]["foreground_px"] == ""
    assert len(list((tmp_path / "out" / "masks").iterdir())) == 3
    assert not (tmp_path / "out" / "overlays").exists()


def test_classes_get_a_table_and_a_grid(make_model: MakeModel, tmp_path: Path) -> None:
    write_images(tmp_path / "in", 3)
    model = make_model("classification", ("well", "ill"))
    predict_files(model, [tmp_path / "in"], out=tmp_path / "out")
    for row in table(tmp_path / "out"):
        assert row["predicted"] == "well"
        assert float(row["probability/well"]) + float(row["probability/ill"]) == pytest.approx(1)
    assert (tmp_path / "out" / "grid.png").stat().st_size > 0


def test_several_classes_of_pixels_are_stored_as_indices(
    make_model: MakeModel, tmp_path: Path
) -> None:
    write_images(tmp_path / "in", 2)
    model = make_model(class_names=("background", "a", "b"))
    predict_files(model, [tmp_path / "in"], out=tmp_path / "out", probabilities=True)
    for row in table(tmp_path / "out"):
        mask = cv2.imread(str(tmp_path / "out" / row["mask"]), cv2.IMREAD_UNCHANGED)
        assert set(np.unique(mask)) <= {0, 1, 2}
        assert int(row["foreground_px/a"]) + int(row["foreground_px/b"]) == int(
            row["foreground_px"]
        )


def test_the_batch_size_does_not_change_the_results(make_model: MakeModel, tmp_path: Path) -> None:
    write_images(tmp_path / "in", 7)
    found: list[Any] = []
    for size in (1, 3, 8):
        out = tmp_path / f"out{size}"
        predict_files(make_model(), [tmp_path / "in"], out=out, batch_size=size)
        found.append([{k: v for k, v in row.items() if k != "time_s"} for row in table(out)])
    assert found[0] == found[1] == found[2]


def test_a_folder_with_content_is_not_written_into(make_model: MakeModel, tmp_path: Path) -> None:
    write_images(tmp_path / "in", 1)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("x")
    with pytest.raises(MedvisionError, match="exists and is not empty"):
        predict_files(make_model(), [tmp_path / "in"], out=tmp_path / "out")
    predict_files(make_model(), [tmp_path / "in"], out=tmp_path / "out", overwrite=True)
    assert (tmp_path / "out" / "mine.txt").exists()


def test_a_failure_leaves_no_table(make_model: MakeModel, tmp_path: Path) -> None:
    write_images(tmp_path / "in", 4)
    model = make_model()

    def fail(images: Any) -> Any:
        raise RuntimeError("the network broke")

    model.engine.logits = fail  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="the network broke"):
        predict_files(model, [tmp_path / "in"], out=tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_full_disk_is_a_one_line_error(
    make_model: MakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(tmp_path / "in", 1)

    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("medvision.inference.predict.write_atomically", full)
    with pytest.raises(MedvisionError, match="cannot write the results: No space left") as raised:
        predict_files(make_model(), [tmp_path / "in"], out=tmp_path / "out")
    assert raised.value.exit_code == 3


def test_only_classifiers_in_torch_are_explained(make_model: MakeModel, tmp_path: Path) -> None:
    write_images(tmp_path / "in", 1)
    with pytest.raises(MedvisionError, match="heat maps need a classifier"):
        predict_files(make_model(), [tmp_path / "in"], out=tmp_path / "out", explain=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("count", "share"), [(1, 1), (2, 1), (8, 4), (9, 5), (16, 8), (17, 5), (64, 8), (1000, 8)]
)
def test_few_images_are_shared_by_all_threads(count: int, share: int) -> None:
    assert _even_share(count, most=8, threads=2) == share


def test_names_of_255_bytes_are_predicted(make_model: MakeModel, tmp_path: Path) -> None:
    write_images(tmp_path / "in", 2)
    whole = b"".join((tmp_path / "in" / "case 0.png").read_bytes() for _ in range(1))
    long = tmp_path / "in" / ("x" * 251 + ".png")
    bare = tmp_path / "in" / ("y" * 255)
    for path in (long, bare):
        path.write_bytes(whole)
    given = [*sorted((tmp_path / "in").glob("case*")), long, bare]
    done = predict_files(make_model(), given, out=tmp_path / "out", probabilities=True)
    assert (done.num_done, done.failures) == (4, [])
    rows = table(tmp_path / "out")
    assert [row["path"] for row in rows] == [str(path) for path in given]
    assert all((tmp_path / "out" / row["mask"]).is_file() for row in rows)
    assert rows[2]["mask"] == f"masks/{long.name}"


def test_results_that_cannot_be_written_are_the_error_of_their_image(
    make_model: MakeModel, tmp_path: Path
) -> None:
    write_images(tmp_path / "in", 4)
    (tmp_path / "out" / "masks" / "case 1.png").mkdir(parents=True)
    done = predict_files(make_model(), [tmp_path / "in"], out=tmp_path / "out", overwrite=True)
    assert done.num_done == 3
    assert [path.name for path, _ in done.failures] == ["case 1.png"]
    rows = table(tmp_path / "out")
    assert [row["error"] for row in rows] == [
        "",
        f"cannot write its results: {os.strerror(errno.EISDIR)}",
        "",
        "",
    ]
    assert rows[1]["mask"] == rows[1]["foreground_px"] == ""
    assert all(row["mask"] for row in rows if not row["error"])


def test_a_name_that_is_not_text_is_in_the_table(make_model: MakeModel, tmp_path: Path) -> None:
    write_images(tmp_path / "in", 1)
    odd = tmp_path / "b\udcff.png"
    (tmp_path / "in" / "case 0.png").rename(odd)
    write_images(tmp_path / "more", 1)
    done = predict_files(make_model(), [odd, tmp_path / "more"], out=tmp_path / "out")
    assert done.num_done == 2
    assert table(tmp_path / "out")[0]["path"] == f"{tmp_path}/b\\udcff.png"


def test_a_name_longer_than_any_file_is_an_error_of_one_line(
    make_model: MakeModel, tmp_path: Path
) -> None:
    with pytest.raises(MedvisionError, match="no such file or folder"):
        predict_files(make_model(), [tmp_path / ("x" * 256)], out=tmp_path / "out")


def test_a_name_in_a_folder_that_is_not_text_is_the_error_of_its_image(
    make_model: MakeModel, tmp_path: Path
) -> None:
    write_images(tmp_path / "in", 3)
    (tmp_path / "in" / "case 0.png").rename(tmp_path / "in" / "b\udcff.png")
    (tmp_path / "in" / "case 1.png").rename(tmp_path / "in" / "a\x1b[31m.png")
    done = predict_files(make_model(), [tmp_path / "in"], out=tmp_path / "out")
    assert done.num_done == 1
    assert [row["error"] for row in table(tmp_path / "out")] == [
        "the name a\\x1b[31m.png contains a control character",
        "a file name is not valid UTF-8",
        "",
    ]


def test_an_error_on_one_image_is_the_error_of_that_image(
    make_model: MakeModel, tmp_path: Path
) -> None:
    write_images(tmp_path / "in", 5)
    model = make_model()
    run, bad = model.predict_batch, cv2.imread(str(tmp_path / "in" / "case 2.png"))

    def fail(images: Any, **options: Any) -> Any:
        if any(image.shape[:2] == bad.shape[:2] for image in images):
            raise KeyError("no such\nweight")
        return run(images, **options)

    model.predict_batch = fail  # type: ignore[method-assign]
    done = predict_files(model, [tmp_path / "in"], out=tmp_path / "out", overlays=False)
    rows = table(tmp_path / "out")
    assert done.num_done == 4
    assert [row["error"] for row in rows] == [
        "",
        "",
        r"cannot be predicted: 'no such\nweight'",
        "",
        "",
    ]


def test_any_exception_while_a_file_is_read_names_that_file(
    make_model: MakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(tmp_path / "in", 3)
    plain = images.as_bytes

    def fail(values: Any, picture: Any, value_range: Any) -> Any:
        if picture.where.endswith("case 1.png"):
            raise cv2.error("OpenCV: several\n lines")
        return plain(values, picture, value_range)

    monkeypatch.setattr(images, "as_bytes", fail)
    done = predict_files(make_model(), [tmp_path / "in"], out=tmp_path / "out", overlays=False)
    assert done.failures == [
        (tmp_path / "in" / "case 1.png", "damaged or unsupported picture: OpenCV: several lines")
    ]


def test_what_became_black_and_white_is_counted(make_model: MakeModel, tmp_path: Path) -> None:
    write_images(tmp_path / "in", 3)
    for index in range(2):
        values = np.arange(600, dtype=np.uint16).reshape(20, 30) + index
        cv2.imwrite(str(tmp_path / "in" / f"deep {index}.png"), values)
    done = predict_files(make_model(), [tmp_path / "in"], out=tmp_path / "out", overlays=False)
    assert done.notes == [
        "2 of 5 images: more than 8 bits, the smallest and largest value of each became black and"
        " white"
    ]
