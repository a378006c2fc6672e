"""The same run in one process and in several, with each way to start them."""

import csv
import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from medvision.run import main

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
TRAIN = str(ROOT / "train.py")
SMALL = (
    "trainer.accelerator=cpu",
    "trainer.precision=32",
    "trainer.max_epochs=1",
    "logger=csv",
    "data.image_size=32",
    "data.num_workers=0",
    "data.num_images=47",
    "data.val_fraction=0.15",
    "data.test_fraction=0.2",
    "model.base_channels=4",
)
TWO = ("trainer=ddp", "data.batch_size=4")
HOSTS = (*TWO, "trainer.devices=1", "trainer.num_nodes=2")
CLASSES = "experiment=chest_xray_cnn,brain_mri_cnn"

FAULTS = '''
"""Faults in the runs of these tests."""

import os
import torch
from pytorch_lightning import Callback
from medvision.errors import MedvisionError


class Fail(Callback):
    """Fails in one process at the end of the first step of runs with this seed."""

    def __init__(self, *, rank, fails_at, seed):
        self.rank, self.fails = rank, fails_at == seed

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if self.fails and trainer.global_rank == self.rank:
            raise MedvisionError("the data went away", where="x.png", hint="put it back")


class SameWeights(Callback):
    """Holds when every process has the same weights after each epoch, and they have moved."""

    def on_train_epoch_end(self, trainer, pl_module):
        flat = torch.cat([p.detach().flatten() for p in pl_module.parameters()])
        both = trainer.strategy.all_gather(flat)
        trainable = sum(p.requires_grad for p in pl_module.parameters())
        if not torch.equal(both[0], both[1]):
            raise MedvisionError("the processes have different weights")
        if trainer.is_global_zero:
            print("TRAINABLE", trainer.current_epoch, trainable, flush=True)
'''


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a command in an empty folder; remaining processes are killed at the end."""
    started = []
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "faults.py").write_text(FAULTS)

    def run(*command: str, environment: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        path = os.pathsep.join(filter(None, [str(tmp_path / "code"), os.environ.get("PYTHONPATH")]))
        process = subprocess.Popen(
            [sys.executable, *command],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": path, **(environment or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def finished(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Output and errors of a command that must succeed."""
    out, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return out, errors


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(min(probe.getsockname()[1], 60000))


def scores_of(run: Path) -> dict[str, float]:
    """All cells of metrics.csv except training values of single batches, and all test scores."""
    found: dict[str, float] = {}
    with (run / "metrics.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            found |= {f"{row['epoch']} {k}": float(v) if v else math.nan for k, v in row.items()}
    summary = json.loads((run / "summary.json").read_text())
    assert summary["status"] == "finished"
    for name, value in summary["metrics"].items():
        for end, number in enumerate(value if isinstance(value, list) else [value]):
            found[f"{name} {end}"] = math.nan if number is None else number
    return found


def runs_of(folder: Path) -> list[Path]:
    """Runs of the only command in a folder, in order."""
    (base,) = folder.glob("runs/multirun/*")
    return sorted(
        (path for path in base.iterdir() if path.is_dir()), key=lambda p: int(p.name.split("_")[0])
    )


def assert_the_same(several: Sequence[Path], one: Sequence[Path]) -> None:
    assert [run.name for run in several] == [run.name for run in one]
    for first, second in zip(several, one, strict=True):
        expected = scores_of(second)
        # A pixel whose logit differs in its last bit may lie in another group of bins. Calibration
        # slopes have no bounds, and those of a few images depend on every digit.
        near = {name: 1e-5 if "auroc_ci95" in name else 1e-6 for name in expected}
        far = {name: 1e-4 if "calibration_" in name else 0.0 for name in expected}
        assert scores_of(first) == {
            name: pytest.approx(value, abs=near[name], rel=far[name], nan_ok=True)
            for name, value in expected.items()
        }, first.name
        assert len([name for name in expected if " val/" in name]) >= 5
        splits = [(run / "splits.csv").read_text() for run in (first, second)]
        assert splits[0] == splits[1]


@pytest.fixture
def one_process(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., list[Path]]:
    """The runs of a command on one process, with the batches of both."""

    def run(*arguments: str) -> list[Path]:
        folder = tmp_path_factory.mktemp("one")
        monkeypatch.chdir(folder)
        assert main(["-m", *SMALL, "trainer=cpu", "data.batch_size=8", *arguments]) == 0
        return runs_of(folder)

    return run


def test_torchrun_trains_and_measures_a_unet_as_one_process_does(
    start: Callable[..., Any], one_process: Callable[..., list[Path]], tmp_path: Path
) -> None:
    arguments = ("experiment=polyp_unet", "model.batch_norm=false", "data.num_images=36,37,47")
    torchrun = ("-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port")
    out, _ = finished(start(*torchrun, free_port(), TRAIN, "-m", *SMALL, *TWO, *arguments))
    several, one = runs_of(tmp_path), one_process(*arguments)
    counts = [
        json.loads((run / "summary.json").read_text())["dataset"]["num_images"] for run in one
    ]
    assert [count["val"] for count in counts] == [7, 8, 9]
    assert_the_same(several, one)
    assert out.count("SYNTHETIC DATA") == 3
    assert out.count("epoch   1/1") == 3
    assert {path.name for path in tmp_path.iterdir()} == {"code", "runs"}


def test_two_hosts_train_and_measure_classes_as_one_process_does(
    start: Callable[..., Any], one_process: Callable[..., list[Path]], tmp_path: Path
) -> None:
    meet = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    command = (TRAIN, "-m", *SMALL, *HOSTS, CLASSES)
    hosts = [start(*command, environment={**meet, "NODE_RANK": str(rank)}) for rank in range(2)]
    out, _ = finished(hosts[0])
    assert finished(hosts[1]) == ("", "")
    assert out.count("SYNTHETIC DATA") == 2
    assert_the_same(runs_of(tmp_path), one_process(CLASSES))
    with (tmp_path / "runs" / "test_ledger.csv").open() as file:
        assert len(file.readlines()) == 3


def test_slurm_trains_and_measures_classes_as_one_process_does(
    start: Callable[..., Any], one_process: Callable[..., list[Path]], tmp_path: Path
) -> None:
    pytest.importorskip("submitit")
    program = (
        "import os, subprocess, submitit, sys\n"
        "def task(port, *command):\n"
        "    job = submitit.JobEnvironment()\n"
        "    own = {'SLURM_JOB_ID': '7', 'SLURM_STEP_ID': '0', 'SLURM_JOB_NAME': 'job',\n"
        "           'SLURM_NTASKS': str(job.num_tasks), 'SLURM_PROCID': str(job.global_rank),\n"
        "           'SLURM_LOCALID': str(job.local_rank), 'SLURM_NODEID': str(job.node),\n"
        "           'SLURM_NNODES': '1', 'SLURM_NTASKS_PER_NODE': '2',\n"
        "           'SLURM_NODELIST': '127.0.0.1', 'MASTER_PORT': port}\n"
        "    done = subprocess.run([sys.executable, *command], env={**os.environ, **own},\n"
        "                          capture_output=True, text=True)\n"
        "    return done.returncode, done.stdout, done.stderr\n"
        "executor = submitit.LocalExecutor(folder='logs')\n"
        "executor.update_parameters(tasks_per_node=2, timeout_min=5)\n"
        "for code, out, errors in executor.submit(task, *sys.argv[1:]).results():\n"
        "    print(code, repr(out), repr(errors))\n"
    )
    command = (TRAIN, "-m", *SMALL, *TWO, CLASSES)
    out, _ = finished(start("-c", program, free_port(), *command))
    first, second = out.splitlines()
    assert first.startswith("0 ")
    assert first.count("SYNTHETIC DATA") == 2
    assert second == "0 '' ''"
    assert_the_same(runs_of(tmp_path), one_process(CLASSES))


def test_a_sweep_continues_after_a_run_in_which_one_process_failed(
    start: Callable[..., Any], one_process: Callable[..., list[Path]], tmp_path: Path
) -> None:
    fail = (
        "+callbacks.fail={_target_: faults.Fail, rank: 1, fails_at: 0, seed: '${seed}'}",
        "experiment=polyp_unet",
        "model.batch_norm=false",
        "seed=0,1",
    )
    process = start(TRAIN, "-m", *SMALL, *TWO, *fail)
    out, errors = process.communicate(timeout=300)
    assert process.returncode == 2, errors
    assert errors == "error: the data went away (x.png); put it back [process 1]\n"
    failed, good = runs_of(tmp_path)
    assert json.loads((failed / "summary.json").read_text())["status"] == "failed"
    with (failed.parent / "multirun_runs.csv").open(newline="") as file:
        assert [row["status"] for row in csv.DictReader(file)] == ["failed", "finished"]
    assert out.count("SYNTHETIC DATA") == 2
    (expected,) = one_process("experiment=polyp_unet", "model.batch_norm=false", "seed=1")
    assert scores_of(good) == pytest.approx(scores_of(expected), abs=1e-6, nan_ok=True)


def test_a_frozen_backbone_trains_on_two_processes_as_on_one(
    start: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = (
        "experiment=brain_mri_efficientnet_b0",
        "model.dropout=0",
        "callbacks.finetuning.frozen_epochs=1",
        "trainer.max_epochs=2",
        "data.num_images=40",
    )
    small = [o for o in SMALL if not o.startswith(("model", "trainer.max", "data.num_images"))]
    same = "+callbacks.same._target_=faults.SameWeights"
    out, _ = finished(start(TRAIN, *small, *TWO, *options, same, "run_dir=two"))
    monkeypatch.chdir(tmp_path)
    assert main([*small, *options, "trainer=cpu", "data.batch_size=8", "run_dir=one"]) == 0
    frozen, all_of_it = (int(line.split()[2]) for line in out.splitlines() if "TRAINABLE" in line)
    assert (frozen, all_of_it) == (2, 149)
    rows = []
    for name in ("one", "two"):
        with (tmp_path / name / "metrics.csv").open(newline="") as file:
            rows.append(next(csv.DictReader(file)))
    for name in ("train/loss", "val/loss", "val/accuracy"):
        assert float(rows[1][name]) == pytest.approx(float(rows[0][name]), abs=1e-5)


def test_ctrl_c_ends_every_process_and_is_reported_once(
    start: Callable[..., Any], tmp_path: Path
) -> None:
    endless = [option for option in SMALL if "max_epochs" not in option]
    process = start(TRAIN, *endless, *TWO, "experiment=chest_xray_cnn", "trainer.max_epochs=100000")
    deadline_s = time.monotonic() + 120
    while not list(tmp_path.glob("runs/*/*/checkpoints/best.ckpt")):
        assert time.monotonic() < deadline_s, "no checkpoint was written"
        assert process.poll() is None
        time.sleep(0.1)
    others = [pid for pid in children_of(process.pid) if TRAIN in command_of(pid)]
    assert len(others) == 1
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.strip().splitlines()[-1] == "interrupted"
    assert errors.count("interrupted") == 1
    (run,) = tmp_path.glob("runs/*/*")
    assert json.loads((run / "summary.json").read_text())["status"] == "interrupted"
    assert not any(Path(f"/proc/{pid}").exists() for pid in others)


def children_of(pid: int) -> list[int]:
    return [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def command_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text()
