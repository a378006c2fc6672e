"""The exported page in a real browser, beside `medvision predict`."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from browser import BROWSER, MISSING, Watched, open_browser, served
from medvision.data.phantoms.chest import draw_chest
from medvision.data.phantoms.polyps import draw_polyp_scene
from medvision.export.web import RUNTIME, RUNTIME_VERSION, export_page
from medvision.inference import load_model, predict_files

pytestmark = [pytest.mark.slow, pytest.mark.skipif(BROWSER is None, reason=MISSING)]

SIZES = {1280: 900, 390: 844}
"""Width and height of the window, px."""

SAME_PIXELS = 0.999


@pytest.fixture(scope="session")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ONNX Runtime Web, from MEDVISION_TEST_ORT or by npm."""
    given = os.environ.get("MEDVISION_TEST_ORT")
    if given:
        return Path(given)
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed, and MEDVISION_TEST_ORT names no onnxruntime-web")
    folder = tmp_path_factory.mktemp("npm")
    package = f"{RUNTIME}@{RUNTIME_VERSION}"
    packed = subprocess.run(
        [npm, "pack", package], cwd=folder, capture_output=True, text=True, timeout=300
    )
    if packed.returncode != 0:
        pytest.skip(f"npm cannot get {package}: {packed.stderr.strip()[-200:]}")
    return next(folder.glob("*.tgz"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with open_browser() as opened:
        yield opened


@pytest.fixture(scope="session")
def polyp_page(runtime: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("page") / "polyps"
    export_page(Path("demo"), out=out, runtime=runtime, report=print)
    return out


@pytest.fixture(scope="session")
def chest_page(
    finished_chest: Path, runtime: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("page") / "chest"
    export_page(finished_chest, out=out, runtime=runtime, report=print)
    return out


def write_scenes(folder: Path) -> list[Path]:
    """Twenty images of all kinds that the page reads: sizes, formats, orientations, depths."""
    folder.mkdir()
    sizes = [(128, 128), (256, 256), (384, 384), (300, 200), (97, 211), (480, 640), (60, 90)]
    made = []
    for index in range(20):
        height, width = sizes[index % len(sizes)]
        scene = draw_polyp_scene(9_100 + index, size_px=max(height, width))[0][:height, :width]
        picture, path = Image.fromarray(scene), folder / f"scene_{index}.png"
        grey = scene.mean(axis=2).astype(np.uint16)
        if index < 8:
            path = path.with_suffix(".jpg")
            exif = Image.Exif()
            exif[274] = index + 1  # orientation
            picture.save(path, quality=60 + 4 * index, exif=exif, progressive=index % 2 == 1)
        elif index < 10:
            picture.save(path.with_suffix(".bmp"))
            path = path.with_suffix(".bmp")
        elif index == 10:
            Image.fromarray(grey * 200 + 5).save(path)
        elif index == 11:
            cv2.imwrite(str(path), scene[..., ::-1].astype(np.uint16) * 257)
        elif index == 12:
            fade = np.linspace(0, 255, scene.shape[1]).astype(np.uint8)
            alpha = np.broadcast_to(fade, scene.shape[:2])
            Image.fromarray(np.dstack([scene, alpha])).save(path)
        elif index == 13:
            picture.quantize(64).save(path)
        elif index == 14:
            picture.convert("L").save(path)
        else:
            picture.save(path)
        made.append(path)
    return made


def files_of(page: Any, paths: list[Path]) -> Any:
    """Give the files to the page and wait for its results."""
    page.set_input_files("#files", paths)
    page.locator("#status", has_text="done").wait_for(timeout=300_000)
    return page.locator(".card")


def downloaded_mask(page: Any, card: Any, folder: Path) -> NDArray[np.uint8]:
    page.wait_for_timeout(400)  # Chromium blocks a page that saves ten files at once
    with page.expect_download() as waiting:
        card.get_by_role("button", name="Download mask").click()
    path = folder / waiting.value.suggested_filename
    waiting.value.save_as(path)
    return np.asarray(Image.open(path).convert("L"))


@pytest.mark.parametrize("from_disk", [False, True], ids=["host", "disk"])
def test_masks_equal_those_of_predict_and_nothing_leaves_the_page(
    browser: Any, polyp_page: Path, tmp_path: Path, from_disk: bool
) -> None:
    scenes = write_scenes(tmp_path / "scenes")
    predict_files(load_model("demo"), scenes, out=tmp_path / "predicted", overlays=False)
    with served(polyp_page) as host:
        page = browser.new_context(accept_downloads=True).new_page()
        watched = Watched(page)
        address = (polyp_page / "index.html").as_uri() if from_disk else host
        page.goto(address)
        cards = files_of(page, scenes)
        assert cards.count() == len(scenes)
        shares = []
        for card in cards.all():
            name = card.locator("h3").inner_text()
            mask = downloaded_mask(page, card, tmp_path)
            expected = np.asarray(
                Image.open(tmp_path / "predicted/masks" / f"{Path(name).stem}.png")
            )
            assert mask.shape == expected.shape, name
            shares.append(np.mean(mask == expected))
        page.context.close()
    print("least share of equal pixels", min(shares), "mean", np.mean(shares))
    assert min(shares) >= SAME_PIXELS
    place = polyp_page.as_uri() if from_disk else host
    own = ("blob:null/", "data:") if from_disk else (f"blob:{host}", "data:")
    assert [url for url in watched.requests if not url.startswith((place, *own))] == []
    assert watched.complaints == []


def test_classes_and_probabilities_equal_those_of_predict(
    browser: Any, chest_page: Path, finished_chest: Path, tmp_path: Path
) -> None:
    paths = []
    for index in range(20):
        path = tmp_path / f"chest_{index}.png"
        picture = draw_chest(index, index % 2, size_px=40 + 7 * index, seed=3)
        Image.fromarray(picture[..., 0]).save(path)
        paths.append(path)
    model = load_model(finished_chest)
    expected = {path.name: model.predict(path) for path in paths}
    with served(chest_page) as host:
        page = browser.new_page()
        watched = Watched(page)
        page.goto(host)
        for card in files_of(page, paths).all():
            result = expected[card.locator("h3").inner_text()]
            rows = card.locator("tbody tr").all()
            names = [row.locator("th").inner_text() for row in rows]
            shares = [row.locator(".mv-number").inner_text() for row in rows]
            percent = {n: float(t.removesuffix(" %")) for n, t in zip(names, shares, strict=True)}
            # bf16 of `predict` where the processor has it, float32 here
            wanted = {name: 100 * share for name, share in result.probability.items()}
            assert percent == pytest.approx(wanted, abs=1.0)
            margin = abs(result.probability[model.card.class_names[1]] - model.card.threshold)
            if margin > 0.01:
                assert card.locator(".mv-facts").inner_text().startswith(f"{result.predicted},")
        page.close()
    assert watched.complaints == []


def test_files_that_it_cannot_read_are_named_and_the_others_are_predicted(
    browser: Any, polyp_page: Path, tmp_path: Path
) -> None:
    good = tmp_path / "good.jpg"
    scene = Image.fromarray(draw_polyp_scene(9_200, size_px=160)[0])
    scene.save(good)
    cut, text, tiff, cmyk = (tmp_path / n for n in ("cut.jpg", "a.png", "a.tif", "cmyk.jpg"))
    cut.write_bytes(good.read_bytes()[:2000])
    text.write_text("hello")
    scene.save(tiff)
    scene.convert("CMYK").save(cmyk)
    (tmp_path / "empty.png").touch()
    reasons = {
        "cut.jpg": "the picture is cut short",
        "a.png": "not a JPEG, PNG or BMP picture",
        "a.tif": "a browser cannot read TIFF files",
        "cmyk.jpg": "a browser cannot read this kind of JPEG",
        "empty.png": "the file is empty",
    }
    with served(polyp_page) as host:
        page = browser.new_page()
        page.goto(host)
        cards = files_of(page, [cut, text, tiff, cmyk, tmp_path / "empty.png", good])
        found = {card.locator("h3").inner_text(): card for card in cards.all()}
        for name, reason in reasons.items():
            assert reason in found[name].locator(".failed").inner_text()
        assert found["good.jpg"].locator("canvas").count() == 1
        assert page.locator("#status").inner_text() == "1 image done, 5 not processed."
        page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width_px", SIZES)
def test_it_fits_a_phone_and_shows_the_notice(
    browser: Any, polyp_page: Path, width_px: int, scheme: str
) -> None:
    with served(polyp_page) as host:
        context = browser.new_context(
            viewport={"width": width_px, "height": SIZES[width_px]}, color_scheme=scheme
        )
        page = context.new_page()
        watched = Watched(page)
        page.goto(host)
        page.get_by_role("button", name="Try an example").click()
        page.locator("#status", has_text="done").wait_for(timeout=120_000)
        wide = page.evaluate("document.documentElement.scrollWidth")
        small = page.locator("button:visible").evaluate_all(
            "found => found.filter((one) => one.getBoundingClientRect().height < 36).length"
        )
        text = page.locator("body").inner_text()
        context.close()
    assert wide <= width_px
    assert small == 0
    assert "For research use only" in text
    assert "phantoms" in text
    assert "Dice" in text
    assert watched.complaints == []


def test_the_sliders_change_the_mask_and_reset_returns_the_prediction(
    browser: Any, polyp_page: Path, tmp_path: Path
) -> None:
    with served(polyp_page) as host:
        page = browser.new_context(accept_downloads=True).new_page()
        page.goto(host)
        page.get_by_role("button", name="Try an example").click()
        page.locator("#status", has_text="done").wait_for(timeout=120_000)
        card = page.locator(".card")
        first = downloaded_mask(page, card, tmp_path)
        card.get_by_label("Threshold").fill("0.999")
        fewer = downloaded_mask(page, card, tmp_path)
        card.get_by_role("button", name="Reset").click()
        again = downloaded_mask(page, card, tmp_path)
        page.context.close()
    assert set(np.unique(first)) == {0, 255}
    assert np.count_nonzero(fewer) < np.count_nonzero(first)
    assert np.array_equal(again, first)


def test_class_names_are_text_and_not_markup(polyp_page: Path) -> None:
    text = (polyp_page / "model.js").read_text()
    values = json.loads(text[text.index("{") : text.rindex("}") + 1])
    assert values["class_names"] == ["background", "polyp"]
    assert "<" not in text
