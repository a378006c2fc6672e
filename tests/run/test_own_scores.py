"""A score logged by a user's callback is monitored, logged and shown like any other."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from medvision.run import main
from medvision.run.training.build import _add_column

CALLBACK = """
import torch
from pytorch_lightning import Callback

class MyScore(Callback):
    def on_validation_epoch_end(self, trainer, pl_module):
        values = (0.25, 0.75, 0.5)  # the best epoch is the second
        pl_module.log("val/my_score", torch.tensor(values[trainer.current_epoch]))
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Override that adds the callback."""
    (tmp_path / "own_callback.py").write_text(CALLBACK)
    monkeypatch.syspath_prepend(tmp_path)
    return "+callbacks.mine._target_=own_callback.MyScore"


def test_it_chooses_the_best_epoch_and_is_shown_under_other(
    train: Callable[..., Path], own: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(
        "experiment=polyp_unet",
        "model.base_channels=4",
        "trainer.max_epochs=3",
        "checkpoint.monitor=val/my_score",
        own,
    )
    summary = json.loads((run / "summary.json").read_text())
    assert summary["best_epoch"] == 1
    assert summary["metrics"]["val/my_score"] == 0.75
    with (run / "metrics.csv").open() as stream:
        assert [float(row["val/my_score"]) for row in csv.DictReader(stream)] == [0.25, 0.75, 0.5]
    page = (run / "report.html").read_text()
    other = page[page.index('<section id="other"') :]
    assert "my_score" in other[: other.index("</section>")]
    assert "0.750" in other[: other.index("</section>")]
    screen = capsys.readouterr().out
    assert "my_score 0.2500" in screen  # the line of the first epoch
    assert "0.7500" in screen[screen.index("epoch 2 of 3") :]  # the table at the end


@pytest.mark.slow
def test_a_score_that_is_never_logged_ends_the_run_after_the_first_epoch(
    own: str,
    small: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    given = ("experiment=polyp_unet", "model.base_channels=4", "checkpoint.monitor=val/my_scores")
    assert main([*small, *given, own]) == 2
    line = "val/my_scores was not logged in epoch 1 (checkpoint.monitor); did you mean val/my_score"
    assert line in capsys.readouterr().err


def test_without_a_user_defined_callback_it_is_refused_before_training(
    small: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["experiment=polyp_unet", "checkpoint.monitor=val/my_score", *small]) == 2
    assert (
        "unknown score val/my_score for this task (checkpoint.monitor)" in capsys.readouterr().err
    )


@pytest.mark.parametrize(("name", "column"), [("area", "area"), ("dice", "metrics.dice")])
def test_a_metric_of_single_images_is_a_column_of_the_predictions(
    tmp_path: Path, name: str, column: str
) -> None:
    table = tmp_path / "predictions_test.csv"
    table.write_text('path,dice\nb.png,0.5\n"a,1.png",0.25\nc.png,\n')
    _add_column(table, name, {"a,1.png": 2.0, "b.png": float("nan")})
    assert table.read_text() == f'path,dice,{column}\nb.png,0.5,\n"a,1.png",0.25,2.0\nc.png,,\n'


@pytest.mark.slow
def test_a_loss_is_monitored_by_its_lowest_value(train: Callable[..., Path]) -> None:
    run = train(
        "experiment=polyp_unet",
        "model.base_channels=4",
        "trainer.max_epochs=2",
        "checkpoint.monitor=val/loss",
    )
    assert "mode: min" in (run / "config.yaml").read_text()
    with (run / "metrics.csv").open() as stream:
        losses = [float(row["val/loss"]) for row in csv.DictReader(stream)]
    summary = json.loads((run / "summary.json").read_text())
    assert losses[summary["best_epoch"]] == min(losses)
