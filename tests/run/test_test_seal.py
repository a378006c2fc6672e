"""Commands that choose hyper-parameters do not use the test split."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from medvision.run import main
from medvision.run.storage.test_seal import sealed, sealed_note, start_line


@pytest.mark.parametrize(
    ("overrides", "keys"),
    [
        (["experiment=polyp_unet", "seed=0,1,2"], ()),
        (["experiment=a,b", "seed=range(5)", "data=polyps,kvasir_seg"], ()),
        (["data.protocol=official,grouped", "data.root=/a,/b"], ()),
        (["data.protocol=kfold", "data.folds=5", "data.fold=range(0,5)"], ()),
        (["optimizer.lr=1e-3", "model=unet", "~scheduler", "data.class_names=[a,b]"], ()),
        (["data.root='/a, b'"], ()),
        (["optimizer.lr=1e-3,1e-4"], ("optimizer.lr",)),
        (["seed=0,1", "model=unet,fpn", "loss=bce,dice"], ("model", "loss")),
        (["+model.depth=1,2"], ("model.depth",)),
        (["++optimizer.lr=1,2"], ("optimizer.lr",)),
        (["optimizer.lr=choice(1,2)"], ("optimizer.lr",)),
        (["trainer.max_epochs=range(1,4)"], ("trainer.max_epochs",)),
        (["optimizer.lr=interval(0,1)"], ("optimizer.lr",)),
        (["model=glob(*)"], ("model",)),
        (["optimizer.lr=shuffle(choice(1,2))"], ("optimizer.lr",)),
        (["data.folds=3,5"], ("data.folds",)),
        (["data.split_seed=0,1"], ("data.split_seed",)),
        (["data.image_size=64,128"], ("data.image_size",)),
        (["data={batch_size: 4},{batch_size: 8}"], ("data",)),
        (["data@model=a,b"], ("data",)),
        (["sweep=optuna", "seed=0"], ("sweep",)),
        (["sweep.name=lr"], ("sweep.name",)),
        (["~sweep"], ()),
        ([], ()),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_commands_that_choose_hyper_parameters_are_sealed(
    overrides: list[str], keys: tuple[str, ...]
) -> None:
    assert sealed(overrides) == keys


def test_the_lines_name_the_keys_and_the_next_command() -> None:
    assert start_line(["optimizer.lr", "loss"]) == (
        "test split sealed: this command varies optimizer.lr, loss, so hyper-parameters are"
        " selected; compare the runs on validation, then test the chosen one:"
        " medvision evaluate RUN"
    )
    assert start_line(["sweep"]).startswith("test split sealed: this command is a search, so ")
    assert sealed_note(["loss"], Path("runs", "a")) == (
        "the test split is sealed, because the command varies loss; to test this run, if it is"
        " the chosen one: medvision evaluate runs/a"
    )


@pytest.fixture
def several(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    small: tuple[str, ...],
) -> Callable[..., tuple[Path, str]]:
    """Run a small multirun of phantoms; return its folder and its output."""
    monkeypatch.chdir(tmp_path)

    def run(*overrides: str) -> tuple[Path, str]:
        assert main(["-m", *small, "model.base_channels=2", *overrides]) == 0
        (base,) = tmp_path.glob("runs/multirun/*")
        return base, capfd.readouterr().out

    return run


def test_a_sealed_command_leaves_no_trace_of_the_test_images(
    several: Callable[..., tuple[Path, str]], summary_of: Callable[[Path], dict]
) -> None:
    both = "experiment=brain_mri_cnn,polyp_unet"
    base, screen = several(both, "optimizer.lr=choice(1e-3)", "audit=skip")
    assert screen.splitlines()[0].startswith(
        "test split sealed: this command varies optimizer.lr, so "
    )
    assert screen.count("test split sealed: ") == 1
    assert screen.count("test sealed: mean") == 2
    assert "each run's val accuracy" in screen
    assert "each run's val dice" in screen
    runs = sorted(path for path in base.iterdir() if path.is_dir())
    assert len(runs) == 2
    for run in runs:
        summary = summary_of(run)
        assert summary["sealed"] is True
        assert "test_evaluations" not in summary
        assert {name.split("/")[0] for name in summary["metrics"]} == {"train", "val"}
        assert not list(run.rglob("*test*"))
        assert (run / "predictions_val.csv").exists()
        assert (run / "report.html").exists()
        (note,) = [text for text in summary["warnings"] if text.startswith("the test split is")]
        assert note.endswith(f"medvision evaluate {run.relative_to(Path.cwd())}")
        with (run / "splits.csv").open(newline="") as stream:
            rows = list(csv.DictReader(stream))
        count = sum(row["split"] == "test" for row in rows)
        assert count == summary["dataset"]["num_images"]["test"] > 0
    for name in ("multirun_summary.csv", "multirun_runs.csv"):
        assert "test/" not in (base / name).read_text()
    assert not Path("runs", "test_ledger.csv").exists()


def test_a_sealed_command_with_an_error_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["-m", "experiment=polyp_unet", "data.batch_size=0,-1"]) == 2
    captured = capfd.readouterr()
    assert captured.out == f"{start_line(['data.batch_size'])}\n"
    assert len(captured.err.splitlines()) == 2
    assert list(tmp_path.iterdir()) == []


def test_a_single_run_is_tested_and_counted(
    train: Callable[..., Path], summary_of: Callable[[Path], dict]
) -> None:
    options = ("experiment=polyp_unet", "model.base_channels=2", "audit=skip")
    runs = [train(*options) for _ in range(2)]
    summaries = [summary_of(run) for run in runs]
    assert [summary["test_evaluations"] for summary in summaries] == [1, 2]
    assert [summary["metric_definitions"] for summary in summaries] == [2, 2]
    assert "sealed" not in summaries[0]
    with Path("runs", "test_ledger.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["run"] for row in rows] == [str(run.relative_to(Path.cwd())) for run in runs]
    for row, summary in zip(rows, summaries, strict=True):
        assert row["metric"] == "test/dice"
        assert float(row["value"]) == summary["metrics"]["test/dice"]
        assert row["split_fingerprint"] == summary["dataset"]["test_fingerprint"]
    assert rows[0]["config_hash"] == rows[1]["config_hash"]


def test_a_damaged_ledger_is_found_before_anything_is_trained(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    small: tuple[str, ...],
) -> None:
    monkeypatch.chdir(tmp_path)
    ledger = tmp_path / "runs" / "test_ledger.csv"
    ledger.parent.mkdir()
    ledger.write_text("my,notes\n1,2\n")
    assert main([*small, "experiment=polyp_unet", "model.base_channels=2", "audit=skip"]) == 2
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: expected the first line time,git_sha,")
    assert [path.name for path in ledger.parent.iterdir()] == ["test_ledger.csv"]
    assert ledger.read_text() == "my,notes\n1,2\n"


def test_keys_varied_by_the_config_seal_every_run_from_the_start(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    small: tuple[str, ...],
) -> None:
    monkeypatch.chdir(tmp_path)
    own = tmp_path / "own" / "experiment" / "search.yaml"
    own.parent.mkdir(parents=True)
    own.write_text(
        "# @package _global_\ndefaults: [polyp_unet]\n"
        "hydra: {sweeper: {params: {loss: 'bce,dice'}}}\n"
    )

    def stop(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("medvision.run.training.fit.build_trainer", stop)
    command = ["-m", *small, "experiment=search", "model.base_channels=2", "audit=skip"]
    assert main([*command, "--config-dir", str(tmp_path / "own")]) == 130
    assert capfd.readouterr().out.startswith(
        "test split sealed: this command varies loss, so hyper-parameters are selected; "
    )
    summaries = [json.loads(path.read_text()) for path in tmp_path.glob("runs/*/*/*/summary.json")]
    assert [(s["sealed"], s["status"]) for s in summaries] == [(True, "interrupted")]
