import dataclasses
from typing import Any, get_args

import pytest
import torch

from medvision.errors import MedvisionError
from medvision.hardware import (
    REHEARSAL,
    choose_plan,
    describe_hardware,
    peak_memory_mb,
    tpu_is_present,
)
from medvision.hardware.plan import PRECISION, XLA_PRECISIONS, Chip

AUTO: dict[str, Any] = {
    "accelerator": "auto",
    "precision": "auto",
    "memory_format": "auto",
    "deterministic": "auto",
}


@pytest.fixture
def no_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("medvision.hardware.plan.tpu_is_present", lambda: False)


def test_the_table_covers_every_chip() -> None:
    assert set(PRECISION) == set(get_args(Chip))


@pytest.mark.parametrize(("has_bf16", "precision"), [(True, "bf16-mixed"), (False, "32-true")])
def test_a_cpu_uses_bf16_if_its_hardware_supports_it(
    monkeypatch: pytest.MonkeyPatch, no_accelerator: None, has_bf16: bool, precision: str
) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    monkeypatch.setattr("medvision.hardware.plan._cpu_has_bf16", lambda: has_bf16)
    plan = choose_plan(**AUTO)
    assert plan.accelerator == "cpu"
    assert plan.precision == precision
    assert plan.channels_last
    assert plan.fused_optimizer
    assert plan.cpu_bf16 is has_bf16
    assert plan.deterministic is False


def test_requested_settings_are_used(no_accelerator: None) -> None:
    plan = choose_plan(
        **{**AUTO, "precision": 32, "memory_format": "contiguous", "deterministic": True}
    )
    assert plan.precision == "32"
    assert not plan.channels_last
    assert plan.deterministic is True


def test_a_gpu_comes_before_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medvision.hardware.plan.tpu_is_present", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    plan = choose_plan(**AUTO)
    assert (plan.accelerator, plan.precision, plan.deterministic) == ("gpu", "bf16-mixed", "warn")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    older = choose_plan(**AUTO)
    assert older.precision == "16-mixed"
    assert not older.fused_optimizer  # the gradient scaler must see gradients before the update


def test_a_tpu_comes_before_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medvision.hardware.plan.tpu_is_present", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    plan = choose_plan(**AUTO)
    assert plan.accelerator == "tpu"
    assert plan.precision == "bf16-mixed"
    assert plan.xla
    assert not plan.channels_last


@pytest.fixture
def xla_is_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch-xla is not set up here; see ``test_xla``."""
    monkeypatch.setattr("medvision.hardware.plan.choose_xla_cpu", lambda: None)


def test_a_rehearsal_plans_what_a_tpu_does(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr("medvision.hardware.plan.choose_xla_cpu", lambda: asked.append("cpu"))
    monkeypatch.setattr("medvision.hardware.plan.tpu_is_present", lambda: True)
    rehearsal = choose_plan(**{**AUTO, "accelerator": REHEARSAL})
    assert asked == ["cpu"]
    assert rehearsal.accelerator == "tpu_rehearsal"
    assert dataclasses.replace(rehearsal, accelerator="tpu") == choose_plan(**AUTO)
    assert rehearsal.xla
    assert rehearsal.precision == "bf16-mixed"
    assert not rehearsal.channels_last
    assert not rehearsal.fused_optimizer
    assert not rehearsal.cpu_bf16
    assert rehearsal.deterministic is False


@pytest.mark.parametrize(
    ("asked", "precision"),
    [(32, "32-true"), ("32", "32-true"), ("32-true", "32-true"), ("bf16-mixed", "bf16-mixed")],
)
def test_xla_computes_in_32_bits_or_in_bf16_by_autocast(
    xla_is_ready: None, asked: str | int, precision: str
) -> None:
    plan = choose_plan(**{**AUTO, "accelerator": REHEARSAL, "precision": asked})
    assert plan.precision == precision
    assert precision in XLA_PRECISIONS


@pytest.mark.parametrize("precision", ["bf16-true", "16-mixed", "16-true", "64-true", 16])
def test_xla_refuses_other_precisions(xla_is_ready: None, precision: str | int) -> None:
    with pytest.raises(MedvisionError) as raised:
        choose_plan(**{**AUTO, "accelerator": REHEARSAL, "precision": precision})
    assert str(raised.value) == (
        f"expected the precision 32-true or bf16-mixed on a TPU, got {precision}"
        " (trainer.precision);"
        " use auto"
    )
    assert raised.value.exit_code == 2


def test_only_xla_has_a_plan_for_xla(no_accelerator: None) -> None:
    assert not choose_plan(**AUTO).xla
    assert not choose_plan(**{**AUTO, "accelerator": "cpu", "precision": 32}).xla


@pytest.mark.parametrize(("accelerator", "name"), [("gpu", "GPU"), ("tpu", "TPU")])
def test_a_missing_device_is_an_error(
    no_accelerator: None, monkeypatch: pytest.MonkeyPatch, accelerator: str, name: str
) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr("medvision.hardware.xla.INSTALLED", True)
    with pytest.raises(MedvisionError, match=f"no {name} was found") as raised:
        choose_plan(**{**AUTO, "accelerator": accelerator})
    assert f"trainer={accelerator}" in str(raised.value)


def test_a_tpu_without_torch_xla_is_reported_with_the_install_command(
    no_accelerator: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medvision.hardware.xla.INSTALLED", False)
    with pytest.raises(MedvisionError, match=r"torch-xla is not installed \(trainer=tpu\)"):
        choose_plan(**{**AUTO, "accelerator": "tpu"})


def test_torch_xla_is_not_used_without_tpu_hardware(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medvision.hardware.xla.TPU_DEVICES", ("/nowhere",))
    monkeypatch.delenv("PJRT_DEVICE", raising=False)

    def fail() -> bool:
        raise AssertionError("asked")

    monkeypatch.setattr(
        "pytorch_lightning.accelerators.XLAAccelerator.is_available", staticmethod(fail)
    )
    assert tpu_is_present() is False


def test_the_hardware_is_described() -> None:
    facts = describe_hardware()
    assert facts["cores"] >= 1
    assert facts["memory_mb"] > 500
    assert facts["processor"]
    assert peak_memory_mb("cpu") > 50
