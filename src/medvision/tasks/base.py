"""Training step, epoch log and optimizer shared by all tasks."""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar, Protocol

import torch
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics import Metric

from medvision.errors import MedvisionError
from medvision.types import Batch, Stage


class MeanLoss(Metric):
    """Mean of the batch losses, weighted by their numbers of rows.

    torchmetrics' ``MeanMetric`` either checks for NaN, which waits for the device, or ignores the
    weights (``nan_strategy="disable"``, 1.9). NaN without any rows.
    """

    is_differentiable = False
    full_state_update = False

    total: Tensor
    num_rows: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", default=torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("num_rows", default=torch.tensor(0), dist_reduce_fx="sum")

    def update(self, loss: Tensor, num_rows: Tensor | int) -> None:
        """Add the loss, a scalar, of ``num_rows`` rows; 0 rows have no effect."""
        weighted = loss * num_rows
        if isinstance(num_rows, Tensor):  # 0 times NaN would be NaN
            weighted = torch.where(num_rows > 0, weighted, 0.0)
        self.total = self.total + weighted
        self.num_rows = self.num_rows + num_rows

    def compute(self) -> Tensor:
        """Return the mean, a float32 scalar."""
        return self.total / self.num_rows


def sync_through(trainer: Trainer, module: nn.Module) -> None:
    """Make every metric below ``module`` compute over all processes of the trainer.

    torchmetrics itself only supports ``torch.distributed``, which the processes of an XLA device do
    not have: the trainer's strategy also connects those. Must be called in the launched processes,
    and again for each trainer. The states of a metric must have the same shape in all processes.

    Args:
        trainer: Its strategy gathers the states; nothing is gathered for a single process.
        module: Contains metrics, at any depth.
    """
    several = trainer.world_size > 1
    gather = partial(_gather, trainer.strategy.all_gather, trainer.world_size) if several else None
    for metric in module.modules():
        if isinstance(metric, Metric):
            metric.dist_sync_fn = gather
            metric.distributed_available_fn = partial(bool, several)  # picklable


def _gather(
    all_gather: Callable[[Tensor], Tensor],
    world_size: int,
    state: Tensor,
    group: Any = None,  # noqa: ARG001  passed by torchmetrics, None for all
) -> list[Tensor]:
    """Gather the state (...) of every process.

    DDP stacks the gathered states, XLA concatenates them along the first axis: with a leading axis
    of length one, both give the same numbers in the same order.
    """
    together = all_gather(state.unsqueeze(0))
    return list(together.reshape(world_size, *state.shape).unbind())


def fused(optimizer: Callable[[Any], Optimizer]) -> Callable[[Any], Optimizer]:
    """Make an optimizer of torch update each parameter in a single pass over the memory.

    On one core a step of Adam on 58 M parameters takes 0.08 s instead of 0.62 s (torch 2.9).
    Mixed precision in Lightning refuses to clip gradients of fused optimizers. An optimizer
    without a fused step, or one that states ``fused`` or ``foreach``, is returned as it is.
    """
    given = {"fused", "foreach", "differentiable"}
    if not isinstance(optimizer, partial) or given & set(optimizer.keywords):
        return optimizer
    known = inspect.signature(optimizer.func).parameters
    return partial(optimizer, fused=True) if "fused" in known else optimizer


Plain = str | int | float | bool | None | list["Plain"] | dict[str, "Plain"]


class Schedule(Protocol):
    """Factory of a learning-rate schedule for an optimizer, or None."""

    def __call__(self, optimizer: Optimizer, *, total_steps: int) -> dict[str, Any] | None:
        """Return Lightning's description of the schedule."""
        ...


class Task(LightningModule):
    """Fit one network with one loss, and measure it the same way at every stage.

    Logs ``{stage}/loss``, every ``{stage}/{metric}`` and the learning rate ``lr`` once per epoch,
    over all rows of all processes. Rows with index -1 pad a batch of validation or test and are
    ignored.

    Args:
        model: Maps images (N, C, H, W) to logits.
        loss: Maps (logits, target) to a scalar.
        metrics: Creates the metric of one stage, updated with (logits, target) and computing
            a value for each name.
        optimizer: Given the parameters, or groups of them, returns the optimizer.
        scheduler: Given the optimizer and the number of steps, returns a schedule or None.
        metadata: Plain values written into every checkpoint, enough to use it elsewhere.
        backbone_lr_factor: Ratio of the learning rate of the parameters that may start from
            pretrained weights to that of the others, which ``model.head_modules()`` names.

    Raises:
        MedvisionError: If a factor is given, but the model has no backbone.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        loss: Callable[[Tensor, Tensor], Tensor],
        metrics: Callable[[], Metric],
        optimizer: Callable[[Any], Optimizer],
        scheduler: Schedule | None = None,
        metadata: Mapping[str, Plain] | None = None,
        backbone_lr_factor: float = 1.0,
    ) -> None:
        super().__init__()
        if backbone_lr_factor != 1 and not hasattr(model, "head_modules"):
            raise MedvisionError(
                f"{type(model).__name__} has no backbone",
                where="task.backbone_lr_factor",
                hint="leave it at 1.0, or use a model that takes weights",
            )
        self.model = model
        self.loss = loss
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.metadata = dict(metadata or {})
        self.backbone_lr_factor = backbone_lr_factor
        # Three attributes: a ModuleDict cannot hold the key "train", which Module defines.
        self.train_metrics, self.val_metrics, self.test_metrics = metrics(), metrics(), metrics()
        self.train_loss, self.val_loss, self.test_loss = MeanLoss(), MeanLoss(), MeanLoss()

    kind: ClassVar[str]
    """Kind of data that the task learns from, such as ``segmentation``."""

    def forward(self, image: Tensor) -> Tensor:
        return self.model(image)

    def score_names(self) -> list[str]:
        """Names of the values logged for each stage, including ``loss``."""
        unwrapped = type(self.val_metrics).compute  # avoids the warning on no updates
        return ["loss", *unwrapped(self.val_metrics)]

    def loss_examples(self) -> list[tuple[Tensor, Tensor]]:
        """Logits and targets as the loss receives them; a run calls it with each before it starts.

        If empty, the first batch shows whether the loss fits.
        """
        return []

    def setup(self, stage: str) -> None:
        sync_through(self.trainer, self)

    def on_fit_start(self) -> None:
        """Give each further process its own random stream, so that dropout differs between them."""
        if self.global_rank > 0:
            torch.manual_seed(torch.initial_seed() + self.global_rank)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss, _ = self._step(batch, "train")
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self._step(batch, "val")[1]

    def test_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self._step(batch, "test")[1]

    def on_train_epoch_end(self) -> None:
        self._log_epoch("train")
        # as a tensor on the CPU: Lightning would move a number to the device and read it back
        self.log("lr", torch.tensor(self.trainer.optimizers[0].param_groups[0]["lr"]))

    def on_validation_epoch_end(self) -> None:
        self._log_epoch("val")

    def on_test_epoch_end(self) -> None:
        self._log_epoch("test")

    def configure_optimizers(self) -> Any:
        optimizer = self._make_optimizer()
        if self.scheduler is None:
            return optimizer
        total_steps = int(self.trainer.estimated_stepping_batches)
        schedule = self.scheduler(optimizer, total_steps=total_steps)
        return optimizer if schedule is None else {"optimizer": optimizer, "lr_scheduler": schedule}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["medvision"] = self.metadata

    def _make_optimizer(self) -> Optimizer:
        """All parameters, including those frozen at first; the backbone is a group of its own."""
        parameters = list(self.parameters())
        make, clipped = self.optimizer, self._trainer is not None and self.trainer.gradient_clip_val
        if not clipped and {parameter.device.type for parameter in parameters} == {"cpu"}:
            make = fused(make)
        if self.backbone_lr_factor == 1:
            return make(parameters)
        backbone = backbone_parameters(self.model)
        known = {id(parameter) for parameter in backbone}
        head = [parameter for parameter in parameters if id(parameter) not in known]
        optimizer = make([{"params": head}, {"params": backbone}])
        optimizer.param_groups[1]["lr"] *= self.backbone_lr_factor
        return optimizer

    def metrics_of(self, stage: Stage) -> Metric:
        """Metric that a stage updates."""
        return getattr(self, f"{stage}_metrics")

    def loss_of(self, stage: Stage) -> MeanLoss:
        """Mean loss that a stage updates."""
        return getattr(self, f"{stage}_loss")

    def _step(self, batch: Batch, stage: Stage) -> tuple[Tensor, Tensor]:
        """Loss and logits of a batch, which also updates the scores of its stage."""
        logits = self(batch["image"])
        loss = self.loss(logits, batch["target"])
        # only validation and test are padded
        num_rows = len(batch["image"]) if stage == "train" else (batch["index"] >= 0).sum()
        self.loss_of(stage).update(loss.detach(), num_rows)
        self.metrics_of(stage).update(logits.detach(), batch["target"])
        return loss, logits

    def _log_epoch(self, stage: Stage) -> None:
        loss, metrics = self.loss_of(stage), self.metrics_of(stage)
        values = {"loss": loss.compute()}
        if metrics.update_called:  # mixed images have a loss, but no label for scores
            values |= metrics.compute()
        self.log_dict({f"{stage}/{name}": value for name, value in _fetch(values).items()})
        loss.reset()
        metrics.reset()


def backbone_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Parameters outside the head of a network that may start from pretrained weights."""
    in_head = {id(p) for module in _head_modules(model) for p in module.parameters()}
    return [parameter for parameter in model.parameters() if id(parameter) not in in_head]


def backbone_modules(model: nn.Module) -> list[nn.Module]:
    """Modules outside the head that hold parameters or buffers of their own."""
    in_head = {id(m) for module in _head_modules(model) for m in module.modules()}
    return [
        module
        for module in model.modules()
        if id(module) not in in_head
        and (module._parameters or module._buffers or not list(module.children()))
    ]


def _head_modules(model: nn.Module) -> list[nn.Module]:
    return model.head_modules()  # type: ignore[operator]


def _fetch(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Move scalars to the CPU, those of another device in one transfer."""
    away = [name for name, value in values.items() if value.device.type != "cpu"]
    if not away:
        return dict(values)
    fetched = torch.stack([values[name].float() for name in away]).cpu()
    return {**values, **dict(zip(away, fetched.unbind(), strict=True))}
