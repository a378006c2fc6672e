"""Fixtures that more than one room uses."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")  # the suite states what the CPU computes

import cv2
import numpy as np
import pytest
import torch

from medvision.run import main

SMALL = (
    "trainer=cpu",
    "logger=csv",
    "data.image_size=32",
    "data.num_images=24",
    "data.batch_size=4",
    "data.num_workers=0",
    "trainer.max_epochs=1",
)
"""Overrides that make a run of a second or two out of any experiment."""


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)


@pytest.fixture(autouse=True)
def _own_state(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep salts, run folders and random numbers of a test to itself."""
    torch.manual_seed(0)
    monkeypatch.setenv("MEDVISION_STATE_DIR", str(tmp_path_factory.getbasetemp() / "state"))
    monkeypatch.delenv("MEDVISION_RUN_DIR", raising=False)


@pytest.fixture
def small() -> tuple[str, ...]:
    """Overrides that make a run of a second or two out of any experiment."""
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
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One finished two-epoch run of ``polyp_unet``, shared: read it, never write to it."""
    folder = tmp_path_factory.mktemp("finished")
    here = Path.cwd()
    os.chdir(folder)
    os.environ["MEDVISION_STATE_DIR"] = str(folder / "state")
    try:
        tiny = ("model.base_channels=4", "trainer.max_epochs=2", "data.num_images=60")
        overrides = [o for o in SMALL if not o.startswith(("trainer.max", "data.num_images"))]
        assert main(["experiment=polyp_unet", *overrides, *tiny, "optimizer.lr=3e-3"]) == 0
    finally:
        os.chdir(here)
        os.environ.pop("MEDVISION_RUN_DIR", None)
    (run,) = (folder / "runs" / "polyp_unet").iterdir()
    return run


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
