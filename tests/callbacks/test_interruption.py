import signal
from types import SimpleNamespace
from typing import Any

import pytest

from medvision.callbacks import FiniteLoss, Interruption
from medvision.errors import MedvisionError, Stopped


class Strategy:
    """Stand-in for two processes, with given answers of the others."""

    def __init__(self, others: bool) -> None:
        self.others, self.wanted = others, 0

    def reduce_boolean_decision(self, decision: bool, all: bool = True) -> bool:  # noqa: A002
        self.wanted += 1
        return decision and self.others if all else decision or self.others

    def broadcast(self, value: Any) -> Any:
        return value


def trainer_of(*, others: bool | None = None, **changes: Any) -> Any:
    state = {
        "is_last_batch": False,
        "fit_loop": SimpleNamespace(_should_accumulate=lambda: False),
        "world_size": 1 if others is None else 2,
        "is_global_zero": True,
        "current_epoch": 0,
        "strategy": Strategy(bool(others)),
    }
    return SimpleNamespace(**{**state, **changes})


class Files:
    def __init__(self) -> None:
        self.saved = 0

    def save(self, trainer: Any) -> None:
        self.saved += 1


def watcher(
    signum: int | None = None, *, every_minutes: float | None = None, finite: Any = None
) -> tuple[Interruption, Files]:
    files: Any = Files()
    callback = Interruption(
        requested=lambda: signum, checkpoints=files, finite=finite, every_minutes=every_minutes
    )
    callback.on_train_start(trainer_of(), None)  # type: ignore[arg-type]
    return callback, files


def step(callback: Interruption, trainer: Any, batch_idx: int = 0) -> None:
    callback.on_train_batch_end(trainer, None, None, None, batch_idx)  # type: ignore[arg-type]


def test_nothing_is_saved_without_a_request() -> None:
    callback, files = watcher()
    step(callback, trainer_of())
    assert files.saved == 0


def test_a_requested_stop_follows_the_saved_state() -> None:
    callback, files = watcher(signal.SIGINT)
    with pytest.raises(Stopped) as stopped:
        step(callback, trainer_of())
    assert (files.saved, stopped.value.signum) == (1, signal.SIGINT)


@pytest.mark.parametrize(
    "busy",
    [
        {"is_last_batch": True},
        {"fit_loop": SimpleNamespace(_should_accumulate=lambda: True)},
    ],
    ids=["last batch", "gradients are being added up"],
)
def test_a_state_that_cannot_be_resumed_is_not_saved(busy: dict[str, Any]) -> None:
    callback, files = watcher(signal.SIGINT, every_minutes=1e-9)
    step(callback, trainer_of(**busy))
    assert files.saved == 0


def test_the_end_of_an_epoch_needs_no_further_file() -> None:
    callback, files = watcher(signal.SIGTERM)
    with pytest.raises(Stopped):
        callback.on_train_epoch_end(trainer_of(), None)  # type: ignore[arg-type]
    assert files.saved == 0


def test_the_state_is_saved_every_few_minutes_and_training_continues() -> None:
    callback, files = watcher(every_minutes=1e-9)
    step(callback, trainer_of())
    step(callback, trainer_of(), 1)
    assert files.saved == 2
    callback, files = watcher(every_minutes=60)
    step(callback, trainer_of())
    assert files.saved == 0


def test_no_state_is_saved_after_a_nan_loss() -> None:
    finite = FiniteLoss()
    finite.all_finite = ~finite.all_finite
    callback, files = watcher(signal.SIGTERM, finite=finite)
    strategy = SimpleNamespace(reduce_boolean_decision=lambda decision, **_: decision)
    with pytest.raises(MedvisionError, match="became NaN or infinite"):
        step(callback, trainer_of(strategy=strategy))
    assert files.saved == 0


def test_all_processes_end_together_whichever_got_the_signal() -> None:
    callback, files = watcher(None)
    with pytest.raises(Stopped) as stopped:
        step(callback, trainer_of(others=True))
    assert (files.saved, stopped.value.signum) == (1, signal.SIGTERM)


def test_processes_exchange_requests_about_once_a_second() -> None:
    callback, _ = watcher(None)
    trainer = trainer_of(others=False)
    for batch_idx in range(100):  # steps of no time at all
        step(callback, trainer, batch_idx)
    assert trainer.strategy.wanted <= 2 * 4
