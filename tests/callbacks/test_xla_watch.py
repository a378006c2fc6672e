import pickle
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import pytest
import torch

from medvision.callbacks import XlaWatch
from medvision.errors import MedvisionError
from medvision.hardware.xla_trace import Trigger

Act = Callable[["Counters"], None] | None
UPSAMPLE = "aten::upsample_bilinear2d"


class Counters:
    """Stand-in for ``xla_counters``, with values set by the test."""

    NOT_ON_XLA_CPU: ClassVar = {UPSAMPLE: "a reason"}

    def __init__(self) -> None:
        self.compiled = self.read = 0
        self.fell_back: dict[str, int] = {}
        self.triggers: list[Trigger] = []
        self.at_sync = 0

    def count_compilations(self) -> int:
        return self.compiled

    def count_reads(self) -> int:
        return self.read

    def find_fallbacks(self) -> dict[str, int]:
        return dict(self.fell_back)

    def finish_step(self) -> None:
        self.compiled, self.at_sync = self.compiled + self.at_sync, 0

    def take_triggers(self) -> list[Trigger]:
        taken, self.triggers = self.triggers, []
        return taken


class Fit:
    """Calls that Lightning makes for a fit with some steps and one validation step per epoch."""

    def __init__(self, *, strict: bool) -> None:
        self.xla, self.watch = Counters(), XlaWatch(strict=strict)
        self.trainer: Any = SimpleNamespace(current_epoch=0, global_step=0, print=print)
        self.module = cast(Any, None)

    def start(self) -> None:
        self.watch.on_train_start(self.trainer, self.module)

    def epoch(
        self,
        *,
        in_step: Act = None,
        after_step: Act = None,
        in_validation: Act = None,
        num_steps: int = 2,
        rows: int = 4,
        val_rows: int = 4,
    ) -> None:
        """``in_step`` and ``after_step`` happen with the last step."""
        self.watch.on_train_epoch_start(self.trainer, self.module)
        for number in range(num_steps):
            self._step(number, rows, *((in_step, after_step) if number + 1 == num_steps else ()))
        batch: Any = {"image": torch.zeros(val_rows, 3, 8, 8)}
        self.watch.on_validation_batch_start(self.trainer, self.module, batch, 0, 0)
        if in_validation is not None:
            in_validation(self.xla)
        self.watch.on_validation_batch_end(self.trainer, self.module, None, batch, 0, 0)
        self.watch.on_train_epoch_end(self.trainer, self.module)
        self.trainer.current_epoch += 1

    def _step(self, number: int, rows: int, within: Act = None, after: Act = None) -> None:
        batch: Any = {"image": torch.zeros(rows, 3, 8, 8)}
        self.watch.on_train_batch_start(self.trainer, self.module, batch, number)
        if within is not None:
            within(self.xla)
        self.watch.on_after_backward(self.trainer, self.module)
        self.trainer.global_step += 1
        if after is not None:
            after(self.xla)
        self.watch.on_train_batch_end(self.trainer, self.module, None, batch, number)


@pytest.fixture
def fit(monkeypatch: pytest.MonkeyPatch) -> Any:
    def make(*, strict: bool) -> Fit:
        made = Fit(strict=strict)
        monkeypatch.setattr(XlaWatch, "_xla", made.xla)
        return made

    return make


def compiles(count: int, place: str = "") -> Act:
    def act(xla: Counters) -> None:
        xla.compiled += count
        xla.triggers += [Trigger(kind="compilation", read=False, place=place)] * count

    return act


def reads(place: str, *, item: bool = False) -> Act:
    """A value is read; with ``.item()`` this is also an operator."""

    def act(xla: Counters) -> None:
        xla.read += 1
        if item:
            xla.fell_back["aten::_local_scalar_dense"] = 1
        xla.triggers += [Trigger(kind="execution", read=True, place=place)]

    return act


def falls_back(name: str, place: str = "") -> Act:
    def act(xla: Counters) -> None:
        xla.fell_back[name] = xla.fell_back.get(name, 0) + 1
        xla.triggers += [Trigger(kind="execution", read=True, place=place)]

    return act


def stall(fit: Fit, **what: Any) -> str:
    """Error message that ends the epoch, with the exit code of a check that found something."""
    with pytest.raises(MedvisionError) as raised:
        fit.epoch(**what)
    assert raised.value.exit_code == 1
    return str(raised.value)


def test_each_epoch_counts_its_own_compilations_without_those_before_the_fit(
    fit: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    run = fit(strict=True)
    run.xla.compiled = 5  # by a fit before this one
    run.start()
    run.xla.at_sync = 1  # work left over at the end of the epoch belongs to it
    run.epoch(in_step=compiles(4), in_validation=compiles(2))
    run.epoch()
    run.epoch()
    assert run.watch.compilations_per_epoch == [7, 0, 0]
    assert run.watch.summary() == {"compilations_per_epoch": [7, 0, 0], "fallbacks": {}}
    assert capsys.readouterr().out.splitlines() == [
        "xla: epoch 1 compiled 7 graphs; fell back: nothing",
        "xla: epoch 2 compiled 0 graphs; fell back: nothing",
        "xla: epoch 3 compiled 0 graphs; fell back: nothing",
    ]


def test_stalls_on_a_tpu_are_counted_and_do_not_end_the_fit(
    fit: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    run = fit(strict=False)
    run.start()
    run.epoch(in_step=compiles(4))
    run.epoch(in_step=reads("", item=True), rows=3)
    run.epoch(in_step=compiles(2), in_validation=falls_back("aten::nonzero"), val_rows=1)
    assert run.watch.summary() == {
        "compilations_per_epoch": [4, 0, 2],
        "fallbacks": {"aten::_local_scalar_dense": 1, "aten::nonzero": 1},
    }
    assert capsys.readouterr().out == ""


def test_a_value_read_in_a_training_step_is_named_with_its_line(fit: Any) -> None:
    run = fit(strict=True)
    run.start()
    run.epoch()
    line = stall(run, in_step=reads("training_step (task.py:7)"))
    assert line == (
        "training step 4 reads a value from the device, which waits for all earlier operations"
        " (training_step (task.py:7));"
        " keep .item(), float(), .cpu() and branches on tensors out of steps"
    )


def test_item_is_reported_as_a_read_and_not_as_a_missing_operator(fit: Any) -> None:
    run = fit(strict=True)
    run.start()
    line = stall(run, in_step=reads("training_step (task.py:7)", item=True))
    assert line.startswith("training step 2 reads a value from the device")
    assert "(training_step (task.py:7))" in line
    assert "XLA lacks" not in line


def test_a_value_read_in_a_validation_step_is_named_too(fit: Any) -> None:
    run = fit(strict=True)
    run.start()
    line = stall(run, in_validation=reads("update (metric.py:9)"))
    assert line.startswith("validation step 1 reads a value from the device")
    assert "(update (metric.py:9))" in line


def test_a_read_between_steps_is_not_a_stall(fit: Any) -> None:
    run = fit(strict=True)
    run.start()
    run.epoch(after_step=reads("on_train_batch_end (finite_loss.py:40)"))
    between = reads("on_train_batch_end (finite_loss.py:40)")
    line = stall(run, after_step=between, in_validation=reads("update (metric.py:9)"))
    assert line.startswith("validation step 1 reads a value from the device")
    assert "(update (metric.py:9))" in line


def test_a_read_without_a_line_from_torch_xla_names_where_to_look(fit: Any) -> None:
    run = fit(strict=True)
    run.start()
    assert "(task, model, loss or metrics)" in stall(run, in_step=reads(""))


def test_reads_before_the_fit_are_not_counted(fit: Any) -> None:
    run = fit(strict=True)
    run.xla.fell_back, run.xla.read = {"aten::_local_scalar_dense": 1}, 1
    run.start()
    run.epoch()
    assert run.watch.fallbacks == {}


def test_an_operator_that_xla_lacks_is_named_with_its_line(fit: Any) -> None:
    run = fit(strict=True)
    run.start()
    line = stall(run, in_validation=falls_back("aten::nonzero", "update (metric.py:9)"))
    assert line == (
        "XLA lacks aten::nonzero: the host computes it while the device waits"
        " (update (metric.py:9));"
        " use operators whose result has a fixed shape, and read values once per epoch"
    )
    assert run.watch.fallbacks == {"aten::nonzero": 1}


def test_operators_missing_only_in_the_cpu_backend_are_counted_but_do_not_stall(
    fit: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    run = fit(strict=True)
    run.start()
    run.epoch(in_step=falls_back(UPSAMPLE))
    run.epoch(in_step=falls_back(UPSAMPLE))
    assert run.watch.fallbacks == {UPSAMPLE: 2}
    assert capsys.readouterr().out.splitlines()[-1] == (
        f"xla: epoch 2 compiled 0 graphs; fell back: {UPSAMPLE} 2 times"
    )


@pytest.mark.parametrize(("stage", "rows"), [("train", {"rows": 3}), ("val", {"val_rows": 3})])
def test_a_batch_of_another_shape_is_named_with_both_shapes(
    fit: Any, stage: str, rows: dict[str, int]
) -> None:
    run = fit(strict=True)
    run.start()
    run.epoch()
    assert stall(run, **rows) == (
        f"{stage} batches changed shape from (4, 3, 8, 8) to (3, 3, 8, 8), and each shape is"
        " compiled separately (data); pad the last batch or drop it"
    )


def test_training_and_validation_may_each_have_a_shape_of_their_own(fit: Any) -> None:
    run = fit(strict=True)
    run.start()
    run.epoch(val_rows=2)
    run.epoch(val_rows=2)
    assert run.watch.compilations_per_epoch == [0, 0]


def test_a_compilation_after_the_first_epoch_is_named_with_step_and_line(fit: Any) -> None:
    run = fit(strict=True)
    run.start()
    run.epoch(in_step=compiles(9, "first (task.py:1)"))
    line = stall(run, in_step=compiles(2, "training_step (task.py:7)"))
    assert line == (
        "epoch 2 compiled 2 graphs again, first in step 2: the computation differs from the"
        " first epoch (training_step (task.py:7));"
        " look for a shape, a branch or a Python number that changes between steps"
    )
    assert run.watch.compilations_per_epoch == [9, 2]


def test_a_compilation_at_the_end_of_an_epoch_is_reported_there(fit: Any) -> None:
    run = fit(strict=True)
    run.start()
    run.epoch()
    run.xla.at_sync = 1
    assert "epoch 2 compiled 1 graph again, first in its end: " in stall(run)


def test_the_first_epoch_of_a_resumed_run_may_compile(fit: Any) -> None:
    run = fit(strict=True)
    run.trainer.current_epoch, run.trainer.global_step = 3, 30
    run.start()
    run.epoch(in_step=compiles(9))
    assert run.watch.compilations_per_epoch == [9]
    line = stall(run, in_validation=compiles(1))
    assert "epoch 5 compiled 1 graph again, first in validation step 1" in line


def test_with_one_step_per_epoch_the_second_epoch_may_compile_too(fit: Any) -> None:
    run = fit(strict=True)
    run.start()
    run.epoch(num_steps=1, in_step=compiles(5))
    run.epoch(num_steps=1, in_step=compiles(1))  # the optimizer has a state now
    assert run.watch.compilations_per_epoch == [5, 1]
    assert "epoch 3 compiled 1 graph again" in stall(run, num_steps=1, in_step=compiles(1))


def test_the_watch_itself_needs_no_torch_xla_and_can_be_pickled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "torch_xla", None)  # cannot be imported
    watch = pickle.loads(pickle.dumps(XlaWatch(strict=True)))
    assert watch.strict
