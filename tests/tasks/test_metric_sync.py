"""Two processes are two threads here, whose strategies gather as Lightning's do."""

import copy
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Barrier
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from medvision.metrics import ClassificationScores, SegmentationScores
from medvision.tasks.base import MeanLoss, sync_through

FORMS = {"ddp": torch.stack, "xla": torch.cat}


class Link:
    """Exchange gathered values between two threads."""

    def __init__(self, form: str) -> None:
        self.join, self.barrier = FORMS[form], Barrier(2, timeout=20)
        self.given: list[Any] = [None, None]

    def all_gather(self, rank: int, tensor: Tensor) -> Tensor:
        self.given[rank] = tensor
        self.barrier.wait()
        together = self.join(list(self.given))
        self.barrier.wait()
        return together

    def trainer(self, rank: int) -> Any:
        """Stand-in for Lightning's trainer with the attributes that the sync uses."""
        strategy = SimpleNamespace(all_gather=partial(self.all_gather, rank))
        return SimpleNamespace(world_size=2, strategy=strategy)


def on_two(form: str, modules: list[nn.Module], compute: Callable[[Any], Any]) -> list[Any]:
    """Results that each of two processes computes from its own module."""
    link = Link(form)
    for rank, module in enumerate(modules):
        sync_through(link.trainer(rank), module)
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(compute, modules))


@pytest.mark.parametrize("form", FORMS)
def test_counts_of_two_processes_add_up_to_those_of_one(form: str) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 1, 8, 8, generator=generator)
    target = torch.randint(0, 2, (6, 8, 8), generator=generator)
    metrics = [SegmentationScores(class_names=["a", "b"]) for _ in range(3)]
    for metric, rows in zip(metrics, (slice(0, 6, 2), slice(1, 6, 2), slice(6)), strict=True):
        metric.update(logits[rows], target[rows])
    *parts, alone = metrics
    for found in on_two(form, parts, lambda metric: metric.compute()):
        for name, score in alone.compute().items():
            torch.testing.assert_close(found[name], score, rtol=0, atol=0, equal_nan=True)
    for found in on_two(form, parts, lambda metric: metric.roc()):
        assert all(torch.equal(a, b) for a, b in zip(found, alone.roc(), strict=True))
    assert parts[0].num_images[0] == 3  # its own, as before


@pytest.mark.parametrize("form", FORMS)
def test_rows_of_two_processes_are_scored_together(form: str) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(12, 3, generator=generator)
    target = torch.randint(0, 3, (12,), generator=generator)
    metrics = [ClassificationScores(class_names=["a", "b", "c"]) for _ in range(3)]
    for metric, rows in zip(metrics, (slice(0, 12, 2), slice(1, 12, 2), slice(12)), strict=True):
        for batch in torch.arange(12)[rows].split(2):
            metric.update(logits[batch], target[batch])
    *parts, alone = metrics
    expected = {name: score.item() for name, score in alone.compute().items()}
    for found in on_two(form, parts, lambda metric: metric.compute()):
        scores = {name: score.item() for name, score in found.items()}
        assert scores == pytest.approx(expected, abs=1e-6, nan_ok=True)


@pytest.mark.parametrize("form", FORMS)
def test_a_mean_weighs_the_rows_of_all_processes(form: str) -> None:
    means = [MeanLoss(), MeanLoss()]
    means[0].update(torch.tensor(1.0), torch.tensor(3))
    means[1].update(torch.tensor(5.0), torch.tensor(1))
    assert on_two(form, means, lambda mean: mean.compute().item()) == [2.0, 2.0]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric")
def test_lists_that_are_empty_in_all_processes_are_gathered_too(form: str) -> None:
    metrics = [ClassificationScores(class_names=["a", "b"]) for _ in range(2)]
    for found in on_two(form, metrics, lambda metric: metric.compute()):
        assert torch.stack(list(found.values())).isnan().all()


def test_metrics_at_any_depth_are_synced_and_reset_for_a_single_process() -> None:
    holder = nn.Sequential(nn.Sequential(MeanLoss()), nn.ReLU())
    mean = holder[0][0]
    sync_through(Link("ddp").trainer(0), holder)
    assert mean.dist_sync_fn is not None
    assert mean.distributed_available_fn()
    alone: Any = SimpleNamespace(world_size=1, strategy=SimpleNamespace(all_gather=None))
    sync_through(alone, holder)
    assert mean.dist_sync_fn is None
    assert not mean.distributed_available_fn()
    mean.update(torch.tensor(3.0), 2)
    assert copy.deepcopy(mean).compute() == 3.0
