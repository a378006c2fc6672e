"""Monitor XLA during a fit: compilations, operators that fall back, steps that wait."""

from types import ModuleType
from typing import Any, ClassVar

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint

from medvision.console import counted
from medvision.errors import MedvisionError
from medvision.hardware import xla_trace
from medvision.hardware.xla_trace import Trigger
from medvision.types import Batch

FOUND_SOMETHING = 1
"""Exit code of a check with findings."""


READ = "aten::_local_scalar_dense"
"""Operator of ``.item()``, which XLA does not have."""

SOMEWHERE = "task, model, loss or metrics"
"""Place reported if torch-xla named no line."""


WARM_STEPS = 2
"""The first step creates the optimizer's state, so that the second is another graph: if an epoch
is one step, the second epoch compiles too."""


class XlaWatch(Checkpoint):
    """Count compilations and fallbacks by epoch; in a rehearsal, end the fit if a TPU would stall.

    A TPU stalls if a batch differs in shape from the one before it, if a graph is compiled after
    the first epoch, if XLA lacks an operator (PyTorch computes it on the host, and both wait), and
    if a step reads a value from the device. Inherits from ``Checkpoint`` only for Lightning's
    callback order: runs after the task has logged its epoch.

    Args:
        strict: If True, a stall ends the fit, and the counts of each epoch are printed.

    Attributes:
        compilations_per_epoch: Graphs compiled in each epoch, including its validation.
        fallbacks: Number of fallbacks of each operator, including those that only XLA's CPU
            backend lacks.
    """

    def __init__(self, *, strict: bool) -> None:
        self.strict = strict
        self.compilations_per_epoch: list[int] = []
        self.fallbacks: dict[str, int] = {}
        self._compiled = self._reads = 0
        self._before: dict[str, int] = {}
        self._first_step = self._steps_before = 0
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._compiled_in: str | None = None
        self._earlier: list[Trigger] = []

    HANDED_OVER: ClassVar = ("compilations_per_epoch", "fallbacks")
    _xla: ClassVar[ModuleType] = xla_trace

    def summary(self) -> dict[str, Any]:
        """Section ``xla`` of ``summary.json``."""
        return {
            "compilations_per_epoch": list(self.compilations_per_epoch),
            "fallbacks": dict(self.fallbacks),
        }

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._compiled = self._xla.count_compilations()
        self._before = self._xla.find_fallbacks()
        self._xla.take_triggers()
        self._first_step = trainer.global_step

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._steps_before = trainer.global_step - self._first_step

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        self._start_step("train", batch)

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._check_reads(f"training step {trainer.global_step + 1}")

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        self._end_step(f"step {batch_idx + 1}")

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Batch, *args: int
    ) -> None:
        self._start_step("val", batch)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        *args: int,
    ) -> None:
        step = f"validation step {batch_idx + 1}"
        self._check_reads(step)
        self._end_step(step)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._xla.finish_step()  # work of resetting metrics belongs to this epoch
        self._check_fallbacks(f"the end of epoch {trainer.current_epoch + 1}")
        self._count_epoch(trainer)

    def _start_step(self, stage: str, batch: Batch) -> None:
        self._reads = self._xla.count_reads()
        self._earlier += self._xla.take_triggers()  # reads between steps do not stall a step
        shape = tuple(batch["image"].shape)
        known = self._shapes.setdefault(stage, shape)
        if shape != known:
            self._stall(
                f"{stage} batches changed shape from {known} to {shape}, and each shape is compiled"
                " separately",
                where="data",
                hint="pad the last batch or drop it",
            )

    def _check_reads(self, step: str) -> None:
        """Report a stall if the host has read from the device since the step began."""
        self._check_fallbacks(step)
        if self._xla.count_reads() > self._reads:
            self._stall_reading(step)

    def _stall_reading(self, step: str) -> None:
        places = [t.place for t in self._xla.take_triggers() if t.read and t.place]
        self._stall(
            f"{step} reads a value from the device, which waits for all earlier operations",
            where=places[0] if places else SOMEWHERE,
            hint="keep .item(), float(), .cpu() and branches on tensors out of steps",
        )

    def _end_step(self, step: str) -> None:
        self._check_fallbacks(step)
        if self._compiled_in is None and self._xla.count_compilations() > self._compiled:
            self._compiled_in = step

    def _check_fallbacks(self, step: str) -> None:
        """Report a stall if the step has used an operator that XLA lacks."""
        self.fallbacks = {
            name: count - self._before.get(name, 0)
            for name, count in self._xla.find_fallbacks().items()
            if count > self._before.get(name, 0)
        }
        lacking = [name for name in self.fallbacks if name not in self._xla.NOT_ON_XLA_CPU]
        if lacking == [READ]:
            self._stall_reading(step)
        elif lacking:
            places = [t.place for t in self._xla.take_triggers() if t.read and t.place]
            self._stall(
                f"XLA lacks {', '.join(lacking)}: the host computes it while the device waits",
                where=places[-1] if places else SOMEWHERE,
                hint="use operators whose result has a fixed shape, and read values once per epoch",
            )

    def _count_epoch(self, trainer: Trainer) -> None:
        compiled = self._xla.count_compilations()
        count, self._compiled = compiled - self._compiled, compiled
        self.compilations_per_epoch.append(count)
        triggers, self._earlier = [*self._earlier, *self._xla.take_triggers()], []
        step, self._compiled_in = self._compiled_in, None
        done = f"epoch {trainer.current_epoch + 1} compiled {counted(count, 'graph')}"
        if self.strict:
            trainer.print(f"xla: {done}; fell back: {_listed(self.fallbacks)}")
        if count and self._steps_before >= WARM_STEPS:
            places = [t.place for t in triggers if t.kind == "compilation" and t.place]
            self._stall(
                f"{done} again, first in {step or 'its end'}: the computation differs from the"
                " first epoch",
                where=places[-1] if places else SOMEWHERE,
                hint="look for a shape, a branch or a Python number that changes between steps",
            )

    def _stall(self, what: str, *, where: str, hint: str) -> None:
        if self.strict:
            raise MedvisionError(what, where=where, hint=hint, exit_code=FOUND_SOMETHING)


def _listed(fallbacks: dict[str, int]) -> str:
    return (
        ", ".join(f"{name} {counted(count, 'time')}" for name, count in fallbacks.items())
        or "nothing"
    )
