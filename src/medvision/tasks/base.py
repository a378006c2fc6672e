"""Training step, epoch log and optimizer shared by all tasks."""

import inspect
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Protocol

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import Metric, MetricCollection

from medvision.errors import MedvisionError, first_line
from medvision.models import count_parameters
from medvision.types import IGNORE_INDEX, Batch, Stage, single_logit

LEARNING_RATE = 1e-4
"""Learning rate of Adam, the optimizer of a task that is given none."""

OwnMetrics = Metric | MetricCollection | Sequence[Metric] | Mapping[str, Metric]
"""Metrics of torchmetrics; without names they are called after their classes."""


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


def batch_of(batch: Any) -> Batch:
    """Return a batch of any data loader as a dict.

    Args:
        batch: A dict with ``image`` and ``target``, or a pair (image, target).

    Raises:
        MedvisionError: If it is neither.
    """
    if isinstance(batch, Mapping) and {"image", "target"} <= batch.keys():
        return batch  # type: ignore[return-value]
    if isinstance(batch, Sequence) and len(batch) == 2:
        image, target = batch
        return {"image": image, "target": target}  # type: ignore[typeddict-item]
    raise MedvisionError(
        f"expected batches (image, target) or dicts with image and target, got {_described(batch)}",
        where="data loader",
        hint="return a pair from the dataset",
    )


def image_of(batch: Any) -> Tensor:
    """Return the images of a batch for prediction, which may have no target.

    Args:
        batch: The images, or a dict with ``image``, or a sequence that starts with the images.

    Raises:
        MedvisionError: If it is none of them.
    """
    image = batch.get("image") if isinstance(batch, Mapping) else batch
    image = image[0] if isinstance(image, list | tuple) and image else image
    if isinstance(image, Tensor):
        return image
    raise MedvisionError(
        f"expected images, (image, ...) or dicts with image, got {_described(batch)}",
        where="data loader",
        hint="return the image from the dataset",
    )


def _described(batch: Any) -> str:
    if isinstance(batch, Mapping):
        return f"a dict with {', '.join(map(str, batch)) or 'no keys'}"
    if isinstance(batch, list | tuple):
        return f"a {type(batch).__name__} of {len(batch)}"
    return f"a {type(batch).__name__}"


class Task(LightningModule):
    """Fit one network with one loss, and measure it the same way at every stage.

    Logs ``{stage}/loss``, every ``{stage}/{metric}`` and the learning rate ``lr`` once per epoch,
    over all rows of all processes. A batch is a dict with ``image`` and ``target``, or a pair of
    them. Rows with index -1 pad a batch of validation or test and are ignored; without the key
    ``index`` no row is padding.

    Args:
        model: Maps images (N, C, H, W) to logits.
        loss: Maps (logits, target) to a scalar.
        metrics: Creates the metric of one stage, updated with (logits, target) and computing
            a value for each name.
        own_metrics: Further metrics, updated with (probabilities, target): probabilities of the
            second of two classes (N, ...), or of each class (N, K, ...).
        optimizer: Given the parameters, or groups of them, returns the optimizer; by default Adam
            with a learning rate of 1e-4.
        scheduler: Given the optimizer and ``total_steps``, returns a schedule or None; a scheduler
            of torch that takes only the optimizer is stepped after every epoch.
        metadata: Plain values written into every checkpoint, enough to use it elsewhere; by default
            taken from the network and the first training batch.
        backbone_lr_factor: Ratio of the learning rate of the parameters that may start from
            pretrained weights to that of the others, which ``model.head_modules()`` names.

    Raises:
        MedvisionError: If a part has the wrong type, a factor is given, but the model has no
            backbone, or two metrics have the same name.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        loss: Callable[[Tensor, Tensor], Tensor],
        metrics: Callable[[], Metric],
        own_metrics: OwnMetrics | None = None,
        optimizer: Callable[[Any], Optimizer] | None = None,
        scheduler: Schedule | Callable[[Optimizer], LRScheduler] | None = None,
        metadata: Mapping[str, Plain] | None = None,
        backbone_lr_factor: float = 1.0,
    ) -> None:
        super().__init__()
        if not isinstance(model, nn.Module):
            raise MedvisionError(
                f"expected a torch.nn.Module, got {type(model).__name__}",
                where="model",
                hint="give a network",
            )
        for name, part in (("loss", loss), ("optimizer", optimizer)):
            if part is not None and not callable(part):
                raise MedvisionError(
                    f"expected a function or a class, got an object of {type(part).__name__}",
                    where=name,
                    hint="give a loss of (logits, target)"
                    if name == "loss"
                    else "give a function of the parameters, such as partial(Adam, lr=1e-3)",
                )
        if backbone_lr_factor != 1 and not hasattr(model, "head_modules"):
            raise MedvisionError(
                f"{type(model).__name__} has no backbone",
                where="task.backbone_lr_factor",
                hint="leave it at 1.0, or use a model that takes weights",
            )
        self.model = model
        self.loss = loss
        self.optimizer = partial(Adam, lr=LEARNING_RATE) if optimizer is None else optimizer
        self.scheduler = scheduler
        self.metadata: dict[str, Any] = dict(metadata or {})
        self.backbone_lr_factor = backbone_lr_factor
        self._describes_itself = not self.metadata
        # Three attributes: a ModuleDict cannot hold the key "train", which Module defines.
        self.train_metrics, self.val_metrics, self.test_metrics = metrics(), metrics(), metrics()
        self.train_loss, self.val_loss, self.test_loss = MeanLoss(), MeanLoss(), MeanLoss()
        own = _collection(own_metrics, taken=self.score_names())
        self.train_own, self.val_own, self.test_own = own, own.clone(), own.clone()

    kind: ClassVar[str]
    """Kind of data that the task learns from, such as ``segmentation``."""

    class_names: Sequence[str] = ()
    """Name of each class; empty if the task has none."""

    def forward(self, image: Tensor) -> Tensor:
        """Map images (N, C, H, W) to logits.

        Raises:
            MedvisionError: If the images are uint8 and the network cannot take them.
        """
        try:
            return self.model(image)
        except RuntimeError as error:
            if image.dtype != torch.uint8 or not _NO_BYTES.search(str(error)):
                raise
            channels = image.shape[1] if image.ndim == 4 else "C"
            raise MedvisionError(
                f"{type(self.model).__name__} cannot take uint8 images: {first_line(error)}",
                where="data loader",
                hint="return floats in [0, 1] from the dataset, or wrap the network:"
                f" medvision.models.with_normalization(network, in_channels={channels})",
            ) from error

    def score_names(self) -> list[str]:
        """Names of the values logged for each stage, including ``loss``."""
        unwrapped = type(self.val_metrics).compute  # avoids the warning on no updates
        own = getattr(self, "val_own", None)
        return ["loss", *unwrapped(self.val_metrics), *(own or ())]

    def arguments(self) -> dict[str, Plain]:
        """Plain arguments with which ``load_from_checkpoint`` builds this task again."""
        return {"backbone_lr_factor": self.backbone_lr_factor}

    def loss_examples(self) -> list[tuple[Tensor, Tensor]]:
        """Logits and targets as the loss receives them; a run calls it with each before it starts.

        If empty, the first batch shows whether the loss fits.
        """
        return []

    def scored(self, logits: Tensor) -> Tensor:
        """Logits as scores and predictions take them: one for two classes."""
        return single_logit(logits, len(self.class_names))

    def setup(self, stage: str) -> None:
        sync_through(self.trainer, self)

    def on_fit_start(self) -> None:
        """Give each further process its own random stream, so that dropout differs between them."""
        if self.global_rank > 0:
            torch.manual_seed(torch.initial_seed() + self.global_rank)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        if self._describes_itself:
            self._describes_itself = False
            self.metadata = self._described_by(batch_of(batch))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss, _ = self._step(batch, "train")
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self._step(batch, "val")[1]

    def test_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self._step(batch, "test")[1]

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Probabilities of a batch, float32 (N, 1 or K, ...): one channel for each logit.

        Args:
            batch: The images, or a dict with ``image``, or a sequence that starts with the images.
            batch_idx: Not used.
        """
        return channel_probabilities(self(image_of(batch)))

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
        make: Any = self.scheduler
        if "total_steps" in inspect.signature(make).parameters:
            schedule = make(optimizer, total_steps=int(self.trainer.estimated_stepping_batches))
            if isinstance(schedule, LRScheduler):  # such as OneCycleLR, which counts steps
                schedule = {"scheduler": schedule, "interval": "step"}
        else:
            schedule = make(optimizer)
        return optimizer if schedule is None else {"optimizer": optimizer, "lr_scheduler": schedule}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["medvision"] = self.metadata
        checkpoint.setdefault("hyper_parameters", {}).update(self.arguments())

    def _described_by(self, batch: Batch) -> dict[str, Any]:
        """Metadata for a checkpoint, from the network and the first training batch.

        Empty if the batch does not tell how images are to be prepared. Waits for the device once.

        Raises:
            MedvisionError: If a target is no class.
        """
        image, num_classes = batch["image"], len(self.class_names)
        self._check_targets(batch["target"], num_classes)
        low, high = (float(value) for value in image.aminmax())
        known = image.dtype == torch.uint8 or (low >= 0 and high <= 1)
        channels, height, width = image.shape[-3:] if image.ndim == 4 else (0, 0, 1)
        if not known or height != width or num_classes < 2:
            return {}
        buffers = dict(self.model.named_buffers())
        mean, std = (buffers.get(f"normalize.{key}") for key in ("mean", "std"))
        kind = type(self.model)
        return {
            "format": 1,
            "task": self.kind,
            "model": {"name": f"{kind.__module__}.{kind.__qualname__}", "arguments": {}},
            "architecture": getattr(self.model, "architecture", kind.__name__),
            "num_parameters": count_parameters(self.model),
            "mean": [0.0] * channels if mean is None else mean.flatten().tolist(),
            "std": [1.0] * channels if std is None else std.flatten().tolist(),
            "class_names": list(self.class_names),
            "image_size": height,
            "in_channels": channels,
            "threshold": 0.5,
            "precision": str(self.trainer.precision),
            "input": "uint8" if image.dtype == torch.uint8 else "float",
        }

    def _check_targets(self, target: Tensor, num_classes: int) -> None:
        if num_classes == 0 or target.is_floating_point() or target.numel() == 0:
            return
        classes = target[target != IGNORE_INDEX]
        odd = classes[(classes < 0) | (classes >= num_classes)]
        if len(odd):
            raise MedvisionError(
                f"expected targets from 0 to {num_classes - 1}, or {IGNORE_INDEX} to ignore, got"
                f" {int(odd[0])}",
                where="data loader",
                hint="name every class in class_names",
            )
        if len(classes) < target.numel() and not bool((classes > 0).any()):
            warnings.warn(
                f"the targets of the first batch are 0 and {IGNORE_INDEX} only, and {IGNORE_INDEX}"
                " is ignored: give class indices, 1 for the foreground",
                stacklevel=2,
            )

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

    def _step(self, batch: Any, stage: Stage) -> tuple[Tensor, Tensor]:
        """Loss and logits of a batch, which also updates the scores of its stage."""
        batch = batch_of(batch)
        image, target = batch["image"], batch["target"]
        logits = self(image)
        loss = self.loss(logits, _as_labels(target))
        logits = self.scored(logits)
        # only validation and test are padded
        index = None if stage == "train" else batch.get("index")
        num_rows = len(image) if index is None else (index >= 0).sum()
        self.loss_of(stage).update(loss.detach(), num_rows)
        self.metrics_of(stage).update(logits.detach(), target)
        own = self.own_metrics_of(stage)
        if own:
            probability, classes = class_probabilities(logits.detach()), target.long()
            if index is not None:
                probability, classes = probability[index >= 0], classes[index >= 0]
            if len(classes):
                own.update(probability, classes)
        return loss, logits

    def own_metrics_of(self, stage: Stage) -> MetricCollection:
        """Further metrics that a stage updates; may be empty."""
        return getattr(self, f"{stage}_own")

    def _log_epoch(self, stage: Stage) -> None:
        loss, metrics, own = self.loss_of(stage), self.metrics_of(stage), self.own_metrics_of(stage)
        values = {"loss": loss.compute()}
        if metrics.update_called:  # mixed images have a loss, but no label for scores
            values |= metrics.compute()
            values |= self.scalars(own.compute() if own else {})
        fetched = _fetch(values)
        of_classes = {name: value for name, value in fetched.items() if "/" in name}
        main = {f"{stage}/{name}": v for name, v in fetched.items() if name not in of_classes}
        self.log_dict(main)
        # while fitting, trackers get them in groups of their own, and without the cells of a
        # confusion matrix, which are hundreds
        fits = self.trainer.state.fn == TrainerFn.FITTING
        named = {f"{stage}/{name}": value for name, value in of_classes.items()}
        self.log_dict(named, logger=False if fits else None)
        shown = {n: v for n, v in of_classes.items() if not n.startswith("confusion/")}
        if shown and fits and not self.trainer.sanity_checking:
            for logger in self.loggers:
                logger.log_metrics(
                    {f"{stage}_by_class/{name}": float(value) for name, value in shown.items()},
                    step=self.trainer.global_step,
                )
        for counted in (loss, metrics, own):
            counted.reset()

    def scalars(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """One value for each name; a value for each class becomes ``name/class``.

        Raises:
            MedvisionError: If a metric computes something else.
        """
        scalars: dict[str, Tensor] = {}
        for name, value in values.items():
            if value.numel() == 1:
                scalars[name] = value.reshape(())
            elif value.ndim == 1 and len(value) == len(self.class_names):
                for class_name, of_class in zip(self.class_names, value, strict=True):
                    scalars[f"{name}/{class_name}"] = of_class
            else:
                raise MedvisionError(
                    f"expected a number, or one for each of {len(self.class_names)} classes, got"
                    f" {tuple(value.shape)}",
                    where=f"metrics: {name}",
                    hint="choose how the metric averages",
                )
        return scalars


def channel_probabilities(logits: Tensor) -> Tensor:
    """Compute probabilities, float32 (N, 1 or K, ...), of logits of the same shape."""
    logits = logits.float()
    return logits.sigmoid() if logits.shape[1] == 1 else logits.softmax(dim=1)


def class_probabilities(logits: Tensor) -> Tensor:
    """Compute probabilities as torchmetrics expects them, float32.

    Args:
        logits: (N, 1, ...) of the second of two classes, or (N, K, ...).

    Returns:
        (N, ...) of the second of two classes, or (N, K, ...).
    """
    probability = channel_probabilities(logits)
    return probability[:, -1] if logits.shape[1] <= 2 else probability


_NO_BYTES = re.compile("unsigned char|Byte(?!s)|[uU][iI]nt8")
"""Matches an error of torch about the type uint8, not one about an amount of memory."""


def _collection(metrics: OwnMetrics | None, *, taken: Sequence[str]) -> MetricCollection:
    """Copies of the metrics by name.

    Raises:
        MedvisionError: If something is not a metric, or two have the same name.
    """
    if metrics is None:
        return MetricCollection({})
    if isinstance(metrics, Metric):
        metrics = [metrics]
    try:
        named = (
            dict(metrics.items(keep_base=True))
            if isinstance(metrics, MetricCollection)
            else dict(MetricCollection(metrics).items())  # type: ignore[arg-type]
        )
    except (TypeError, ValueError) as error:
        raise MedvisionError(
            f"not metrics of torchmetrics: {first_line(error)}",
            where="metrics",
            hint="give a torchmetrics.Metric, a list of them, or a dict of them by name",
        ) from error
    for name in named:
        if name in taken:
            raise MedvisionError(
                f"the score {name} exists already", where="metrics", hint="choose another name"
            )
    # compute groups share states between metrics, which a resumed run would count twice
    return MetricCollection(named, compute_groups=False).clone()  # type: ignore[arg-type]


def _as_labels(target: Tensor) -> Tensor:
    """Class indices as int64, which the losses of most libraries require."""
    return target if target.is_floating_point() else target.long()


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
