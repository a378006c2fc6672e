"""Run folders for reports, written by hand: no training, no torch."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

SEGMENTATION: dict[str, Any] = {
    "experiment": "polyp_unet",
    "seed": 3,
    "status": "finished",
    "task": "segmentation",
    "dataset": {
        "name": "polyps",
        "synthetic": False,
        "fingerprint": "ab12",
        "num_images": {"train": 1800, "val": 100, "test": 12},
    },
    "model": {"name": "UNet", "num_parameters": 1_940_000},
    "metrics": {
        "train/loss": 0.25,
        "train/dice": 0.95,
        "val/dice": 0.94,
        "test/loss": 0.31,
        "test/dice": 0.9306,
        "test/dice_ci95": [0.9119, 0.9451],
        "test/iou": 0.8787,
        "test/auroc": None,
    },
    "best_checkpoint": "checkpoints/best.ckpt",
    "best_epoch": 16,
    "threshold": 0.5,
    "epochs": 18,
    "timing": {"fit_s": 3725.0, "time_to_first_step_s": 1.25, "train_images_per_s": 7.68},
    "precision": "bf16-mixed",
    "device": "cpu",
    "warnings": ["there are only 12 test images"],
}

CLASSIFICATION: dict[str, Any] = {
    "experiment": "chest_xray_cnn",
    "seed": 0,
    "status": "finished",
    "task": "classification",
    "dataset": {
        "name": "chest_xray",
        "synthetic": True,
        "fingerprint": "cd34",
        "num_images": {"train": 40, "val": 10, "test": 10},
        "protocol": "merged",
        "class_counts": {
            "train": {"NORMAL": 20, "PNEUMONIA": 20},
            "val": {"NORMAL": 5, "PNEUMONIA": 5},
            "test": {"NORMAL": 4, "PNEUMONIA": 6},
        },
    },
    "model": {"name": "SimpleCNN", "num_parameters": 31_200},
    "metrics": {
        "val/accuracy": 0.8,
        "test/accuracy": 0.9,
        "test/accuracy_ci95": [0.6, 1.0],
        "test/auroc": 0.95,
        "test/auroc_ci95": [0.8, 1.0],
        "test/recall": 0.833,
        "test/recall/NORMAL": 1.0,
        "test/recall/NORMAL_ci95": [0.398, 1.0],
        "test/recall/PNEUMONIA": 0.833,
        "test/precision/NORMAL": 0.8,
        "test/precision/PNEUMONIA": None,
    },
    "best_epoch": 1,
    "threshold": 0.4412,
    "epochs": 2,
    "timing": {},
    "precision": "32-true",
    "device": "cpu",
    "warnings": [],
}

ENVIRONMENT: dict[str, Any] = {
    "git": {"sha": "f00ba4", "dirty": True},
    "python": "3.11.7",
    "packages": {"torch": "2.9.1", "torch-xla": None},
    "hardware": {"processor": "A processor", "cores": 2, "memory_mb": 24105, "gpus": ["A GPU"]},
    "command": "train.py experiment=polyp_unet seed=3",
    "started": "2026-11-21T20:34:50+00:00",
}


@pytest.fixture
def segmentation() -> dict[str, Any]:
    """Summary of a segmentation run, to change as a test needs it."""
    return json.loads(json.dumps(SEGMENTATION))


@pytest.fixture
def classification() -> dict[str, Any]:
    """Summary of a run on two classes of phantoms, with predictions drawn for each image."""
    return json.loads(json.dumps(CLASSIFICATION))


@pytest.fixture
def write_run(tmp_path: Path) -> Callable[..., Path]:
    """Write a folder from a summary, the names of its plots, and the text of other files."""

    def write(summary: dict[str, Any], *, plots: tuple[str, ...] = (), **files: str) -> Path:
        folder = tmp_path / "run"
        (folder / "plots").mkdir(parents=True)
        (folder / "summary.json").write_text(json.dumps(summary))
        for name in plots:
            Image.new("RGB", (960, 640), "#88aacc").save(
                folder / "plots" / f"{name}.png", dpi=(160, 160)
            )
        for name, text in files.items():
            suffix = {"config": ".yaml", "environment": ".json"}.get(name, ".csv")
            (folder / f"{name}{suffix}").write_text(text)
        return folder

    return write


@pytest.fixture
def full_run(write_run: Callable[..., Path], classification: dict[str, Any]) -> Path:
    """A run with content for every section."""
    rates = {
        name: value
        for rate in ("sensitivity", "specificity", "ppv", "npv")
        for name, value in ((rate, 0.75), (f"{rate}_ci95", [0.5, 0.9]))
    }
    counts = {"num_positives": 6, "num_negatives": 4}
    classification["operating_points"] = [
        {"name": "in use", "threshold": 0.4412, "chosen_on": "val", **counts, **rates},
        {"name": "Youden's J", "threshold": 0.61, "chosen_on": "val", **counts, **rates}
        | {"npv": None, "npv_ci95": None},
    ]
    classification["warnings"] = ["THE MERGED PROTOCOL LEAKS: 2 of 10 test images"]
    return write_run(
        classification,
        plots=("loss", "accuracy", "roc", "precision_recall", "calibration", "confusion"),
        config="data:\n  root: null\n  image_size: 64\n" + "  long_name: " + "value" * 60 + "\n",
        environment=json.dumps(ENVIRONMENT),
        splits="split,path,target,group\n"
        "train,NORMAL/a.png,NORMAL,g1\ntrain,NORMAL/b.png,NORMAL,g1\ntest,NORMAL/c.png,NORMAL,g2\n",
        predictions_test="path,target,predicted,probability/NORMAL,probability/PNEUMONIA\n"
        "NORMAL/c.png,NORMAL,NORMAL,0.9,0.1\nPNEUMONIA/d.png,PNEUMONIA,NORMAL,0.8,0.2\n",
    )
