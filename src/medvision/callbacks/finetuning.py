"""Train the new head first and the pretrained backbone later."""

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import BaseFinetuning
from pytorch_lightning.strategies import DDPStrategy
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from medvision.errors import MedvisionError
from medvision.tasks import Task, backbone_modules


class Finetuning(Callback):
    """Freeze the backbone for the first epochs, then train it.

    The large initial gradients of a random head would damage pretrained weights. A frozen backbone
    runs in evaluation mode: batch norm neither uses nor updates statistics of the batch, and
    dropout is off. Freezing depends only on the epoch, so a resumed run is in the same state. The
    learning rate of the backbone is set by ``task.backbone_lr_factor``.

    The first stages may stay frozen: their features are general, and at the highest resolution
    their gradients are the most expensive ones.

    Args:
        frozen_epochs: Epochs in which only the head trains; 0 freezes nothing.
        frozen_stages: First stages of the backbone that never train, see
            ``medvision.models.base.first_stages``; 0 for none.
    """

    def __init__(self, *, frozen_epochs: int, frozen_stages: int = 0) -> None:
        self.frozen_epochs, self.frozen_stages = frozen_epochs, frozen_stages
        self._frozen: set[nn.Module] = set()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        model = _model_of(pl_module)
        if not hasattr(model, "head_modules"):
            raise MedvisionError(
                f"{type(model).__name__} has no backbone to freeze",
                where="callbacks=finetuning",
                hint="use callbacks=default, or a model that takes weights",
            )
        if trainer.world_size > 1 and not isinstance(trainer.strategy, DDPStrategy):
            raise MedvisionError(
                f"freezing does not work with {type(trainer.strategy).__name__}",
                where="callbacks=finetuning",
                hint="use callbacks=default, or trainer.strategy=ddp",
            )
        self._first_stages(model)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        model = _model_of(pl_module)
        only_head = trainer.current_epoch < self.frozen_epochs
        frozen = set(backbone_modules(model) if only_head else self._first_stages(model))
        thawed = self._frozen - frozen
        BaseFinetuning.make_trainable(thawed)
        for module in thawed:
            module.train()
        BaseFinetuning.freeze(frozen, train_bn=False)
        for module in frozen:
            module.eval()
        changed, self._frozen = frozen != self._frozen, frozen
        if changed:
            _wrap_again(trainer, pl_module)

    on_train_start = on_train_epoch_start  # resuming within an epoch starts none

    def _first_stages(self, model: nn.Module) -> list[nn.Module]:
        if self.frozen_stages == 0:
            return []
        if not hasattr(model, "first_stages"):
            raise MedvisionError(
                f"{type(model).__name__} does not name its stages",
                where="callbacks.finetuning.frozen_stages",
                hint="use 0, or a model of timm or smp",
            )
        stages: list[nn.Module] = model.first_stages(self.frozen_stages)  # type: ignore[operator]
        return stages


def _wrap_again(trainer: Trainer, task: LightningModule) -> None:
    """Average gradients over processes for the parameters that are trained now.

    DistributedDataParallel lists the parameters with gradients once, when it wraps a model: it
    would wait for those of a frozen backbone, and ignore those that were frozen at that time.
    """
    strategy = trainer.strategy
    if isinstance(strategy, DDPStrategy) and isinstance(strategy.model, DistributedDataParallel):
        strategy.model = task
        strategy.configure_ddp()


def _model_of(task: LightningModule) -> nn.Module:
    if not isinstance(task, Task):
        raise ValueError(f"expected a Task, got {type(task).__name__}")
    return task.model
