"""Commands killed before any of their file operations leave complete files or none."""

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest
from PIL import Image

from faults import Ended, Operation, attempt, kill
from medvision.cli.program import _code
from medvision.run import main
from whole_files import check_file

SMALL = (
    "trainer=cpu",
    "logger=csv",
    "experiment=polyp_unet",
    "model.base_channels=2",
    "data.image_size=32",
    "data.batch_size=4",
    "data.num_workers=0",
    "trainer.max_epochs=1",
)
COMMANDS = {
    "predict": ("predict", "run", "set/images", "--out", "out", "--overwrite"),
    "evaluate": ("evaluate", "run"),
    "export to ONNX": ("export", "run", "--format", "onnx", "--out", "out.onnx"),
    "export to safetensors": (
        "export",
        "run",
        "--format",
        "safetensors",
        "--out",
        "out.safetensors",
    ),
    "audit": ("audit", "set", "--out", "out"),
    "data shard": ("data", "shard", "set", "out", "--task", "segmentation"),
}


def medvision(*arguments: str) -> Callable[[], int]:
    def run() -> int:
        own = {
            f"MEDVISION_{name.upper()}_DIR": str(Path(name).absolute())
            for name in ("state", "cache")
        }
        argv = ["medvision", *arguments]
        with mock.patch.dict(os.environ, own), mock.patch.object(sys, "argv", argv):
            return _code()

    return run


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a data set, a run on it, and an evaluation of that run."""
    folder = tmp_path_factory.mktemp("base")
    for part in ("images", "masks"):
        (folder / "set" / part).mkdir(parents=True)
    for k in range(8):
        image = Image.effect_noise((48, 40), 60 + k)
        image.save(folder / "set" / "images" / f"c{k}.png")
        image.point(lambda value: 255 * (value > 128)).save(folder / "set" / "masks" / f"c{k}.png")
    here = Path.cwd()
    os.chdir(folder)
    try:
        assert main([*SMALL, "data.root=set", "run_dir=run"]) == 0
        assert medvision("evaluate", "run")() == 0
    finally:
        os.chdir(here)
        os.environ.pop("MEDVISION_RUN_DIR", None)
    return folder


def hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def try_command(base: Path, folder: Path, command: str, at: int) -> Ended:
    """Kill a command at one operation, check the files, and run it again."""
    shutil.copytree(base, folder)
    killed = attempt(medvision(*COMMANDS[command]), folder, folder, at=at, fault=kill)
    seen = [p for p in folder.rglob("*") if p.is_file() and not hidden(p.relative_to(folder))]
    for path in seen:
        if "cache" not in path.relative_to(folder).parts:
            check_file(path)
    if command == "evaluate":
        assert list(folder.glob("run/evaluation/test/summary.json")) or list(
            folder.glob("run/evaluation/.test.*/earlier/summary.json")
        )
    if command in ("audit", "data shard") and (folder / "out").exists():
        shutil.rmtree(folder / "out")
    again = attempt(medvision(*COMMANDS[command]), folder, folder)
    assert again.code == 0, again.err
    return killed


def operations_of(base: Path, folder: Path, command: str) -> list[Operation]:
    shutil.copytree(base, folder)
    whole = attempt(medvision(*COMMANDS[command]), folder, folder)
    assert whole.code == 0, whole.err
    assert whole.operations
    return whole.operations


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_a_kill_before_any_operation(tmp_path: Path, base: Path, command: str) -> None:
    operations = operations_of(base, tmp_path / "whole", command)
    print(f"{command}: {len(operations)} operations")
    killed = 0
    for at in range(len(operations)):
        killed += try_command(base, tmp_path / str(at), command, at).code == -9
        shutil.rmtree(tmp_path / str(at))
    print(f"{command}: killed {killed} times")
    # which of several threads makes a folder is left to chance, and so is how often it is tried
    assert killed >= sum(operation.name != "os.mkdir" for operation in operations) - 2


@pytest.mark.slow
def test_an_earlier_evaluation_is_kept_until_the_new_one_is_complete(
    tmp_path: Path, base: Path
) -> None:
    operations = operations_of(base, tmp_path / "whole", "evaluate")
    moved = [k for k, o in enumerate(operations) if o.name == "os.rename" and "earlier" in str(o)]
    assert len(moved) == 1
    assert try_command(base, tmp_path / "killed", "evaluate", moved[0] + 1).code == -9
