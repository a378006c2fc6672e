import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml
from pytorch_lightning import Trainer
from pytorch_lightning.loggers import Logger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.utils.data import DataLoader

from medvision.callbacks import LateTensorBoard, TrackedPictures
from medvision.callbacks.trackers import (
    check_start,
    hyper_parameters,
    name_of_run,
    picture_loggers,
    write_results,
)
from medvision.errors import MedvisionError
from medvision.tasks import ClassificationTask, SegmentationTask, Task


@pytest.fixture
def logger(tmp_path: Path) -> LateTensorBoard:
    made = LateTensorBoard(str(tmp_path), name="", version="log", default_hp_metric=False)
    made.log_hyperparams({"seed": 3})
    return made


def read(logger: LateTensorBoard) -> EventAccumulator:
    return EventAccumulator(logger.log_dir).Reload()


def test_nothing_is_written_before_something_is_logged(
    logger: LateTensorBoard, tmp_path: Path
) -> None:
    _ = logger.experiment  # as Lightning does before the fit
    logger.save()
    logger.finalize("failed")
    assert list(tmp_path.iterdir()) == []


def test_values_and_hyperparameters_are_those_that_were_logged(logger: LateTensorBoard) -> None:
    logger.log_metrics({"val/dice": 0.25}, step=7)
    logger.save()
    logger.finalize("success")
    (event,) = read(logger).Scalars("val/dice")
    assert (event.step, event.value) == (7, 0.25)
    assert yaml.safe_load(Path(logger.log_dir, "hparams.yaml").read_text()) == {"seed": 3}


def test_a_writer_requested_early_writes_to_the_same_log(logger: LateTensorBoard) -> None:
    writer = logger.experiment
    writer.add_scalar("own", 0.5, 1)
    logger.log_metrics({"own": 0.75}, step=2)
    writer.add_scalar("own", 1.0, 3)
    logger.finalize("success")
    assert [event.value for event in read(logger).Scalars("own")] == [0.5, 0.75, 1.0]
    assert len(list(Path(logger.log_dir).glob("events.*"))) == 1


class Recorder:
    """A logger by the name of its class only: what it gets, by call."""

    def __init__(self, tracking_uri: str = "") -> None:
        self._tracking_uri, self.run_id, self.calls = tracking_uri, "1", list[Any]()

    @property
    def experiment(self) -> Any:
        return self

    def __getattr__(self, name: str) -> Any:
        return lambda *given, **options: self.calls.append((name, given, options))


class MLFlowLogger(Recorder):
    pass


class WandbLogger(Recorder):
    pass


class OwnLogger(Recorder):
    pass


SUMMARY = {
    "best_epoch": 1,
    "metrics": {
        "val/dice": 0.5,
        "test/loss": 0.7,
        "test/auroc": 0.75,
        "test/auroc_ci95": [0.5, 1.0],
        "test/recall": None,
        "test/recall/glioma": 0.5,
        "test/confusion/glioma/none": 3,
    },
}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    for name in ("plots/roc.png", "plots/loss.png", "report.html", "checkpoints/best.ckpt"):
        path = tmp_path / "run" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(PNG)
    return tmp_path / "run"


PNG = cv2.imencode(".png", np.zeros((5, 7, 3), np.uint8))[1].tobytes()


@pytest.mark.parametrize(
    ("logger", "upload", "sent"),
    [
        (MLFlowLogger("sqlite:///runs/mlflow.db"), False, True),
        (MLFlowLogger("file:runs/mlruns"), False, True),
        (MLFlowLogger("runs/mlruns"), False, True),
        (MLFlowLogger("https://tracker.example.org"), False, False),
        (MLFlowLogger("databricks"), False, False),
        (MLFlowLogger("https://tracker.example.org"), True, True),
        (WandbLogger(), False, False),
        (WandbLogger(), True, True),
        (OwnLogger(), True, False),
    ],
)
def test_files_and_pictures_leave_the_machine_only_where_the_user_asks_for_it(
    run: Path, logger: Any, upload: bool, sent: bool
) -> None:
    logger.calls.clear()
    write_results(logger, run, summary=SUMMARY, config={}, upload=upload)
    names = [name for name, *_ in logger.calls]
    assert names.count("log_metrics") == 1
    files = [given for name, given, _ in logger.calls if name in ("log_artifact", "save")]
    assert len(files) == (4 if sent else 0)
    assert (picture_loggers([logger], upload=upload) == [logger]) == sent


def test_a_logger_that_cannot_start_is_refused_before_the_run_has_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "inside"):
        log = LateTensorBoard(str(place), name="")
        with pytest.raises(MedvisionError, match="cannot create the folder of the logger: "):
            check_start(log, tmp_path / "run")
    check_start(LateTensorBoard(str(tmp_path / "run" / "log"), name=""), tmp_path / "run")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]
    check_start(LateTensorBoard(str(tmp_path / "logs"), name=""), tmp_path / "run")
    assert (tmp_path / "logs").is_dir()


@pytest.mark.parametrize("address", ["https://tracker.example.org", "sqlite:///{}/db/mlflow.db"])
def test_a_server_that_does_not_answer_is_asked_with_few_tries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    class Client:
        def get_experiment_by_name(self, name: str) -> None:
            tries = os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"]
            raise ConnectionError(f"no {name} after {tries} try\nand more")

    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", raising=False)
    logger: Any = MLFlowLogger(address.format(tmp_path))
    logger._mlflow_client, logger._experiment_name = Client(), "medvision"
    with pytest.raises(MedvisionError) as raised:
        check_start(logger, tmp_path / "run")
    assert str(raised.value) == (
        "MLflow cannot start: no medvision after 1 try (logger); check its keys and its server, or"
        " leave it out with logger=csv"
    )
    assert "MLFLOW_HTTP_REQUEST_MAX_RETRIES" not in os.environ


def test_test_scores_are_sent_and_those_of_classes_in_a_group_of_their_own(run: Path) -> None:
    logger: Any = WandbLogger()
    write_results(logger, run, summary=SUMMARY, config={}, upload=False)
    (scores,) = next(given for name, given, _ in logger.calls if name == "log_metrics")
    assert list(scores) == ["test/auroc", "test/loss", "test_by_class/recall/glioma"]


def test_tensorboard_gets_scores_hyper_parameters_and_pictures_as_they_are(
    run: Path, logger: LateTensorBoard
) -> None:
    config = {"seed": 3, "model": {"_target_": "a.b.UNet", "width": 8}, "data": {"root": "/home/x"}}
    write_results(logger, run, summary=SUMMARY, config=config, upload=False)
    found = read(logger)
    assert found.Scalars("test/auroc")[0].value == 0.75
    (image,) = found.Images("test_pictures/roc")
    assert (image.width, image.height, image.step) == (7, 5, 2)
    assert image.encoded_image_string == PNG
    assert "test_pictures/loss" not in found.Tags()["images"]
    assert hyper_parameters(config) == {"seed": 3, "model": "UNet", "model.width": 8}


@pytest.mark.parametrize(
    ("target", "named"),
    [
        ("pytorch_lightning.loggers.WandbLogger", {"name": "polyp_unet/now"}),
        ("pytorch_lightning.loggers.MLFlowLogger", {"run_name": "polyp_unet/now"}),
        ("medvision.callbacks.LateTensorBoard", {}),
    ],
)
def test_a_run_is_named_after_its_folder(target: str, named: dict[str, str]) -> None:
    assert name_of_run(target, "polyp_unet/now") == named


class Keeper(Logger):
    """A logger of Lightning that keeps scalars, and pictures as TensorBoard does."""

    def __init__(self) -> None:
        self.scalars: dict[str, float] = {}

    name = version = property(lambda self: "kept")

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        self.scalars |= metrics

    def log_hyperparams(self, params: Any) -> None:
        pass


def fitted(folder: Path, task: Task, target: Any, *, every: int, epochs: int) -> tuple[Any, Any]:
    images = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    data = [{"image": image, "target": target(k)} for k, image in enumerate(images)]
    tensorboard = LateTensorBoard(str(folder), name="", version="log", default_hp_metric=False)
    keeper = Keeper()
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        logger=[tensorboard, keeper],
        callbacks=[TrackedPictures(every_n_epochs=every)],
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    loader = DataLoader(data, batch_size=4)
    trainer.fit(task, loader, loader)
    return read(tensorboard), keeper


@pytest.mark.filterwarnings("ignore:.*does not have many workers.*", "ignore:.*sync_dist=True.*")
@pytest.mark.parametrize(
    "are_drawn",
    [False, pytest.param(True, marks=[pytest.mark.draws, pytest.mark.slow])],
    ids=["blank", "drawn"],
)
def test_every_n_epochs_curves_and_a_panel_of_images_are_drawn(
    tmp_path: Path, are_drawn: bool
) -> None:
    network = nn.Conv2d(3, 1, 1)
    mask = torch.zeros(16, 16, dtype=torch.uint8)
    mask[4:8] = 1
    task = SegmentationTask(model=network)
    found, _ = fitted(tmp_path / "a", task, lambda k: mask, every=2, epochs=3)
    for name in ("roc", "images"):
        pictures = found.Images(f"val_pictures/{name}")
        assert [picture.step for picture in pictures] == [2, 3]  # the last epoch too
        pixels = cv2.imdecode(np.frombuffer(pictures[0].encoded_image_string, np.uint8), 1)
        assert (pixels.std() > 5) == are_drawn
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 3))
    classes = ClassificationTask(model=model, class_names=["a", "b", "c"])
    found, keeper = fitted(
        tmp_path / "b", classes, lambda k: torch.tensor(k % 3), every=1, epochs=1
    )
    names = {"roc", "precision_recall", "confusion", "images"}
    assert set(found.Tags()["images"]) == {f"val_pictures/{name}" for name in names}
    assert {"val/accuracy", "val_by_class/recall/a", "train_by_class/f1/c"} <= keeper.scalars.keys()
    assert not [name for name in keeper.scalars if "confusion" in name]


def test_a_logger_that_sends_its_values_away_gets_no_pictures(tmp_path: Path) -> None:
    assert picture_loggers([Keeper()], upload=True) == []
    remote: Any = LateTensorBoard("s3://bucket/logs", name="", version="log")
    assert picture_loggers([remote], upload=False) == []
    assert picture_loggers([remote], upload=True) == [remote]
