"""The LightningModules with any network, data loader and Lightning's own trainer."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR, StepLR
from torch.utils.data import DataLoader
from torchmetrics import MetricCollection
from torchmetrics.classification import BinaryRecall, MulticlassF1Score

from medvision.errors import MedvisionError
from medvision.losses import CrossEntropy
from medvision.models import with_normalization
from medvision.tasks import ClassificationTask, SegmentationTask, Task
from medvision.types import IGNORE_INDEX

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers.*",
    "ignore:.*sync_dist=True.*",
    "ignore:.*have no `val_dataloader`.*",
)


def network(channels: int = 1) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, channels, 1))


def pairs(count: int = 6) -> list[tuple[Tensor, Tensor]]:
    drawn = torch.Generator().manual_seed(0)
    images = torch.rand(count, 3, 16, 16, generator=drawn)
    return [(image, (image.mean(0) > 0.5).long()) for image in images]


def trainer(folder: Path, **options: Any) -> pl.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return pl.Trainer(
        accelerator="cpu", default_root_dir=folder, log_every_n_steps=1, **quiet, **options
    )


def test_a_network_alone_trains_with_the_stated_defaults(tmp_path: Path) -> None:
    task = SegmentationTask(model=network())
    assert isinstance(task.loss, CrossEntropy)
    logits, target = torch.randn(2, 1, 4, 4), torch.randint(0, 2, (2, 4, 4))
    expected = nn.functional.binary_cross_entropy_with_logits(logits[:, 0], target.float())
    assert task.loss(logits, target) == pytest.approx(float(expected), abs=1e-6)
    loader = DataLoader(pairs(), batch_size=2)
    running = trainer(tmp_path, max_epochs=2)
    running.fit(task, loader, loader)
    optimizer = running.optimizers[0]
    assert isinstance(optimizer, torch.optim.Adam)
    assert optimizer.param_groups[0]["lr"] == 1e-4
    assert {"train/loss", "val/loss", "train/dice", "val/dice"} <= running.callback_metrics.keys()
    (scores,) = running.test(task, loader, verbose=False)
    (again,) = running.validate(task, loader, verbose=False)
    assert scores["test/dice"] == again["val/dice"]


def test_batches_as_pairs_and_as_dicts_with_and_without_index_train_alike(tmp_path: Path) -> None:
    data = pairs()
    forms: list[list[Any]] = [
        data,
        [list(pair) for pair in data],
        [{"image": x, "target": y} for x, y in data],
        [{"image": x, "target": y, "index": torch.tensor(i)} for i, (x, y) in enumerate(data)],
    ]
    found = []
    for number, form in enumerate(forms):
        task = SegmentationTask(model=network())
        running = trainer(tmp_path / str(number), max_epochs=1)
        running.fit(task, DataLoader(form, batch_size=4), DataLoader(form, batch_size=4))
        found.append({name: float(v) for name, v in running.callback_metrics.items()})
    assert all(repr(scores) == repr(found[0]) for scores in found)  # NaN is not equal to itself


@pytest.mark.parametrize("channels", [1, 3])
def test_predict_returns_float32_probabilities_with_a_channel_for_each_logit(
    tmp_path: Path, channels: int
) -> None:
    names = ["a", "b", "c"][: 2 if channels == 1 else channels]
    task = SegmentationTask(model=network(channels), class_names=names)
    images = torch.stack([image for image, _ in pairs()])
    forms: list[Any] = [
        list(images),
        pairs(),
        [{"image": image} for image in images],
        [(image,) for image in images],
    ]
    with torch.no_grad():
        logits = task(images)
    expected = logits.sigmoid() if channels == 1 else logits.softmax(1)
    for form in forms:
        batches: Any = trainer(tmp_path).predict(task, DataLoader(form, batch_size=4))
        together = torch.cat(batches)
        assert together.dtype == torch.float32
        torch.testing.assert_close(together, expected)


def test_a_network_that_cannot_take_uint8_images_is_reported_with_the_way_to_wrap_it() -> None:
    image = torch.randint(0, 256, (1, 3, 8, 8), dtype=torch.uint8)
    with pytest.raises(MedvisionError, match=r"with_normalization\(network, in_channels=3\)"):
        SegmentationTask(model=network())(image)
    task = SegmentationTask(model=with_normalization(network(), in_channels=3))
    assert task(image).shape == (1, 1, 8, 8)
    with pytest.raises(RuntimeError, match=r"expected input.* to have 3 channels"):
        SegmentationTask(model=network())(torch.rand(1, 1, 8, 8))


def test_a_checkpoint_loads_with_its_network_and_keeps_classes_and_threshold(
    tmp_path: Path,
) -> None:
    def classifier() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 1))

    data = [(image, mask.sum() % 2) for image, mask in pairs()]
    task = ClassificationTask(model=classifier(), class_names=["no", "yes"], threshold=0.3)
    running = trainer(tmp_path, max_epochs=1)
    running.fit(task, DataLoader(data, batch_size=3))
    running.save_checkpoint(tmp_path / "a.ckpt")
    kept = torch.load(tmp_path / "a.ckpt", weights_only=True)
    assert kept["medvision"]["image_size"] == 16
    assert kept["medvision"]["class_names"] == ["no", "yes"]
    again = ClassificationTask.load_from_checkpoint(
        tmp_path / "a.ckpt", model=classifier(), weights_only=True
    )
    assert (again.class_names, again.threshold) == (["no", "yes"], 0.3)
    image = torch.rand(2, 3, 16, 16)
    assert torch.equal(task.eval()(image), again.eval()(image))


def test_further_metrics_agree_with_the_own_ones(tmp_path: Path) -> None:
    loader = DataLoader(pairs(), batch_size=4)
    task = SegmentationTask(model=network(), metrics={"found": BinaryRecall(ignore_index=255)})
    (scores,) = trainer(tmp_path).test(task, loader, verbose=False)
    assert scores["test/found"] == pytest.approx(scores["test/recall"], abs=1e-6)
    assert "found" in task.score_names()

    names = ["a", "b", "c"]
    f1 = MulticlassF1Score(3, average=None)
    metrics = MetricCollection({"f1_own": f1, "mean_f1": MulticlassF1Score(3)})
    data = [(image, torch.tensor(i % 3)) for i, (image, _) in enumerate(pairs())]
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 3))
    task_of_classes = ClassificationTask(model=model, class_names=names, metrics=metrics)
    (scores,) = trainer(tmp_path).test(
        task_of_classes, DataLoader(data, batch_size=4), verbose=False
    )
    own = {name: scores[f"test/f1/{name}"] for name in names}
    assert [scores[f"test/f1_own/{name}"] for name in names] == pytest.approx(
        [0.0 if value != value else value for value in own.values()], abs=1e-6
    )


def test_rows_that_pad_a_batch_do_not_reach_further_metrics() -> None:
    task = ClassificationTask(model=nn.Identity(), metrics=[BinaryRecall()])
    batch: Any = {
        "image": torch.tensor([[3.0], [-3.0], [0.0]]),
        "target": torch.tensor([1, 1, IGNORE_INDEX]),
        "index": torch.tensor([0, 1, -1]),
    }
    task.validation_step(batch, 0)
    assert {name: float(v) for name, v in task.val_own.compute().items()} == {"BinaryRecall": 0.5}


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ({"dice": BinaryRecall()}, "the score dice exists already (metrics)"),
        (["recall"], "not metrics of torchmetrics"),
    ],
)
def test_metrics_that_cannot_be_logged_are_refused(metrics: Any, message: str) -> None:
    with pytest.raises(MedvisionError) as error:
        SegmentationTask(model=network(), metrics=metrics)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"loss": "bce"}, "an object of str (loss); give a loss of (logits, target)"),
        (
            {"optimizer": torch.optim.Adam(network().parameters())},
            "an object of Adam (optimizer); give a function of the parameters, such as"
            " partial(Adam, lr=1e-3)",
        ),
    ],
)
def test_parts_that_cannot_be_called_are_refused(given: dict[str, Any], line: str) -> None:
    with pytest.raises(MedvisionError) as error:
        SegmentationTask(model=network(), **given)
    assert str(error.value) == f"expected a function or a class, got {line}"


@pytest.mark.parametrize(
    ("make", "interval"),
    [
        (partial(StepLR, step_size=1), "epoch"),
        (partial(OneCycleLR, max_lr=0.1), "step"),
    ],
)
def test_schedulers_of_torch_are_stepped_as_they_count(
    tmp_path: Path, make: Any, interval: str
) -> None:
    task = SegmentationTask(model=network(), scheduler=make)
    running = trainer(tmp_path, max_epochs=1)
    running.fit(task, DataLoader(pairs(), batch_size=2))
    assert running.lr_scheduler_configs[0].interval == interval


@pytest.mark.parametrize(
    ("batch", "found"),
    [
        (torch.zeros(2, 3, 8, 8), "a Tensor"),
        ({"img": 0, "target": 1}, "a dict with img, target"),
        ((1, 2, 3), "a tuple of 3"),
    ],
)
def test_other_batches_are_refused_with_what_was_found(batch: Any, found: str) -> None:
    with pytest.raises(MedvisionError, match=f"expected batches .* got {found}"):
        SegmentationTask(model=network()).training_step(batch, 0)


def first_batch(task: Task, folder: Path, target: Tensor) -> None:
    data = [(torch.rand(3, 8, 8), target) for _ in range(2)]
    running = trainer(folder, max_epochs=1, enable_checkpointing=False)
    running.fit(task, DataLoader(data, batch_size=2))


def test_targets_that_are_no_classes_are_refused_and_masks_of_0_and_255_reported(
    tmp_path: Path,
) -> None:
    with pytest.raises(MedvisionError, match="expected targets from 0 to 1"):
        first_batch(SegmentationTask(model=network()), tmp_path, torch.full((8, 8), 3))
    mask = torch.zeros(8, 8, dtype=torch.uint8)
    mask[2:4] = 255
    with pytest.warns(UserWarning, match="255 is ignored"):
        first_batch(SegmentationTask(model=network()), tmp_path, mask)
    mask[0] = 1  # a foreground with an ignored border is in order
    first_batch(SegmentationTask(model=network()), tmp_path, mask)
