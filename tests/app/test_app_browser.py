"""The app in a real browser, beside `medvision predict`; its requests are watched on both sides."""

import csv
import io
import os
import re
import signal
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from browser import BROWSER, MISSING, Watched, open_browser
from medvision.data.phantoms.polyps import draw_polyp_scene
from medvision.inference import load_model, predict_files

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason=MISSING),
    pytest.mark.skipif(find_spec("streamlit") is None, reason="extra app"),  # slow to import
]

SERVE = """
import sys
from pathlib import Path
connections = open(sys.argv.pop(1), "a", buffering=1)

def watch(event, details):
    if event == "socket.connect":
        connections.write(f"{details[1]}\\n")
    elif event == "socket.getaddrinfo":
        connections.write(f"{details[0]}\\n")

sys.addaudithook(watch)
from medvision.cli import main
main()
"""
"""Program that runs the command and writes down to whom the process connects."""

WIDTHS = {1280: 900, 390: 844}
"""Width and height of the window, px."""


@dataclass
class Served:
    """A running app: its address, its working folder and the lines that it prints."""

    url: str
    folder: Path
    process: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)

    @property
    def connections(self) -> list[str]:
        return (self.folder / "connections.txt").read_text().splitlines()


@contextmanager
def serving(folder: Path, *arguments: str) -> Iterator[Served]:
    """Start ``medvision serve`` as a user does, wait for its address, and stop it by Ctrl-C."""
    folder.mkdir(exist_ok=True)
    (folder / "connections.txt").touch()
    command = [sys.executable, "-c", SERVE, "connections.txt", "serve", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    with (folder / "stderr.txt").open("w") as errors:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
    try:
        assert process.stdout is not None
        lines: list[str] = []
        for line in process.stdout:
            lines.append(line)
            if found := re.search(r"open (\S+) in a browser", line):
                break
        else:
            pytest.fail("".join(lines) + (folder / "stderr.txt").read_text())
        host, port = re.search(r"//([\d.]+):(\d+)", found[1]).groups()  # type: ignore[union-attr]
        for _ in range(600):
            with socket.socket() as tried:
                if tried.connect_ex((host, int(port))) == 0:
                    break
            time.sleep(0.1)
        yield Served(url=found[1], folder=folder, process=process, lines=lines)
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("app"), "demo", "--port", "0") as served:
        yield served


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with open_browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Twenty images in the formats that the app reads."""
    folder = tmp_path_factory.mktemp("scenes")
    made = []
    for index in range(20):
        suffix = ("png", "jpg", "bmp", "tif")[index % 4]
        path = folder / f"scene_{index}.{suffix}"
        height, width = [(128, 128), (200, 160), (97, 211), (300, 240)][index % 3]
        scene = draw_polyp_scene(9_400 + index, size_px=max(height, width))[0]
        Image.fromarray(scene[:height, :width]).save(path)
        made.append(path)
    return made


def upload(page: Any, url: str, files: list[Path]) -> None:
    """Open the app and give it files, as one drop."""
    page.goto(url)
    page.locator("input[type=file]").wait_for(state="attached", timeout=120_000)
    page.set_input_files("input[type=file]", files)


def test_twenty_masks_equal_those_of_predict_and_nothing_leaves_the_machine(
    browser: Any, app: Served, scenes: list[Path], tmp_path: Path
) -> None:
    predict_files(load_model("demo"), scenes, out=tmp_path / "out", probabilities=True)
    page = browser.new_context(accept_downloads=True).new_page()
    watched = Watched(page)
    frames: list[str | bytes] = []
    page.on("websocket", lambda ws: ws.on("framereceived", lambda frame: frames.append(frame)))
    upload(page, app.url, scenes)
    page.locator(".mv-result").nth(19).wait_for(timeout=300_000)
    same = []
    for index, scene in enumerate(scenes):
        page.wait_for_timeout(150)  # Chromium drops the eleventh download within one second
        with page.expect_download() as waiting:
            page.locator(".mv-result").nth(index).get_by_role(
                "button", name="Download mask"
            ).click()
        waiting.value.save_as(tmp_path / "shown.png")
        shown = np.asarray(Image.open(tmp_path / "shown.png").convert("L"))
        expected = np.asarray(Image.open(tmp_path / "out/masks" / f"{scene.stem}.png"))
        same.append(np.mean(shown == expected))
    with page.expect_download(timeout=120_000) as waiting:
        page.get_by_role("button", name="Download results").click()
    waiting.value.save_as(tmp_path / "all.zip")
    for tab in ("Audit", "Report", "About"):
        page.get_by_role("tab", name=tab).click()
        assert "For research use only" in page.locator("body").inner_text()
    page.context.close()

    print("least share of equal pixels", min(same))
    assert min(same) == 1
    with zipfile.ZipFile(tmp_path / "all.zip") as archive:
        for number, scene in enumerate(scenes, start=1):
            packed = archive.read(f"results/masks/{number:03d}_{scene.stem}.png")
            assert packed == (tmp_path / "out/masks" / f"{scene.stem}.png").read_bytes()
        rows = list(csv.DictReader(io.StringIO(archive.read("results/predictions.csv").decode())))
    assert [row["path"] for row in rows] == [scene.name for scene in scenes]

    host = app.url.removeprefix("http://").rstrip("/")
    own = (f"http://{host}/", f"ws://{host}/", f"blob:http://{host}/", "data:")
    assert [url for url in watched.requests if not url.startswith(own)] == []
    assert watched.complaints == []
    sent = b"".join(f if isinstance(f, bytes) else f.encode() for f in frames)
    for secret in (str(app.folder), str(Path(sys.prefix)), str(Path(__file__).parents[2])):
        assert secret.encode() not in sent
    assert [line for line in app.connections if not re.search(r"127\.0\.0\.1|/|None", line)] == []


def test_files_that_are_no_images_are_named_and_the_others_are_shown(
    browser: Any, app: Served, scenes: list[Path], tmp_path: Path
) -> None:
    text, cut = tmp_path / "*notes* <b>.txt", tmp_path / "cut.jpg"
    text.write_text("hello")
    cut.write_bytes(scenes[1].read_bytes()[:3000])
    page = browser.new_page()
    upload(page, app.url, [text, cut, scenes[0]])
    page.locator(".mv-result").first.wait_for(timeout=120_000)
    said = page.locator("[data-testid=stAlert]").all_inner_texts()
    names = page.locator("h3").all_inner_texts()
    page.close()
    assert any("not an image in a supported format" in line for line in said)
    assert any("truncated" in line or "cut" in line for line in said)
    assert "*notes* <b>.txt" in names  # text, not markup
    assert not any(str(tmp_path) in line or "Traceback" in line for line in said)


def test_a_corrected_mask_becomes_a_training_pair(
    browser: Any, app: Served, scenes: list[Path], tmp_path: Path
) -> None:
    page = browser.new_page(viewport={"width": 1280, "height": 1400})
    upload(page, app.url, [scenes[0]])
    view = page.locator(".mv-result")
    view.wait_for(timeout=120_000)
    before = view.locator(".mv-facts").inner_text()
    view.get_by_role("button", name="Brush").click()
    box = view.locator("canvas").bounding_box()
    x, y = box["x"] + 0.1 * box["width"], box["y"] + 0.9 * box["height"]
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 0.5 * box["width"], y, steps=8)
    page.mouse.up()
    edited = view.locator(".mv-facts").inner_text()
    view.get_by_role("button", name="Undo").click()
    assert view.locator(".mv-facts").inner_text().replace(" (edited)", "") == before
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 0.5 * box["width"], y, steps=8)
    page.mouse.up()
    view.get_by_role("button", name="Save as training pair").click()
    page.get_by_text("Saved as").wait_for(timeout=60_000)
    said = page.get_by_text("Saved as").inner_text()
    assert view.locator(".mv-facts").inner_text() == edited  # the correction stays on the screen
    page.close()
    assert str(app.folder) not in said
    (mask,) = (app.folder / "corrections/masks").iterdir()
    (image,) = (app.folder / "corrections/images").iterdir()
    assert image.read_bytes() == scenes[0].read_bytes()
    saved = np.asarray(Image.open(mask))
    predicted: Any = load_model("demo").predict(scenes[0])
    row = int(0.9 * saved.shape[0])
    assert (saved[row, int(0.15 * saved.shape[1]) : int(0.55 * saved.shape[1])] == 255).all()
    assert np.array_equal(saved[:10], predicted.mask[:10] * 255)


def test_two_visitors_see_their_own_images(browser: Any, app: Served, scenes: list[Path]) -> None:
    pages = [browser.new_context().new_page() for _ in range(2)]
    for page, scene in zip(pages, scenes, strict=False):
        upload(page, app.url, [scene])
    for page, scene in zip(pages, scenes, strict=False):
        page.locator(".mv-result").wait_for(timeout=120_000)
        shown = [text for text in page.locator("h3").all_inner_texts() if "scene_" in text]
        assert shown == [scene.name]
        page.context.close()


def test_two_runs_stand_side_by_side(
    browser: Any, finished: Path, scenes: list[Path], tmp_path: Path
) -> None:
    with serving(tmp_path / "two", "demo", str(finished), "--port", "0") as served:
        page = browser.new_page(viewport={"width": 1280, "height": 1200})
        upload(page, served.url, [scenes[0]])
        page.locator(".mv-result").nth(1).wait_for(timeout=120_000)
        left, right = (page.locator(".mv-result").nth(k).bounding_box() for k in (0, 1))
        page.get_by_role("tab", name="Report").click()
        frame = page.frame_locator("iframe").first
        assert "For research use only" in frame.locator("body").inner_text(timeout=60_000)
        page.close()
    assert left["x"] + left["width"] <= right["x"]
    assert left["y"] == pytest.approx(right["y"], abs=30)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width_px", WIDTHS)
def test_it_fits_a_phone_and_shows_the_notice(
    browser: Any, app: Served, scenes: list[Path], width_px: int, scheme: str
) -> None:
    context = browser.new_context(
        viewport={"width": width_px, "height": WIDTHS[width_px]}, color_scheme=scheme
    )
    page = context.new_page()
    upload(page, app.url, [scenes[0]])
    page.locator(".mv-result").wait_for(timeout=120_000)
    wide = page.evaluate("document.documentElement.scrollWidth")
    text = page.locator("body").inner_text()
    color = page.locator("[data-testid=stApp]").evaluate("e => getComputedStyle(e).backgroundColor")
    context.close()
    assert wide <= width_px
    assert "For research use only" in text
    assert "phantoms" in text
    red = int(re.findall(r"\d+", color)[0])
    assert (red < 100) == (scheme == "dark")


def test_another_address_asks_for_the_token(browser: Any, tmp_path: Path) -> None:
    with serving(tmp_path / "token", "demo", "--port", "0", "--address", "0.0.0.0") as served:
        address = served.url.replace("0.0.0.0", "127.0.0.1")
        bare = address.partition("?")[0]
        page = browser.new_context().new_page()
        assert page.goto(bare).status == 401
        page.goto(address)
        page.locator("input[type=file]").wait_for(state="attached", timeout=120_000)
        assert "token" not in page.url
        page.context.close()


def test_a_large_file_is_refused(browser: Any, tmp_path: Path) -> None:
    large = tmp_path / "large.png"
    large.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(2_500_000))
    with serving(tmp_path / "large", "demo", "--port", "0", "--largest-mb", "1") as served:
        page = browser.new_page()
        upload(page, served.url, [large])
        page.get_by_text(re.compile("1.*MB")).first.wait_for(timeout=60_000)
        assert page.locator(".mv-result").count() == 0
        page.close()
