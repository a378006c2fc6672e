"""Fixtures used by several test packages."""

import gc
import io
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")  # the suite states what the CPU computes

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # started in the background of a script
    signal.signal(signal.SIGINT, signal.default_int_handler)  # children get the default too
if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:  # started by nohup
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

import cv2
import numpy as np
import pytest
from filelock import FileLock

from medvision.run import main  # torch and Hydra are not for the process that starts the workers

SMALL = (
    "trainer=cpu",
    "logger=csv",
    "data.image_size=32",
    "data.num_images=24",
    "data.batch_size=4",
    "data.num_workers=0",
    "trainer.max_epochs=1",
)
"""Overrides that shorten any experiment to one or two seconds."""

BLANK_PNG = cv2.imencode(".png", np.full((8, 8, 3), 255, np.uint8))[1].tobytes()


class BlankAxes:
    """Axes, and their parts, that do nothing, whatever is called."""

    def __getattr__(self, name: str) -> "BlankAxes":
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __call__(self, *args: object, **options: object) -> "BlankAxes":
        return self

    def __getitem__(self, part: object) -> "BlankAxes":
        return self

    def __iter__(self) -> Iterator[Any]:
        return iter(())


class BlankFigure(BlankAxes):
    """Figure whose axes take nothing to create: those of matplotlib take a fifth of a small run."""

    def subplots(self, lines: int, columns: int, *, squeeze: bool = True, **_: object) -> Any:
        cells = np.full((lines, columns), BlankAxes(), object)
        return cells.squeeze() if squeeze else cells


class BlankCanvas:
    """Canvas of matplotlib that writes a blank PNG instead of drawing."""

    def __init__(self, figure: object) -> None:
        pass

    def print_png(self, place: Path | io.BytesIO) -> None:
        if isinstance(place, io.BytesIO):
            place.write(BLANK_PNG)
        else:
            Path(place).write_bytes(BLANK_PNG)


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """Exclude the million objects of imports and collection from later garbage collections."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)
    cv2.setNumThreads(1)


@pytest.fixture(autouse=True)
def _own_state(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Isolate salts, run folders and random numbers of each test."""
    import torch

    torch.default_generator.manual_seed(0)  # for all devices it would format the stack
    state = tmp_path_factory.getbasetemp() / "state"
    shutil.rmtree(state / "test_evaluations", ignore_errors=True)  # each test counts from 1
    monkeypatch.setenv("MEDVISION_STATE_DIR", str(state))
    monkeypatch.setenv("MEDVISION_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.delenv("MEDVISION_RUN_DIR", raising=False)


@pytest.fixture(autouse=True)
def _blank_plots(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let runs write blank plots, because plots take more than half the time of a small run.

    Plots are drawn in ``tests/reports``, in the shared finished runs, in processes that tests
    start, and in tests marked ``draws``. Slow tests set them up without drawing them.
    """
    if request.path.parent.name == "reports" or request.node.get_closest_marker("draws"):
        return
    import medvision.reports.plots.style as style

    monkeypatch.setattr(style, "FigureCanvasAgg", BlankCanvas)
    if not request.node.get_closest_marker("slow"):
        monkeypatch.setattr(style, "Figure", lambda **_: BlankFigure())


@pytest.fixture(autouse=True)
def _shared_configs(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copy configs that an earlier test composed, because composing takes most of a short command.

    Hydra composes every config in ``tests/test_conf.py``, where both ways are compared, in the
    shared finished runs, in processes that tests start, and in slow tests.
    """
    if request.path.name == "test_conf.py" or request.node.get_closest_marker("slow"):
        return
    from hydra._internal.config_loader_impl import ConfigLoaderImpl

    from shared_configs import compose_shared

    monkeypatch.setattr(ConfigLoaderImpl, "_load_configuration_impl", compose_shared)


@pytest.fixture
def small() -> tuple[str, ...]:
    """Overrides that shorten any experiment to one or two seconds."""
    return SMALL


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Run the real program in an empty folder, small; return the run folder."""
    monkeypatch.chdir(tmp_path)

    def run(*overrides: str) -> Path:
        before = set(tmp_path.glob("runs/*/*"))
        assert main([*SMALL, *overrides]) == 0
        (made,) = set(tmp_path.glob("runs/*/*")) - before
        return made

    return run


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Call a function in a new folder, once for all processes of the suite; return the folder."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # common to all workers

    def make(name: str, fill: Callable[[], object]) -> Path:
        folder = base / f"shared_{name}"
        with FileLock(f"{folder}.lock"), pytest.MonkeyPatch.context() as patched:
            if not (folder / "filled").exists():
                shutil.rmtree(folder, ignore_errors=True)  # of a worker that failed
                folder.mkdir()
                patched.chdir(folder)
                patched.setenv("MEDVISION_STATE_DIR", str(folder / "state"))
                patched.setenv("MEDVISION_CACHE_DIR", str(folder / "cache"))
                patched.delenv("MEDVISION_RUN_DIR", raising=False)
                fill()
                (folder / "filled").touch()
        os.environ.pop("MEDVISION_RUN_DIR", None)
        return folder

    return make


def finished_run(shared_folder: Callable[..., Path], name: str, *overrides: str) -> Path:
    """Run two small epochs, once for all processes of the suite; return the run."""
    kept = [o for o in SMALL if not o.startswith(("trainer.max", "data.num_images"))]

    def fill() -> None:
        assert main([*kept, "trainer.max_epochs=2", "data.num_images=60", *overrides]) == 0

    (run,) = shared_folder(name, fill).glob("runs/*/*")
    return run


@pytest.fixture(scope="session")
def finished(shared_folder: Callable[..., Path]) -> Path:
    """One finished two-epoch run of ``polyp_unet``, shared: read it, never write to it."""
    small = ("model.base_channels=4", "optimizer.lr=3e-3")
    return finished_run(shared_folder, "polyp", "experiment=polyp_unet", *small)


@pytest.fixture(scope="session")
def finished_chest(shared_folder: Callable[..., Path]) -> Path:
    """One finished run of ``chest_xray_cnn`` whose threshold came from validation, shared."""
    small = ("model.base_channels=2", "task.threshold=validation")
    return finished_run(shared_folder, "chest", "experiment=chest_xray_cnn", *small)


@pytest.fixture(scope="session")
def finished_brain(shared_folder: Callable[..., Path]) -> Path:
    """One finished run of ``brain_mri_cnn``, shared."""
    small = "model.base_channels=2"
    return finished_run(shared_folder, "brain", "experiment=brain_mri_cnn", small)


@pytest.fixture
def summary_of() -> Callable[[Path], dict[str, Any]]:
    """Read the summary of a run."""
    return lambda run: json.loads((run / "summary.json").read_text())


@pytest.fixture
def make_folder(tmp_path: Path) -> Callable[..., Path]:
    """Write a segmentation folder of small PNG pairs with one disc each."""

    def make(count: int = 12, *, size_px: tuple[int, int] = (40, 48), name: str = "set") -> Path:
        root = tmp_path / name
        (root / "images").mkdir(parents=True)
        (root / "masks").mkdir()
        rng = np.random.default_rng(0)
        for index in range(count):
            mask = np.zeros(size_px, np.uint8)
            center = tuple(int(v) for v in rng.integers(12, 28, 2))
            cv2.circle(mask, center, int(rng.integers(4, 10)), 255, -1)
            image = rng.integers(0, 90, (*size_px, 3), dtype=np.uint8)
            image[mask > 0] += 120
            cv2.imwrite(str(root / "images" / f"case_{index:02d}.png"), image)
            cv2.imwrite(str(root / "masks" / f"case_{index:02d}.png"), mask)
        return root

    return make


@pytest.fixture
def make_class_folder(tmp_path: Path) -> Callable[..., Path]:
    """Write grey PNGs, brighter for each further class, in a folder for each class."""

    def make(
        counts: Mapping[str, int], *, name: str = "set", size_px: tuple[int, int] = (36, 40)
    ) -> Path:
        root = tmp_path / name
        rng = np.random.default_rng(0)
        brightness = {c: 60 * k for k, c in enumerate(sorted({Path(f).name for f in counts}))}
        for folder, count in counts.items():
            (root / folder).mkdir(parents=True)
            for index in range(count):
                image = rng.integers(0, 70, size_px, dtype=np.uint8)
                image += np.uint8(brightness[Path(folder).name])
                cv2.imwrite(str(root / folder / f"case_{index:02d}.png"), image)
        return root

    return make
