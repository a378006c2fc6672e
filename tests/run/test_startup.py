"""Time at which modules are imported, which determines how fast the program answers and trains."""

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from omegaconf import OmegaConf

from medvision.run.storage.run_folder import RunFolder
from medvision.run.training import job as job_module
from medvision.run.training.job import Job, run_job

HEAVY = {
    "torch",
    "pytorch_lightning",
    "torchmetrics",
    "timm",
    "numpy",
    "cv2",
    "scipy",
    "matplotlib",
}
UNET = "experiment=polyp_unet"

NOT_FOR_A_UNET = {
    "matplotlib",
    "scipy.signal.windows",
    "scipy.stats",
    "timm",
    "segmentation_models_pytorch",
    "albumentations",
    "sklearn",
    "monai",
    "jinja2",
    "optuna",
    "onnx",
    "onnxruntime",
    "huggingface_hub",
    "pandas",
    "torch_xla",
    "tensorboard",
    "boto3",
    "s3fs",
    "wandb",
    "mlflow",
    "medvision.models.smp_segmenter",
    "medvision.models.timm_classifier",
    "medvision.hardware.xla_trainer",
    "medvision.export",
}
"""Modules that a U-Net does not import before its first step, although they are installed."""

FIRST_STEP = """
import os, sys
from pytorch_lightning.callbacks import LambdaCallback

def end(*_):
    print("\\nMODULES", 0, *sorted(sys.modules), flush=True)
    os._exit(0)

def first_step():
    return LambdaCallback(on_train_batch_end=end)
"""


def modules_after(arguments: Sequence[str], folder: Path) -> tuple[int, set[str]]:
    """Exit code and loaded modules of the program run with ``arguments`` in a folder."""
    program = (
        "import sys; from medvision.run import main\n"
        f"code = main({list(arguments)!r})\n"
        "print('\\nMODULES', code, *sorted(sys.modules))"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder)
    _, code, *modules = done.stdout.splitlines()[-1].split()
    return int(code), set(modules)


MISTAKES = [
    ["experiment=polyp_unte"],
    [UNET, "data.rot=x"],
    [UNET, "data.root=/nowhere"],
    [UNET, "data.batch_size=x"],
    [UNET, "optimizer=admw"],
    [UNET, "optimizer._target_=torch.optim.Admw"],
    [UNET, "checkpoint.monitor=test/dice"],
    ["resume=nowhere"],
]


def test_a_mistake_is_named_before_anything_heavy_is_loaded(tmp_path: Path) -> None:
    """All commands in one process: what the first ones load, the later ones would have loaded."""
    program = (
        "import sys; from medvision.run import main\n"
        f"for command in {MISTAKES}:\n"
        f"    print(command, main(command), sorted({HEAVY} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.splitlines() == [f"{mistake} 2 []" for mistake in MISTAKES]
    assert list(tmp_path.iterdir()) == []


def test_help_does_not_even_load_hydra(tmp_path: Path) -> None:
    code, modules = modules_after(["--help"], tmp_path)
    assert code == 0
    assert not {*HEAVY, "hydra", "omegaconf", "yaml"} & modules


def test_medvision_train_does_not_load_the_parser_of_the_other_verbs(tmp_path: Path) -> None:
    program = (
        "import sys; sys.argv = ['medvision', 'train', 'experiment=polyp_unte']\n"
        "from medvision.cli import main\n"
        "try: main()\n"
        "finally: print(sorted({'typer', 'rich', 'torch'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "[]\n")
    assert done.stderr.startswith("error: unknown experiment polyp_unte")


@pytest.mark.slow
def test_no_verb_loads_matplotlib_before_it_draws_or_unused_parts_of_scipy(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from medvision.run.quick_imports import defer_unused\n"
        "defer_unused()\n"
        "import medvision.cli.screen, medvision.audit.report\n"
        "import medvision.comparison.compare, medvision.inference.predict\n"
        "import medvision.run.evaluation.evaluate, medvision.run.training.experiment\n"
        "unused = ('matplotlib', 'scipy.signal.windows', 'scipy.stats')\n"
        "print('torchmetrics' in sys.modules, sorted(sys.modules.keys() & unused))"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout == "True []\n"


@pytest.mark.slow
def test_a_unet_makes_its_first_step_without_unneeded_modules(tmp_path: Path) -> None:
    (tmp_path / "ending.py").write_text(FIRST_STEP)
    code, modules = modules_after(
        [
            UNET,
            "trainer=auto",
            "+callbacks.end._target_=ending.first_step",
            "data.num_images=12",
            "data.image_size=32",
            "data.num_workers=0",
            "model.base_channels=2",
        ],
        tmp_path,
    )
    assert code == 0
    assert {"torch", "pytorch_lightning", "medvision.models.unet"} <= modules
    assert not NOT_FOR_A_UNET & modules


def test_the_time_to_the_first_step_of_a_later_run_begins_with_that_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    beginnings = []

    def run_experiment(*_: Any, started_s: float, **__: Any) -> dict[str, Any]:
        beginnings.append(started_s)
        return {"status": "finished"}

    monkeypatch.setattr("medvision.run.training.job.check_config", lambda _: None)
    job = SimpleNamespace(run_experiment=run_experiment)  # instead of one with torch
    monkeypatch.setitem(sys.modules, "medvision.run.training.experiment", job)
    monkeypatch.setattr(job_module, "_BEGINNINGS", iter([1.5]))
    called_s = time.perf_counter()
    for _ in range(2):
        run_job(Job(cfg=OmegaConf.create({}), experiment="any", folder=lambda: RunFolder(tmp_path)))
    assert beginnings[0] == 1.5
    assert called_s <= beginnings[1] <= time.perf_counter()
