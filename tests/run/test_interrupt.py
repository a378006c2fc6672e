import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_ctrl_c_marks_the_run_and_keeps_its_checkpoints(tmp_path: Path) -> None:
    command = [
        sys.executable,
        str(ROOT / "train.py"),
        "experiment=polyp_unet",
        "trainer.max_epochs=10000",
        "data.image_size=32",
        "data.num_images=24",
        "data.num_workers=0",
        "model.base_channels=2",
        "logger=csv",
    ]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    )
    deadline_s = time.monotonic() + 120
    while not list(tmp_path.glob("runs/*/*/checkpoints/best.ckpt")):
        assert time.monotonic() < deadline_s, "no checkpoint was written"
        assert process.poll() is None, process.stderr
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.strip().splitlines()[-1] == "interrupted"
    (run,) = tmp_path.glob("runs/*/*")
    assert json.loads((run / "summary.json").read_text())["status"] == "interrupted"
    assert (run / "checkpoints" / "last.ckpt").exists()
