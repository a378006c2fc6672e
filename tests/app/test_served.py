"""Predictions, archives and corrections of the app, without its pages."""

import csv
import io
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from medvision.app import served
from medvision.app.served import App, ServedRun, Shown
from medvision.data.phantoms.polyps import draw_polyp_scene
from medvision.errors import MedvisionError
from medvision.inference import load_model, predict_files
from medvision.inference.results import SegmentationResult


@pytest.fixture(scope="module")
def run(finished: Path) -> ServedRun:
    return ServedRun.load(finished)


@pytest.fixture
def app(run: ServedRun, tmp_path: Path) -> App:
    return App(runs=[run], save=tmp_path / "corrections")


def png(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".png", pixels)[1].tobytes()


SCENE = png(draw_polyp_scene(9_300, size_px=48)[0][:40, :, ::-1])


def mask_png(value: int, *, shape: tuple[int, int] = (40, 48)) -> bytes:
    return png(np.full(shape, value, np.uint8))


def test_the_report_is_shown_without_the_folders_of_this_machine(tmp_path: Path) -> None:
    assert served._report(tmp_path) is None
    (tmp_path / "report.html").write_text(f"<td>{tmp_path}/set</td> data.root={tmp_path}/set")
    assert served._report(tmp_path) == "<td>set</td> data.root=set"


def test_a_pair_is_saved_under_a_safe_name(app: App, tmp_path: Path) -> None:
    shown = app.predict("../../etc/pass wd.png", SCENE, heat=False)
    image, mask = app.save_pair(shown, mask_png(255), app.runs[0])
    assert image.startswith("images/pass_wd_")
    assert image.endswith(".png")
    assert (app.save / image).read_bytes() == SCENE
    saved = np.asarray(Image.open(app.save / mask))
    assert saved.shape == (40, 48)
    assert (saved == 255).all()
    assert Path(image).stem == Path(mask).stem
    outside = [p for p in tmp_path.rglob("*") if p.is_file() and app.save not in p.parents]
    assert outside == []


def test_saved_pairs_are_a_data_set(app: App) -> None:
    shown = app.predict("a.png", SCENE, heat=False)
    for value in (0, 255):
        app.save_pair(shown, mask_png(value), app.runs[0])
    images, masks = (sorted(p.name for p in (app.save / d).iterdir()) for d in ("images", "masks"))
    assert len(images) == 2
    assert images == masks


@pytest.mark.parametrize("mask", [mask_png(255, shape=(41, 48)), b"no picture", b""])
def test_a_mask_that_does_not_fit_is_refused(app: App, mask: bytes) -> None:
    shown = app.predict("a.png", SCENE, heat=False)
    with pytest.raises(MedvisionError, match="expected a mask"):
        app.save_pair(shown, mask, app.runs[0])
    assert not app.save.exists()


def test_the_archive_holds_what_predict_writes(app: App, finished: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(SCENE)
    predict_files(load_model(finished), [tmp_path / "a.png"], out=tmp_path / "out")
    shown: list[Shown | MedvisionError] = [
        app.predict("a.png", SCENE, heat=False),
        MedvisionError("is not an image", where="note.txt"),
        app.predict("=b.png", SCENE, heat=False),
    ]
    with zipfile.ZipFile(io.BytesIO(app.archive(shown))) as archive:
        names = archive.namelist()
        same = archive.read("results/masks/001_a.png")
        table = archive.read("results/predictions.csv").decode()
    assert same == (tmp_path / "out/masks/a.png").read_bytes()
    assert {"results/overlays/001_a.png", "results/probabilities/003_b.png"} <= set(names)
    written = (tmp_path / "out/predictions.csv").read_text()
    assert table.splitlines()[0] == written.splitlines()[0]  # the same columns
    rows = list(csv.DictReader(io.StringIO(table)))
    [of_predict] = csv.DictReader(io.StringIO(written))
    own = ("path", "mask", "time_s")
    assert {k: v for k, v in rows[0].items() if k not in own} == {
        k: v for k, v in of_predict.items() if k not in own
    }
    assert float(rows[0]["time_s"]) > 0
    assert [row["path"] for row in rows] == ["a.png", "note.txt", "./=b.png"]  # no formula
    assert [row["error"] for row in rows] == ["", "is not an image", ""]
    assert "/tmp" not in table


def test_the_archive_of_two_runs_keeps_them_apart(run: ServedRun, tmp_path: Path) -> None:
    two = App(runs=[run, run], save=tmp_path)
    shown = two.predict("a.png", SCENE, heat=False)
    with zipfile.ZipFile(io.BytesIO(two.archive([shown]))) as archive:
        tops = {name.split("/")[0] for name in archive.namelist()}
    assert tops == {"results_1", "results_2"}


@pytest.mark.parametrize(
    ("data", "reason"), [(b"hello", "not an image"), (b"", "empty"), (SCENE[:200], "damaged")]
)
def test_a_file_that_is_no_image_is_named(app: App, data: bytes, reason: str) -> None:
    with pytest.raises(MedvisionError, match=reason) as failed:
        app.predict("a.png", data, heat=False)
    assert failed.value.where == "a.png"


def test_a_large_image_is_refused(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served, "MOST_PIXELS", 40 * 48 - 1)
    with pytest.raises(MedvisionError, match="48 x 40 pixels exceed"):
        app.predict("a.png", SCENE, heat=False)


def test_the_viewer_gets_the_mask_of_predict(app: App, finished: Path) -> None:
    import base64

    (result,) = app.predict("a.png", SCENE, heat=False).results
    assert isinstance(result, SegmentationResult)
    values = served.segmentation_values(result, name="a.png", key="1")
    sent = cv2.imdecode(np.frombuffer(base64.b64decode(values["mask"]), np.uint8), 0)
    assert np.array_equal(sent, result.mask)
    assert values["class_names"] == ["background", "polyp"]


def test_heat_maps_of_a_classifier_cover_the_image(finished_chest: Path, tmp_path: Path) -> None:
    pytest.importorskip("pytorch_grad_cam")
    app = App(runs=[ServedRun.load(finished_chest)], save=tmp_path)
    shown = app.predict("a.png", SCENE, heat=True)
    (heat,) = shown.heat
    assert heat is not None
    assert heat.shape == (40, 48, 3)
    assert app.predict("a.png", SCENE, heat=False).heat == [None]


def test_saved_images_of_all_formats_get_a_suffix_that_is_searched_for() -> None:
    from medvision.data.readers import kinds

    assert set(served._SUFFIXES) == set(kinds._STARTS)
    assert set(served._SUFFIXES.values()) <= kinds.IMAGE_SUFFIXES
