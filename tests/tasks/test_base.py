from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode

from medvision.losses import CrossEntropy
from medvision.tasks import ClassificationTask
from medvision.tasks.base import _fetch, fused
from medvision.types import IGNORE_INDEX


def task() -> ClassificationTask:
    return ClassificationTask(
        model=nn.Linear(2, 1),
        loss=CrossEntropy(num_classes=2),
        optimizer=partial(torch.optim.SGD, lr=0.1),
        class_names=["a", "b"],
    )


def batch(index: list[int]) -> Any:
    """Rows of these indices, of which -1 is padding."""
    rows = torch.tensor(index)
    target = torch.where(rows < 0, IGNORE_INDEX, rows % 2).to(torch.uint8)
    image = torch.stack([rows.clamp_min(0).float(), torch.ones(len(index))], dim=1)
    return {"image": image, "target": target, "index": rows}


def scores(module: ClassificationTask, stage: Any, batches: list[list[int]]) -> dict[str, float]:
    loss, metrics = module.loss_of(stage), module.metrics_of(stage)
    loss.reset(), metrics.reset()
    with torch.no_grad():
        for index in batches:
            module._step(batch(index), stage)
    found = {"loss": loss.compute(), **metrics.compute()}
    return {name: value.item() for name, value in found.items()}


@pytest.mark.parametrize("stage", ["val", "test"])
def test_a_batch_is_weighted_by_its_real_rows_and_padding_is_ignored(stage: Any) -> None:
    module = task()
    whole = scores(module, stage, [[0, 1, 2, 3, 4]])
    padded = scores(module, stage, [[0, 1, 2], [3, 4, -1], [-1, -1, -1]])
    assert padded == pytest.approx(whole, abs=1e-6, nan_ok=True)


def test_nan_outputs_for_padding_do_not_change_scores() -> None:
    class Inverse(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return 1 / image[:, :1] - 1 / image[:, :1]

    module = task()
    whole = scores(module, "val", [[2, 1]])
    module.model, real = Inverse(), module.model
    with torch.no_grad():
        module._step(batch([-1, -1]), "val")  # 1 / 0 - 1 / 0
    module.model = real
    found = {"loss": module.val_loss.compute(), **module.val_metrics.compute()}
    assert {name: value.item() for name, value in found.items()} == pytest.approx(
        whole, abs=1e-6, nan_ok=True
    )


@pytest.mark.parametrize("rank", [0, 1, 3])
def test_each_process_draws_its_own_random_numbers_and_the_first_is_unchanged(
    rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ClassificationTask, "global_rank", rank)
    module = task()
    torch.manual_seed(7)
    torch.rand(3)
    module.on_fit_start()
    drawn = torch.rand(3)
    torch.manual_seed(7 + rank)
    if rank == 0:
        torch.rand(3)
    assert torch.equal(drawn, torch.rand(3))


def test_values_of_a_device_are_fetched_in_one_transfer() -> None:
    class Count(TorchDispatchMode):
        moved = 0

        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            kwargs = kwargs or {}
            self.moved += "_to_copy" in str(func) and kwargs.get("device") is not None
            return func(*args, **kwargs)

    with FakeTensorMode():
        values = {name: torch.empty((), device="cuda") for name in "abc"}
        values["d"] = torch.empty(())
        with Count() as count:
            fetched = _fetch(values)
    assert list(fetched) == list("abcd")
    assert {value.device.type for value in fetched.values()} == {"cpu"}
    assert count.moved == 1


def test_values_of_the_cpu_stay_as_they_are() -> None:
    values = {"a": torch.tensor(0.1), "b": torch.tensor(float("nan"))}
    fetched = _fetch(values)
    assert all(fetched[name] is value for name, value in values.items())


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD])
def test_the_fused_step_has_the_weights_of_the_plain_one(kind: type[Optimizer]) -> None:
    networks = [nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 1)) for _ in range(2)]
    networks[1].load_state_dict(networks[0].state_dict())
    plain = partial(kind, lr=1e-2, weight_decay=1e-2)
    optimizers = [
        make(network.parameters())
        for make, network in zip((plain, fused(plain)), networks, strict=True)
    ]
    assert optimizers[1].param_groups[0]["fused"] is True
    images = torch.randn(8, 5)
    for _ in range(5):
        for network, optimizer in zip(networks, optimizers, strict=True):
            optimizer.zero_grad()
            network(images).square().mean().backward()
            optimizer.step()
    for one, other in zip(*(network.parameters() for network in networks), strict=True):
        torch.testing.assert_close(one, other)


def test_optimizers_without_a_fused_step_or_with_a_choice_stay_as_they_are() -> None:
    for make in (
        partial(torch.optim.NAdam, lr=1e-2),
        partial(torch.optim.Adam, foreach=True),
        partial(torch.optim.Adam, fused=False),
        lambda parameters: torch.optim.Adam(parameters),
    ):
        assert fused(make) is make
