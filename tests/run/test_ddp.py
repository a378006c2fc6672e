import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_two_processes_make_one_run(tmp_path: Path) -> None:
    command = [
        sys.executable,
        str(ROOT / "train.py"),
        "experiment=polyp_unet",
        "trainer=ddp",
        "trainer.accelerator=cpu",
        "trainer.max_epochs=2",
        "data.image_size=32",
        "data.num_images=45",
        "data.batch_size=4",
        "data.num_workers=0",
        "model.base_channels=4",
        "logger=csv",
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=tmp_path, timeout=300
    )
    assert done.returncode == 0, done.stderr
    (run,) = tmp_path.glob("runs/*/*")
    summary = json.loads((run / "summary.json").read_text())
    assert summary["status"] == "finished"
    assert len((run / "metrics.csv").read_text().splitlines()) == 3
    rows = (run / "predictions_test.csv").read_text().splitlines()[1:]
    assert len({row.split(",")[0] for row in rows}) == summary["dataset"]["num_images"]["test"]
    assert len(rows) == summary["dataset"]["num_images"]["test"]
    assert done.stdout.count("SYNTHETIC DATA") == 1
