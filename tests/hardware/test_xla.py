"""What a run on XLA needs before torch-xla starts, and how it uses it: in processes of its own."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from medvision.errors import MedvisionError
from medvision.hardware import announce_host, choose_plan, tpu_is_present, xla
from medvision.hardware.xla_trace import VARIABLE

SET = ("PJRT_DEVICE", "XLA_FLAGS", "PT_XLA_DEBUG_LEVEL", VARIABLE, "NODE_RANK")


@pytest.fixture(autouse=True)
def _no_environment_of_xla() -> Iterator[None]:
    before = {name: os.environ.pop(name) for name in SET if name in os.environ}
    yield
    for name in SET:
        os.environ.pop(name, None)
    os.environ.update(before)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xla, "INSTALLED", True)


def rehearsal() -> None:
    choose_plan(
        accelerator="tpu_rehearsal",
        precision="auto",
        memory_format="auto",
        deterministic="auto",
    )


def test_a_rehearsal_compiles_for_the_cpu_and_keeps_why(installed: None) -> None:
    rehearsal()
    assert os.environ["PJRT_DEVICE"] == "CPU"
    assert os.environ["PT_XLA_DEBUG_LEVEL"] == "2"
    written = Path(os.environ[VARIABLE])
    assert written.parent.is_dir()
    assert not written.exists()


def test_every_rehearsal_of_a_process_writes_to_the_file_that_torch_xla_keeps_to(
    installed: None,
) -> None:
    rehearsal()
    first = os.environ.pop(VARIABLE)  # a run takes back what it has set
    rehearsal()
    assert os.environ[VARIABLE] == first


def test_what_the_user_has_told_torch_xla_is_kept(installed: None) -> None:
    own = {"PJRT_DEVICE": "cpu", "XLA_FLAGS": "--own", VARIABLE: "/tmp/own.txt"}
    own["PT_XLA_DEBUG_LEVEL"] = "1"
    os.environ.update(own)
    rehearsal()
    assert {name: os.environ[name] for name in own} == own


def test_what_a_rehearsal_writes_is_gone_when_the_program_ends() -> None:
    program = (
        "import os\n"
        "from medvision.hardware import xla\n"
        "xla.INSTALLED = True\n"
        "xla.choose_xla_cpu()\n"
        f"name = os.environ[{VARIABLE!r}]\n"
        "open(name, 'w').write('x')\n"
        "print(name)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert not Path(done.stdout.strip()).parent.exists()


def test_a_rehearsal_without_torch_xla_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xla, "INSTALLED", False)
    with pytest.raises(MedvisionError) as raised:
        rehearsal()
    assert str(raised.value) == (
        "torch-xla is not installed (trainer=tpu_rehearsal);"
        " on Linux x86-64, run: pip install -e '.[tpu]' (in the medvision checkout)"
    )
    assert raised.value.exit_code == 2
    assert not set(SET) & set(os.environ)


def test_a_rehearsal_where_a_tpu_is_meant_is_one_line(installed: None) -> None:
    os.environ["PJRT_DEVICE"] = "TPU"
    with pytest.raises(MedvisionError) as raised:
        rehearsal()
    assert str(raised.value) == (
        "PJRT_DEVICE is TPU, and a rehearsal runs on the CPU (trainer=tpu_rehearsal);"
        " unset PJRT_DEVICE, or use trainer=tpu"
    )


def test_without_torch_xla_there_is_no_tpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xla, "INSTALLED", False)
    monkeypatch.setattr(xla, "TPU_DEVICES", (os.devnull,))
    assert not tpu_is_present()


@pytest.mark.parametrize(("number", "expected"), [(2, "2"), (0, None)])
def test_the_hosts_of_a_pod_are_numbered_as_other_launchers_number_them(
    monkeypatch: pytest.MonkeyPatch, number: int, expected: str | None
) -> None:
    internal, tpu = ModuleType("torch_xla._internal"), ModuleType("torch_xla._internal.tpu")
    tpu.worker_id = lambda: number  # type: ignore[attr-defined]
    internal.tpu = tpu  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch_xla", ModuleType("torch_xla"))
    monkeypatch.setitem(sys.modules, "torch_xla._internal", internal)
    monkeypatch.setitem(sys.modules, "torch_xla._internal.tpu", tpu)
    announce_host()
    assert os.environ.get("NODE_RANK") == expected


TRAINER = """
import json, os, pickle
from multiprocessing.reduction import ForkingPickler

os.environ["PJRT_DEVICE"] = "CPU"
import torch
from pytorch_lightning import Trainer
from torch.utils.data import DataLoader, Dataset

from medvision.hardware import xla_trainer
from medvision.hardware.xla_trainer import DeviceLoader, trainer_options
from medvision.errors import MedvisionError

told = {}


def options(cores, **given):
    class Accelerator(xla_trainer.RehearsalAccelerator):
        auto_device_count = staticmethod(lambda: cores)
    Accelerator.__qualname__ = "XLAAccelerator"
    xla_trainer.XLAAccelerator = Accelerator
    xla_trainer.tpu.configure_one_chip_topology = lambda: told.update(one=1)
    xla_trainer.XLAAccelerator.__module__ = xla_trainer.__name__
    try:
        made = trainer_options(**{"rehearsal": False, "precision": "bf16-mixed", **given})
    except MedvisionError as error:
        return str(error)
    trainer = Trainer(**made, logger=False, enable_checkpointing=False)
    again = pickle.loads(ForkingPickler.dumps(trainer))
    names = [type(x).__name__ for x in (again.strategy, again.strategy.precision_plugin)]
    return [*names, again.strategy.precision_plugin.precision, made["devices"], made["num_nodes"]]


class Rows(Dataset):
    def __len__(self):
        return 12

    def __getitem__(self, row):
        if row == 9 and self.broken:
            raise OSError("row 9 is gone")
        return torch.tensor(row)


def read(broken, device, *, stop=None):
    rows, seen = Rows(), []
    rows.broken = broken
    loader = DeviceLoader(DataLoader(rows, batch_size=2), device)
    for _ in range(2):
        try:
            for number, batch in enumerate(loader):
                seen.append([batch.device.type, *batch.cpu().tolist()])
                if stop == number:
                    break
        except OSError as error:
            seen.append(str(error))
    return seen


told["all"] = options(4, devices="auto")
told["all by number"] = options(4, devices=4, precision="32-true")
told["two of four"] = options(4, devices=2)
assert "one" not in told
told["one of four"] = options(4, devices=1)
assert "one" in told  # the other chips are left alone
told["two to rehearse"] = options(1, devices=2, rehearsal=True)
device = torch.device("xla", 0)
told["whole"], told["broken"] = read(False, device), read(True, device)
told["left early"] = read(False, device, stop=1)
told["used before"] = options(4, devices="auto")
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def told() -> dict[str, Any]:
    """What ``TRAINER`` saw."""
    done = subprocess.run(
        [sys.executable, "-c", TRAINER], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_a_tpu_is_used_by_one_process_or_by_one_for_each_core(told: dict[str, Any]) -> None:
    assert told["all"] == ["AllXlaDevices", "MixedBfloat16", "bf16-mixed", 4, 1]
    assert told["all by number"] == ["AllXlaDevices", "XLAPrecision", "32-true", 4, 1]
    assert told["one of four"] == ["OneXlaDevice", "MixedBfloat16", "bf16-mixed", 1, 1]


@pytest.mark.slow
def test_a_part_of_a_tpu_is_one_line(told: dict[str, Any]) -> None:
    assert told["two of four"] == (
        "this host has 4 TPU cores, and one or all of them can be used, not 2 (trainer.devices);"
        " set it to auto or 1"
    )
    assert told["two to rehearse"] == (
        "a rehearsal has one device, not 2 (trainer.devices); leave it out"
    )


@pytest.mark.slow
def test_all_cores_are_refused_to_a_process_that_has_used_one(told: dict[str, Any]) -> None:
    assert told["used before"] == (
        "torch-xla has used the TPU in this process before, and cannot share it now"
        " (trainer.devices); start the runs one by one, or with trainer.devices=1"
    )


@pytest.mark.slow
def test_batches_reach_the_device_in_order_and_an_error_ends_them_aloud(
    told: dict[str, Any],
) -> None:
    batches = [["xla", row, row + 1] for row in range(0, 12, 2)]
    assert told["whole"] == batches * 2
    assert told["broken"] == [*batches[:4], "row 9 is gone"] * 2
    assert told["left early"] == batches[:2] * 2
