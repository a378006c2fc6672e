"""The page on Lightning's own trainer, executed; its scores are those of the run."""

import json
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import Sampler

from medvision.cli.program import _code
from medvision.data.loading.sampler import EpochSampler
from medvision.models import UNet
from medvision.run import main

PAGE = Path(__file__).parents[2] / "docs" / "tutorials" / "lightning.md"


class Rows(Sampler[int]):
    """Order of the rows in a training of 33 images with seed 0."""

    def __init__(self) -> None:
        self.order = EpochSampler(num_samples=33, seed=0, shuffle=True)

    def set_epoch(self, epoch: int) -> None:
        self.order.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[int]:
        return (key[1] for key in self.order)


class AsInRuns(UNet):
    """The network with images as a run passes them."""

    def forward(self, image: Tensor) -> Tensor:
        return super().forward(image.to(memory_format=torch.channels_last))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_script_of_the_page_has_the_scores_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = dict(re.findall(r"```(bash|python)\n(.*?)```", PAGE.read_text(), re.DOTALL))
    assert len(blocks["python"].strip().splitlines()) <= 27  # with the blank lines
    phantoms, train = blocks["bash"].replace("\\\n", " ").strip().splitlines()
    monkeypatch.setattr(sys, "argv", shlex.split(phantoms))
    assert _code() == 0
    same = ("trainer=cpu", "trainer.precision=32", "trainer.memory_format=contiguous")
    assert main([*shlex.split(train)[2:], *same, "logger=csv", "data.num_workers=0"]) == 0
    script = blocks["python"].replace("shuffle=True", "sampler=Rows()")
    script = script.replace("UNet(base", "AsInRuns(base")
    found: dict[str, Any] = {"Rows": Rows, "AsInRuns": AsInRuns}
    exec(script.replace("Trainer(", "Trainer(accelerator='cpu', "), found)
    run = json.loads((tmp_path / "runs" / "polyps" / "summary.json").read_text())["metrics"]
    assert {"test/dice", "test/iou", "test/auroc", "test/loss"} <= found["scores"].keys()
    for name, value in found["scores"].items():
        assert value == pytest.approx(run[name], abs=1e-6), name
    assert found["probability"].shape == (3, 1, 64, 64)
