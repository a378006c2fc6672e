import csv
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pytorch_lightning import LightningModule, Trainer
from torch.utils.data import DataLoader

from medvision.callbacks import BestAndLast, EpochLog, FiniteLoss, ProgressiveSize, Throughput
from medvision.callbacks.predictions import _png_names
from medvision.data.samples import Sample
from medvision.errors import MedvisionError


def trainer(epoch: int = 0, **metrics: float) -> Any:
    """Stand-in for Lightning's trainer with the attributes that the callbacks use."""

    def save_checkpoint(path: Path) -> None:
        Path(path).write_text(f"epoch {epoch}")

    optimizer = SimpleNamespace(param_groups=[{"lr": 0.1}])
    return SimpleNamespace(
        current_epoch=epoch,
        max_epochs=9,
        callback_metrics={k.replace("__", "/"): torch.tensor(v) for k, v in metrics.items()},
        is_global_zero=True,
        is_last_batch=False,
        world_size=1,
        strategy=SimpleNamespace(reduce_boolean_decision=lambda decision, **_: decision),
        optimizers=[optimizer],
        lr_scheduler_configs=[],
        callbacks=[],
        save_checkpoint=save_checkpoint,
        print=print,
    )


def best_and_last(tmp_path: Path, mode: Any = "max") -> BestAndLast:
    (tmp_path / "checkpoints").mkdir(exist_ok=True)
    return BestAndLast(dirpath=str(tmp_path), monitor="val/dice", mode=mode)


@pytest.mark.parametrize(("mode", "best"), [("max", 1), ("min", 2)])
def test_best_and_last_checkpoint_are_of_the_right_epochs(
    tmp_path: Path, mode: str, best: int
) -> None:
    callback = best_and_last(tmp_path, mode)
    for epoch, value in enumerate([0.5, 0.8, 0.2, 0.3]):
        callback.on_train_epoch_end(trainer(epoch, val__dice=value), None)
    callback.on_fit_end(trainer(3), None)
    assert callback.best_epoch == best
    assert callback.best_path.read_text() == f"epoch {best}"
    assert callback.last_path.read_text() == "epoch 3"
    assert callback.warning is None


def test_of_equal_epochs_the_first_is_kept(tmp_path: Path) -> None:
    callback = best_and_last(tmp_path)
    for epoch in range(3):
        callback.on_train_epoch_end(trainer(epoch, val__dice=0.5), None)
    assert callback.best_epoch == 0


def test_nan_is_never_the_best(tmp_path: Path) -> None:
    callback = best_and_last(tmp_path)
    for epoch, value in enumerate([math.nan, 0.1, math.nan, math.inf]):
        callback.on_train_epoch_end(trainer(epoch, val__dice=value), None)
    callback.on_fit_end(trainer(3), None)
    assert callback.best_epoch == 1
    assert callback.warning is None


def test_without_a_defined_value_best_is_the_last_epoch_and_a_warning_says_so(
    tmp_path: Path,
) -> None:
    callback = best_and_last(tmp_path)
    for epoch in range(2):
        callback.on_train_epoch_end(trainer(epoch, val__dice=math.nan), None)
    callback.on_fit_end(trainer(1), None)
    assert callback.best_path.read_text() == "epoch 1"
    assert callback.warning is not None
    assert "val/dice was undefined in every epoch" in callback.warning


def test_a_new_folder_starts_its_own_record(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir(), new.mkdir()
    first = best_and_last(old)
    first.on_train_epoch_end(trainer(0, val__dice=0.9), None)
    second = best_and_last(new)
    second.load_state_dict(first.state_dict())
    second.on_train_epoch_end(trainer(1, val__dice=0.2), None)
    assert second.best_epoch == 1
    same = best_and_last(old)
    same.load_state_dict(first.state_dict())
    same.on_train_epoch_end(trainer(1, val__dice=0.2), None)
    assert same.best_epoch == 0


def test_the_checkpoint_before_the_last_is_kept(tmp_path: Path) -> None:
    callback = best_and_last(tmp_path)
    for epoch in range(3):
        callback.on_train_epoch_end(trainer(epoch, val__dice=1 - epoch), None)
    assert callback.previous_path.read_text() == "epoch 1"


def test_a_schedule_is_saved_in_its_state_after_the_epoch_and_stepped_once(tmp_path: Path) -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.5)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.1, patience=0)
    plateau.step(1.0)
    fit = trainer(1, val__dice=0.5, val__loss=2.0)
    fit.optimizers, saved = [optimizer], []
    fit.lr_scheduler_configs = [
        SimpleNamespace(
            scheduler=plateau, reduce_on_plateau=True, interval="epoch", frequency=1, monitor=name
        )
        for name in ("val/loss",)
    ]
    fit.lightning_module = SimpleNamespace(lr_scheduler_step=lambda plan, value: plan.step(value))

    def save(path: Path) -> None:
        saved.append((optimizer.param_groups[0]["lr"], plateau.state_dict()["last_epoch"]))
        Path(path).write_text("")

    fit.save_checkpoint = save
    best_and_last(tmp_path).on_train_epoch_end(fit, None)
    assert saved == [(pytest.approx(0.05), 2)]
    assert (optimizer.param_groups[0]["lr"], plateau.state_dict()["last_epoch"]) == (0.5, 1)


def test_a_failed_write_leaves_the_checkpoint_before_it(tmp_path: Path) -> None:
    callback = best_and_last(tmp_path)
    callback.on_train_epoch_end(trainer(0, val__dice=0.5), None)
    broken = trainer(1, val__dice=0.9)

    def fail(path: Path) -> None:
        Path(path).write_text("half")
        raise OSError(28, "No space left on device")

    broken.save_checkpoint = fail
    with pytest.raises(MedvisionError, match="no space left on the disk") as error:
        callback.on_train_epoch_end(broken, None)
    assert error.value.exit_code == 3
    assert callback.last_path.read_text() == "epoch 0"
    assert callback.best_path.read_text() == "epoch 0"


def test_the_log_has_a_row_per_epoch_and_blanks_for_undefined_values(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log, task = EpochLog(dirpath=str(tmp_path)), SimpleNamespace(kind="segmentation")
    values = {"train__loss": 0.5, "val__loss": 0.6, "val__auroc": math.nan, "val__dice": 0.25}
    for epoch in range(2):
        log.on_train_epoch_start(trainer(epoch), task)
        log.on_train_epoch_end(trainer(epoch, **values), task)
    with (tmp_path / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["epoch", "train/loss", "val/loss", "val/dice", "val/auroc", "lr"]
    assert [row["epoch"] for row in rows] == ["0", "1"]
    assert rows[0]["val/auroc"] == ""
    assert float(rows[0]["val/dice"]) == 0.25
    line = capsys.readouterr().out.splitlines()[0]
    assert line.startswith("epoch   1/9  train loss 0.5000  val loss 0.6000 dice 0.2500")


def test_the_log_continues_where_its_checkpoint_stopped(tmp_path: Path) -> None:
    first = EpochLog(dirpath=str(tmp_path))
    for epoch in range(3):
        first.on_train_epoch_end(trainer(epoch, val__loss=float(epoch)), None)
        if epoch == 1:
            state = first.state_dict()["rows"].copy()
    second = EpochLog(dirpath=str(tmp_path))
    second.load_state_dict({"rows": state})
    second.on_train_epoch_end(trainer(2, val__loss=2.0), None)
    assert second.rows == first.rows


def step(watch: FiniteLoss, value: float, batch: int, *, last: bool = False) -> None:
    fit = trainer()
    fit.is_last_batch = last
    watch.on_train_batch_end(fit, None, {"loss": torch.tensor(value)}, None, batch)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_nan_loss_stops_the_epoch(value: float) -> None:
    watch = FiniteLoss(every_n_steps=100)
    step(watch, value, 0)
    with pytest.raises(MedvisionError, match="NaN or infinite in epoch 1") as raised:
        step(watch, 1.0, 1, last=True)
    assert raised.value.exit_code == 3


def test_the_loss_is_checked_every_few_steps() -> None:
    watch = FiniteLoss(every_n_steps=3)
    step(watch, math.nan, 0)
    step(watch, 1.0, 1)
    with pytest.raises(MedvisionError):
        step(watch, 1.0, 2)


def test_finite_losses_pass() -> None:
    watch = FiniteLoss(every_n_steps=2)
    for batch in range(5):
        step(watch, 1e30, batch, last=batch == 4)


class Processes:
    """Stand-in for a strategy of several processes, with the answers of the others in order."""

    def __init__(self, *others: bool) -> None:
        self.others, self.requested = list(others), []

    def reduce_boolean_decision(self, decision: bool, *, all: bool) -> bool:  # noqa: A002
        assert all
        self.requested.append(decision)
        return decision and self.others.pop(0)


def test_all_processes_stop_at_the_same_step_if_one_has_a_nan_loss() -> None:
    strategy = Processes(True, False)
    fit = trainer()
    fit.strategy = strategy
    watch = FiniteLoss(every_n_steps=2)
    own = {"loss": torch.tensor(1.0)}
    for number in range(3):
        watch.on_train_batch_end(fit, None, own, None, number)
    assert strategy.requested == [True]  # no exchange in the steps between, which would wait for it
    with pytest.raises(MedvisionError, match="NaN or infinite in epoch 1") as raised:
        watch.on_train_batch_end(fit, None, own, None, 3)
    assert strategy.requested == [True, True]
    assert raised.value.exit_code == 3


def test_a_process_with_a_nan_loss_stops_the_others() -> None:
    fit = trainer()
    fit.strategy, fit.is_last_batch = Processes(True), True
    with pytest.raises(MedvisionError):
        FiniteLoss().on_train_batch_end(fit, None, {"loss": torch.tensor(math.nan)}, None, 0)
    assert fit.strategy.requested == [False]


def test_a_new_fit_forgets_the_losses_of_the_previous_fit() -> None:
    watch = FiniteLoss(every_n_steps=100)
    step(watch, math.nan, 0)
    watch.on_train_start(trainer(), SimpleNamespace(device=torch.device("cpu")))
    step(watch, 1.0, 0, last=True)


class Explodes(LightningModule):
    """Fit a constant; the loss is NaN from epoch 2 on."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        return self.weight.square().sum() * (math.nan if self.current_epoch == 2 else 1.0)

    def on_train_epoch_end(self) -> None:
        self.log("val/dice", 0.5)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.filterwarnings("ignore:.*number of training batches")
def test_nan_stops_the_fit_before_a_checkpoint_contains_it(tmp_path: Path) -> None:
    best = best_and_last(tmp_path)
    fit = Trainer(
        accelerator="cpu",
        max_epochs=5,
        callbacks=[FiniteLoss(), best],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    with pytest.raises(MedvisionError, match="NaN or infinite in epoch 3"):
        fit.fit(Explodes(), DataLoader(torch.zeros(3, 1)))
    last = torch.load(best.last_path, weights_only=True)
    assert last["epoch"] == 1
    assert last["state_dict"]["weight"].item() == pytest.approx(0.8**6)


def test_throughput_excludes_start_and_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 10.0, 15.0, 16.0, 18.0, 100.0, 103.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    rate = Throughput()
    batch = {"image": torch.zeros(8, 1)}
    rate.on_train_epoch_start(trainer(), None)  # at 0
    for number in range(4):  # at 10, 15 (left out), 16, 18
        rate.on_train_batch_end(trainer(), None, None, batch, number)
    rate.on_train_epoch_start(trainer(1), None)  # at 100, after a long validation
    rate.on_train_batch_end(trainer(1), None, None, batch, 0)  # at 103
    assert rate.first_step_s == 10.0
    assert rate.images_per_s == pytest.approx(24 / (1 + 2 + 3))


def test_the_images_of_all_processes_count(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 2.0, 4.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    fit = trainer()
    fit.world_size = 3
    rate = Throughput()
    rate.on_train_epoch_start(fit, None)
    for number in range(3):
        rate.on_train_batch_end(fit, None, None, {"image": torch.zeros(8, 1)}, number)
    assert (rate.images, rate.seconds) == (3 * 8, 2.0)


def test_the_clock_of_an_epoch_stops_when_the_device_is_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, waited = [0.0], []

    def wait(device: torch.device) -> None:
        waited.append(device)
        now[0] += 7.0

    monkeypatch.setattr("medvision.callbacks.progress.wait_for", wait)
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    fit, module = trainer(), SimpleNamespace(device=torch.device("cpu"))
    rate = Throughput()
    rate.on_train_epoch_start(fit, module)
    for number in range(3):
        now[0] += 1.0
        fit.is_last_batch = number == 2
        rate.on_train_batch_end(fit, module, None, {"image": torch.zeros(8, 1)}, number)
    assert waited == [module.device]  # once: no step between waits
    assert (rate.images, rate.seconds) == (8, 8.0)


def test_the_memory_is_that_of_the_process_that_trained() -> None:
    rate = Throughput()
    assert rate.peak_memory_mb is None
    rate.on_fit_end(trainer(), SimpleNamespace(device=torch.device("cpu")))
    assert rate.peak_memory_mb is not None
    assert rate.peak_memory_mb > 50


def test_a_fit_of_two_steps_has_no_rate() -> None:
    rate = Throughput()
    rate.on_train_epoch_start(trainer(), None)
    for number in range(2):
        rate.on_train_batch_end(trainer(), None, None, {"image": torch.zeros(8, 1)}, number)
    assert rate.images_per_s is None


def test_no_two_predictions_share_a_file() -> None:
    paths = ["images/a.jpg", "images/sub/a.jpg", "other/a.jpg", "images/A.png", "test/images/b.jpg"]
    names = _png_names([Sample(path=path, target="") for path in paths])
    assert names[:2] == ["a.png", "sub/a.png"]
    assert names[4] == "b.png"
    assert len({name.casefold() for name in names}) == len(paths)


def test_nothing_temporary_is_left(tmp_path: Path) -> None:
    callback = best_and_last(tmp_path)
    callback.on_train_epoch_end(trainer(0, val__dice=0.5), None)
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {
        "best.ckpt",
        "last.ckpt",
    }


def test_an_epoch_that_predicts_nothing_is_best_only_among_its_like(tmp_path: Path) -> None:
    task: Any = SimpleNamespace(predicts_nothing=lambda logged: float(logged["val/recall"]) == 0)
    callback = best_and_last(tmp_path)
    for epoch, (dice, recall) in enumerate([(0.8, 0.0), (0.9, 0.0), (0.6, 0.5), (0.95, 0.0)]):
        found = trainer(epoch, val__dice=dice, val__recall=recall)
        callback.on_train_epoch_end(found, task)
        assert callback.best_epoch == [0, 1, 2, 2][epoch]
    again = best_and_last(tmp_path)
    again.load_state_dict(callback.state_dict())
    assert not again.best_is_empty


def test_an_epoch_of_reduced_images_is_best_only_until_one_of_full_size(tmp_path: Path) -> None:
    sizes = ProgressiveSize()
    callback = best_and_last(tmp_path)
    epochs = [(0.8, True), (0.9, True), (0.5, False), (0.75, False), (0.95, True)]
    for epoch, (dice, sizes.is_reduced) in enumerate(epochs):
        found = trainer(epoch, val__dice=dice)
        found.callbacks = [callback, sizes]
        callback.on_train_epoch_end(found, None)
        assert callback.best_epoch == [0, 1, 2, 3, 3][epoch]
    again = best_and_last(tmp_path)
    again.load_state_dict(callback.state_dict())
    assert (again.best_value, again.best_is_preliminary) == (0.75, False)
