"""Training step, epoch log and optimizer that all tasks share."""

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
    """Mean of the batches' losses, each weighing as many rows as it has.

    torchmetrics' ``MeanMetric`` either looks for NaN, for which it waits for the device, or
    (``nan_strategy="disable"``, 1.9) leaves the weights out. Without a row it is NaN.
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
        """Count the loss, a scalar, of ``num_rows`` rows; of 0 rows it counts nowhere."""
        weighted = loss * num_rows
        if isinstance(num_rows, Tensor):  # 0 times a loss that is no number would be no number
            weighted = torch.where(num_rows > 0, weighted, 0.0)
        self.total = self.total + weighted
        self.num_rows = self.num_rows + num_rows

    def compute(self) -> Tensor:
        """Return the mean, a float32 scalar."""
        return self.total / self.num_rows


def sync_through(trainer: Trainer, module: nn.Module) -> None:
    """Let every metric below ``module`` compute over all processes of the trainer.

    torchmetrics itself knows ``torch.distributed`` only, which the processes of an XLA device do
    not have: the trainer's strategy connects those too. To be called in the launched processes,
    and again for each trainer. The states of a metric must have one shape in all processes.

    Args:
        trainer: Its strategy gathers the states; where it has one process, nothing is gathered.
        module: Holds metrics, at any depth.
    """
    several = trainer.world_size > 1
    gather = partial(_gather, trainer.strategy.all_gather, trainer.world_size) if several else None
    for metric in module.modules():
        if isinstance(metric, Metric):
            metric.dist_sync_fn = gather
            metric.distributed_available_fn = partial(bool, several)  # can be pickled


def _gather(
    all_gather: Callable[[Tensor], Tensor],
    world_size: int,
    state: Tensor,
    group: Any = None,  # noqa: ARG001  torchmetrics names one, None for all
) -> list[Tensor]:
    """The state (...) of every process.

    DDP stacks what it gathers, and XLA puts it end to end along the first axis: with an axis of
    length one before the state's own, both hold the same numbers in the same order.
    """
    together = all_gather(state.unsqueeze(0))
    return list(together.reshape(world_size, *state.shape).unbind())


Plain = str | int | float | bool | None | list["Plain"] | dict[str, "Plain"]


class Schedule(Protocol):
    """Makes a learning-rate schedule for an optimizer, or none."""

    def __call__(self, optimizer: Optimizer, *, total_steps: int) -> dict[str, Any] | None:
        """Lightning's description of the schedule."""
        ...


class Task(LightningModule):
    """Fit one network with one loss, and measure it the same way at every stage.

    Logs ``{stage}/loss``, every ``{stage}/{metric}`` and the rate ``lr`` once per epoch, over all
    rows of all processes. Rows of index -1 pad a batch of validation or test and count nowhere.

    Args:
        model: Maps images (N, C, H, W) to logits.
        loss: Maps (logits, target) to a scalar.
        metrics: Makes the metric of one stage, updated with (logits, target) and computing
            a value for each name.
        optimizer: Given the parameters, or groups of them, returns the optimizer.
        scheduler: Given the optimizer and the number of steps, returns a schedule or None.
        metadata: Plain values written into every checkpoint, enough to use it elsewhere.
        backbone_lr_factor: Learning rate of the parameters that may start from weights over
            that of the others, which ``model.head_modules()`` names.

    Raises:
        MedvisionError: If the model has no backbone, and a factor is given for it.
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
    """Kind of data it learns from, such as ``segmentation``."""

    def forward(self, image: Tensor) -> Tensor:
        return self.model(image)

    def score_names(self) -> list[str]:
        """Names of what is logged for each stage, ``loss`` among them."""
        unwrapped = type(self.val_metrics).compute  # does not warn that nothing was counted yet
        return ["loss", *unwrapped(self.val_metrics)]

    def loss_examples(self) -> list[tuple[Tensor, Tensor]]:
        """Logits and targets as the loss receives them; a run calls it with each before it starts.

        Without any, the first batch shows whether the loss fits.
        """
        return []

    def setup(self, stage: str) -> None:
        sync_through(self.trainer, self)

    def on_fit_start(self) -> None:
        """Give each further process a stream of chance of its own: dropout differs between them."""
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
        # as a tensor on the CPU: Lightning would send a number to the device, and ask it back
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
        """All parameters, those frozen at first too; the backbone in a group of its own."""
        if self.backbone_lr_factor == 1:
            return self.optimizer(self.parameters())
        backbone = backbone_parameters(self.model)
        known = {id(parameter) for parameter in backbone}
        head = [parameter for parameter in self.parameters() if id(parameter) not in known]
        optimizer = self.optimizer([{"params": head}, {"params": backbone}])
        optimizer.param_groups[1]["lr"] *= self.backbone_lr_factor
        return optimizer

    def metrics_of(self, stage: Stage) -> Metric:
        """The metric that a stage updates."""
        return getattr(self, f"{stage}_metrics")

    def loss_of(self, stage: Stage) -> MeanLoss:
        """The mean loss that a stage updates."""
        return getattr(self, f"{stage}_loss")

    def _step(self, batch: Batch, stage: Stage) -> tuple[Tensor, Tensor]:
        """Loss and logits of a batch, counted in the scores of its stage."""
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
        if metrics.update_called:  # mixed images have a loss, but no label to be scored on
            values |= metrics.compute()
        self.log_dict({f"{stage}/{name}": value for name, value in _fetch(values).items()})
        loss.reset()
        metrics.reset()


def backbone_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Parameters outside the head of a network that can start from weights."""
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
    """Scalars on the CPU: those on another device in one transfer, instead of one each."""
    away = [name for name, value in values.items() if value.device.type != "cpu"]
    if not away:
        return dict(values)
    fetched = torch.stack([values[name].float() for name in away]).cpu()
    return {**values, **dict(zip(away, fetched.unbind(), strict=True))}
