"""Setup and use of torch-xla by a run, in separate processes."""

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


def test_a_rehearsal_compiles_for_the_cpu_and_records_the_causes(installed: None) -> None:
    rehearsal()
    assert os.environ["PJRT_DEVICE"] == "CPU"
    assert os.environ["PT_XLA_DEBUG_LEVEL"] == "2"
    written = Path(os.environ[VARIABLE])
    assert written.parent.is_dir()
    assert not written.exists()


def test_every_rehearsal_of_a_process_uses_the_same_trace_file(
    installed: None,
) -> None:
    rehearsal()
    first = os.environ.pop(VARIABLE)  # a run restores its changes
    rehearsal()
    assert os.environ[VARIABLE] == first


def test_torch_xla_settings_of_the_user_are_kept(installed: None) -> None:
    own = {"PJRT_DEVICE": "cpu", "XLA_FLAGS": "--own", VARIABLE: "/tmp/own.txt"}
    own["PT_XLA_DEBUG_LEVEL"] = "1"
    os.environ.update(own)
    rehearsal()
    assert {name: os.environ[name] for name in own} == own


def test_files_of_a_rehearsal_are_removed_at_the_end() -> None:
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


def test_a_rehearsal_without_torch_xla_is_a_one_line_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xla, "INSTALLED", False)
    with pytest.raises(MedvisionError) as raised:
        rehearsal()
    assert str(raised.value) == (
        "torch-xla is not installed (trainer=tpu_rehearsal);"
        " on Linux x86-64, run: pip install -e '.[tpu]' (in the medvision checkout)"
    )
    assert raised.value.exit_code == 2
    assert not set(SET) & set(os.environ)


def test_a_rehearsal_with_pjrt_device_tpu_is_a_one_line_error(installed: None) -> None:
    os.environ["PJRT_DEVICE"] = "TPU"
    with pytest.raises(MedvisionError) as raised:
        rehearsal()
    assert str(raised.value) == (
        "expected PJRT_DEVICE=CPU for a rehearsal, got TPU (trainer=tpu_rehearsal);"
        " unset PJRT_DEVICE, or use trainer=tpu"
    )


def test_without_torch_xla_there_is_no_tpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xla, "INSTALLED", False)
    monkeypatch.setattr(xla, "TPU_DEVICES", (os.devnull,))
    assert not tpu_is_present()


@pytest.mark.parametrize(("number", "expected"), [(2, "2"), (0, None)])
def test_the_hosts_of_a_pod_are_numbered_as_by_other_launchers(
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

results = {}


def options(cores, **given):
    class Accelerator(xla_trainer.RehearsalAccelerator):
        auto_device_count = staticmethod(lambda: cores)
    Accelerator.__qualname__ = "XLAAccelerator"
    xla_trainer.XLAAccelerator = Accelerator
    xla_trainer.tpu.configure_one_chip_topology = lambda: results.update(one=1)
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


results["all"] = options(4, devices="auto")
results["all by number"] = options(4, devices=4, precision="32-true")
results["two of four"] = options(4, devices=2)
assert "one" not in results
results["one of four"] = options(4, devices=1)
assert "one" in results  # the other chips are not used
results["two to rehearse"] = options(1, devices=2, rehearsal=True)
device = torch.device("xla", 0)
results["whole"], results["broken"] = read(False, device), read(True, device)
results["stopped early"] = read(False, device, stop=1)
results["used before"] = options(4, devices="auto")
print(json.dumps(results))
"""


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    """Output of ``TRAINER``."""
    done = subprocess.run(
        [sys.executable, "-c", TRAINER], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_a_tpu_is_used_by_one_process_or_one_per_core(results: dict[str, Any]) -> None:
    assert results["all"] == ["AllXlaDevices", "MixedBfloat16", "bf16-mixed", 4, 1]
    assert results["all by number"] == ["AllXlaDevices", "XLAPrecision", "32-true", 4, 1]
    assert results["one of four"] == ["OneXlaDevice", "MixedBfloat16", "bf16-mixed", 1, 1]


@pytest.mark.slow
def test_a_part_of_a_tpu_is_refused_in_one_line(results: dict[str, Any]) -> None:
    assert results["two of four"] == (
        "expected one or all of the 4 TPU cores of this host, got 2 (trainer.devices);"
        " set it to auto or 1"
    )
    assert results["two to rehearse"] == (
        "expected one device for a rehearsal, got 2 (trainer.devices); leave it out"
    )


@pytest.mark.slow
def test_all_cores_are_refused_to_a_process_that_has_used_one(results: dict[str, Any]) -> None:
    assert results["used before"] == (
        "torch-xla has already used the TPU in this process and cannot share it"
        " (trainer.devices); start the runs separately, or with trainer.devices=1"
    )


@pytest.mark.slow
def test_batches_reach_the_device_in_order_and_errors_are_raised(
    results: dict[str, Any],
) -> None:
    batches = [["xla", row, row + 1] for row in range(0, 12, 2)]
    assert results["whole"] == batches * 2
    assert results["broken"] == [*batches[:4], "row 9 is gone"] * 2
    assert results["stopped early"] == batches[:2] * 2
