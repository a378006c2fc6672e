from pathlib import Path

import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from medvision.callbacks import LateTensorBoard


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
