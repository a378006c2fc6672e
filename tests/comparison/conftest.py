"""Run folders as training writes them, without training."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Write a run folder: a classifier of cats and dogs by default.

    ``rows`` is predictions_test.csv as text, ``groups`` the group of each of the images.
    """

    def one(
        name: str,
        seed: int = 0,
        accuracy: float | None = 0.9,
        *,
        settings: dict[str, Any] | None = None,
        images: tuple[str, ...] = ("a.png", "b.png", "c.png", "d.png"),
        dataset: dict[str, Any] | None = None,
        metrics: dict[str, Any] | None = None,
        rows: str | None = None,
        groups: tuple[str, ...] = (),
        **summary: Any,
    ) -> Path:
        path = tmp_path / "runs" / name
        path.mkdir(parents=True)
        config: dict[str, Any] = {
            "experiment": summary.get("experiment", "pets"),
            "seed": seed,
            "run_dir": str(path),
            "data": {"image_size": 32, "seed": seed, "split_seed": 0, "root": None},
            "model": {"_target_": "medvision.models.SimpleCNN", "image_size": 32},
            "optimizer": {"_target_": "torch.optim.Adam", "lr": 0.001},
            "callbacks": {"checkpoint": {"dirpath": str(path)}},
            "logger": {"save_dir": f"{path}/logs"},
        }
        for key, value in (settings or {}).items():
            *parents, last = key.split(".")
            place = config
            for parent in parents:
                place = place[parent]
            place[last] = value
        (path / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
        content = {
            "experiment": "pets",
            "seed": seed,
            "status": "finished",
            "task": "classification",
            "dataset": {
                "synthetic": False,
                "fingerprint": "f" * 64,
                "protocol": "official",
                "class_counts": {"test": {"cat": 2, "dog": 2}},
            }
            | (dataset or {}),
            "model": {"name": "SimpleCNN", "num_parameters": 1234},
            "metrics": {
                "test/accuracy": accuracy,
                "test/accuracy_ci95": [0.8, 0.99],
                "test/auroc": 0.75,
                "test/confusion/cat/dog": 1.0,
                **(metrics or {}),
            },
            "best_epoch": 1,
            "epochs": 2,
            "warnings": [],
        }
        (path / "summary.json").write_text(json.dumps(content | summary))
        (path / "metrics.csv").write_text(
            "epoch,train/loss,val/loss,val/accuracy\n0,0.7,0.6,\n1,0.5,0.4,0.8\n"
        )
        if groups:
            lines = [f"test,{i},,{g}" for i, g in zip(images, groups, strict=True)]
            (path / "splits.csv").write_text("\n".join(["split,path,target,group", *lines]) + "\n")
        if rows is not None:
            (path / "predictions_test.csv").write_text(rows)
            return path
        targets = ["cat", "dog"] * len(images)
        rows = [
            f"{image},{target},dog,{1 - 0.2 * number},{0.2 * number}"
            for number, (image, target) in enumerate(zip(images, targets, strict=False))
        ]
        head = "path,target,predicted,probability/cat,probability/dog"
        (path / "predictions_test.csv").write_text("\n".join([head, *rows]) + "\n")
        return path

    return one
