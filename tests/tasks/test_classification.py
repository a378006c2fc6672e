"""The task as a plain module: no Hydra, no data module."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from medvision.callbacks import Finetuning
from medvision.errors import MedvisionError
from medvision.losses import CrossEntropy
from medvision.tasks import ClassificationTask, backbone_modules

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers")


class Tiny(nn.Module):
    """A backbone with batch norm and dropout, and a head."""

    def __init__(self, num_logits: int = 1) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5)
        )
        self.head = nn.Linear(4, num_logits)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.features(image.float() / 255).mean((2, 3)))

    def head_modules(self) -> list[nn.Module]:
        return [self.head]


def task(num_classes: int = 2, **changes: Any) -> ClassificationTask:
    torch.manual_seed(0)
    options: dict[str, Any] = {
        "model": Tiny(1 if num_classes == 2 else num_classes),
        "loss": CrossEntropy(num_classes=num_classes),
        "optimizer": partial(torch.optim.Adam, lr=0.05),
        "class_names": [f"class {k}" for k in range(num_classes)],
    }
    return ClassificationTask(**{**options, **changes})


def loader(num_classes: int = 2, count: int = 6) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(0)
    items = []
    for _ in range(count):
        target = torch.randint(0, num_classes, (6,), generator=generator)
        image = torch.randint(0, 90, (6, 3, 8, 8), generator=generator, dtype=torch.uint8)
        image += (target * (160 // num_classes)).to(torch.uint8).view(-1, 1, 1, 1)
        items.append({"image": image, "target": target.to(torch.uint8), "index": torch.arange(6)})
    return DataLoader(items, batch_size=None)


def trainer_of(folder: Path, **options: Any) -> Trainer:
    silent = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        num_sanity_val_steps=0,
        **{"max_epochs": 8, **silent, **options},
    )


@pytest.mark.parametrize("num_classes", [pytest.param(2, marks=pytest.mark.slow), 4])
def test_it_learns_and_logs_every_score_of_train_and_validation(
    tmp_path: Path, num_classes: int
) -> None:
    module = task(num_classes)
    trainer = trainer_of(tmp_path, max_epochs=25)
    trainer.fit(module, loader(num_classes), loader(num_classes))
    logged = trainer.callback_metrics
    for stage in ("train", "val"):
        assert {f"{stage}/{name}" for name in module.score_names()} <= set(logged)
    assert logged["val/auroc"] > 0.9
    assert logged["val/loss"] < logged["val/ece"] + 1


def test_the_threshold_decides_the_accuracy_and_not_the_ranking(tmp_path: Path) -> None:
    scores = []
    for threshold in (0.5, 0.999999):
        module = task(threshold=threshold)
        trainer = trainer_of(tmp_path)
        trainer.test(module, loader(), verbose=False)
        scores.append({name: float(value) for name, value in trainer.callback_metrics.items()})
    assert scores[0]["test/auroc"] == scores[1]["test/auroc"]
    assert scores[1]["test/recall"] == 0
    assert scores[1]["test/accuracy"] == pytest.approx(
        1 - scores[1]["test/confusion/class 1/class 0"] / 36
    )


class Halves:
    """Mix every image equally with the next one, and record the requested steps."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def __call__(self, image: Tensor, target: Tensor, step: int) -> tuple[Tensor, Tensor]:
        self.steps.append(step)
        labels = nn.functional.one_hot(target.long(), 2).float()
        return image.float() / 255, (labels + labels.roll(1, 0)) / 2


def test_mixed_batches_count_steps_and_leave_training_scores_out(tmp_path: Path) -> None:
    mixing = Halves()
    trainer = trainer_of(tmp_path, max_epochs=2)
    trainer.fit(task(mixing=mixing), loader(), loader())
    assert mixing.steps == list(range(12))
    names = set(trainer.callback_metrics)
    assert {"train/loss", "val/loss", "val/accuracy"} <= names
    assert "train/accuracy" not in names


def test_the_backbone_has_its_own_learning_rate() -> None:
    module = task(backbone_lr_factor=0.1)
    optimizer = module.configure_optimizers()
    head, backbone = optimizer.param_groups
    assert (head["lr"], backbone["lr"]) == (0.05, pytest.approx(0.005))
    assert {id(p) for p in head["params"]} == {id(p) for p in module.model.head.parameters()}
    total = sum(p.numel() for group in (head, backbone) for p in group["params"])
    assert total == sum(p.numel() for p in module.parameters())


def test_a_factor_without_a_backbone_is_refused() -> None:
    with pytest.raises(MedvisionError, match=r"Linear has no backbone \(task.backbone_lr_factor\)"):
        task(model=nn.Linear(1, 1), backbone_lr_factor=0.1)


class Watch(Finetuning):
    """Record the weights of backbone and head at the end of each epoch."""

    def __init__(self, frozen_epochs: int) -> None:
        super().__init__(frozen_epochs=frozen_epochs)
        self.backbones: list[dict[str, Tensor]] = []
        self.heads: list[Tensor] = []
        self.training: list[bool] = []

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        state = pl_module.model.features.state_dict()
        self.backbones.append({name: tensor.clone() for name, tensor in state.items()})
        self.heads.append(pl_module.model.head.weight.detach().clone())
        self.training.append(pl_module.model.features[1].training)


def test_a_frozen_backbone_is_unchanged_and_learns_afterwards(tmp_path: Path) -> None:
    module, watch = task(), Watch(frozen_epochs=2)
    before = {name: t.clone() for name, t in module.model.features.state_dict().items()}
    head = module.model.head.weight.detach().clone()
    trainer = trainer_of(tmp_path, max_epochs=4, callbacks=[watch])
    trainer.fit(module, loader(), loader())
    for frozen in watch.backbones[:2]:  # the statistics of batch norm among it
        assert all(torch.equal(frozen[name], before[name]) for name in before)
    assert not torch.equal(watch.heads[0], head)
    assert all(not torch.equal(watch.backbones[2][name], before[name]) for name in before)
    assert watch.training == [False, False, True, True]
    assert all(parameter.requires_grad for parameter in module.parameters())
    assert all(
        m.track_running_stats for m in backbone_modules(module.model) if hasattr(m, "momentum")
    )


def test_freezing_needs_a_backbone(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 1))
    trainer = trainer_of(tmp_path, callbacks=[Finetuning(frozen_epochs=1)])
    with pytest.raises(MedvisionError, match="Sequential has no backbone to freeze"):
        trainer.fit(task(model=model), loader(), loader())


def test_first_stages_stay_frozen_after_the_rest_of_the_backbone_trains(tmp_path: Path) -> None:
    model = Staged()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    callback = Finetuning(frozen_epochs=1, frozen_stages=1)
    trainer = trainer_of(tmp_path, max_epochs=2, callbacks=[callback])
    trainer.fit(task(model=model), loader(), loader())
    changed = {name for name, t in model.state_dict().items() if not torch.equal(t, before[name])}
    assert not {name for name in changed if name.startswith(("features.0", "features.1"))}
    assert {"features.3.weight", "head.weight"} <= changed
    assert [m.training for m in model.features] == [False, False, True, True, True]


class Staged(Tiny):
    """A backbone of two stages."""

    def __init__(self) -> None:
        super().__init__(1)
        self.features = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU()
        )

    def first_stages(self, count: int) -> list[nn.Module]:
        return list(self.features[: 2 * count])


def test_frozen_stages_need_a_network_that_names_them(tmp_path: Path) -> None:
    callback = Finetuning(frozen_epochs=0, frozen_stages=1)
    trainer = trainer_of(tmp_path, callbacks=[callback])
    with pytest.raises(MedvisionError, match="Tiny does not name its stages"):
        trainer.fit(task(), loader(), loader())
