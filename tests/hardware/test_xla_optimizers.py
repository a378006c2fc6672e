"""Optimizer numbers as tensors; the CPU replaces the device."""

import copy
import importlib
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def xla() -> ModuleType:
    """Code for XLA; only the process that runs these tests waits for its import."""
    return importlib.import_module("medvision.hardware.xla_trainer")


def train(make: Callable[..., Optimizer], prepare: Callable[[Optimizer], None]) -> Any:
    """Six steps of a cosine to 0: the weights, and the rate within and after each step."""
    torch.manual_seed(0)
    model = nn.Linear(4, 2)
    optimizer = make(model.parameters())
    prepare(optimizer)
    scheduler = LambdaLR(optimizer, lambda step: 1 - step / 6)
    inside: list[Any] = []
    optimizer.register_step_pre_hook(lambda o, *_: inside.append(o.param_groups[0]["lr"]))
    after = []
    for step in range(6):
        optimizer.zero_grad()
        model(torch.ones(3, 4) * step).square().sum().backward()
        optimizer.step()
        after.append(optimizer.param_groups[0]["lr"])
        scheduler.step()
    return model.weight, inside, after


@pytest.mark.parametrize("make", [partial(SGD, lr=0.5), partial(SGD, lr=0.01, momentum=0.9)])
def test_an_optimizer_without_tensor_support_keeps_its_numbers(xla: ModuleType, make: Any) -> None:
    def prepare(optimizer: Optimizer) -> None:
        xla.keep_numbers_on_device([optimizer], CPU)
        xla.send_rate(optimizer, CPU)

    weight, inside, _ = train(make, prepare)
    expected, _, _ = train(make, lambda optimizer: None)
    torch.testing.assert_close(weight, expected, rtol=0, atol=0)
    assert all(isinstance(rate, float) for rate in inside)


@pytest.mark.parametrize("make", [partial(Adam, lr=0.1), partial(AdamW, lr=0.1, weight_decay=0.1)])
def test_the_rate_is_a_tensor_in_a_step_and_a_number_after_it(
    xla: ModuleType, monkeypatch: pytest.MonkeyPatch, make: Any
) -> None:
    # torch allows this on a CPU only while compiling
    adam = importlib.import_module("torch.optim.adam")  # not an attribute of its package
    monkeypatch.setattr(adam, "_get_capturable_supported_devices", lambda: ["cpu"])

    def prepare(optimizer: Optimizer) -> None:
        xla.keep_numbers_on_device([optimizer], CPU)
        xla.send_rate(optimizer, CPU)

    weight, inside, after = train(partial(make, foreach=False), prepare)
    expected, _, rates = train(make, lambda optimizer: None)
    torch.testing.assert_close(weight, expected)
    assert all(isinstance(rate, Tensor) for rate in inside)
    assert after == rates
    assert all(isinstance(rate, float) for rate in after)


def test_the_stored_state_is_that_of_a_cpu_run(xla: ModuleType) -> None:
    model = nn.Linear(2, 1)
    optimizer = Adam(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    plain = copy.deepcopy(optimizer.state_dict())
    xla.keep_numbers_on_device([optimizer], CPU)
    assert optimizer.param_groups[0]["capturable"]
    stored = xla.as_stored_elsewhere(optimizer.state_dict())
    assert stored["param_groups"] == plain["param_groups"]
    assert optimizer.param_groups[0]["capturable"]
