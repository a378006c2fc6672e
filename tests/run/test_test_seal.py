"""Commands that choose hyper-parameters do not use the test split."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medvision.run import main
from medvision.run.storage.test_seal import differing, sealed, sealed_note, start_line


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


def config(**changes: Any) -> dict[str, Any]:
    """Resolved config of a run; a double underscore in a name is a dot."""
    found: dict[str, Any] = {
        "seed": 0,
        "run_dir": None,
        "data": {"_target_": "medvision.data.SegmentationData", "name": "polyps", "root": "/a"},
        "model": {"_target_": "medvision.models.UNet", "base_channels": 16},
        "loss": {"_target_": "torch.nn.BCEWithLogitsLoss"},
        "optimizer": {"lr": 1e-3},
        "trainer": {"accelerator": "cpu", "max_epochs": 3},
    }
    for name, value in changes.items():
        part, _, key = name.partition("__")
        found[part] = {**found[part], key: value} if key else value
    return found


@pytest.mark.parametrize(
    ("changes", "keys"),
    [
        ({"optimizer__lr": 1e-4}, ("optimizer.lr",)),
        ({"seed": 1, "optimizer__lr": 1e-4}, ("optimizer.lr",)),
        ({"loss__reduction": "sum", "trainer__max_epochs": 5}, None),
        ({"model__base_channels": 32}, ("model.base_channels",)),
        ({"data__root": "/b/../a", "optimizer__lr": 1e-4}, ("optimizer.lr",)),
        ({"data__name": "other", "optimizer__lr": 1e-4}, ("optimizer.lr",)),
        ({"model___target_": "medvision.models.unet.UNet", "optimizer__lr": 1.0}, None),
        ({"data__image_size": 64}, ("data.image_size",)),
        ({"optimizer__lr": 1, "seed": 1}, ("optimizer.lr",)),  # lr: ${seed}
        ({}, ()),
        ({"seed": 1}, ()),
        ({"seed": 1, "data__split_seed": 1}, ("data.split_seed",)),
        ({"run_dir": "x", "trainer__accelerator": "gpu"}, ()),
        ({"data__protocol": "grouped", "data__fold": 2}, ()),
        ({"data__root": "/b", "optimizer__lr": 1e-4}, ()),
        ({"model___target_": "medvision.models.SimpleCNN", "optimizer__lr": 1e-4}, ()),
    ],
    ids=str,
)
def test_runs_on_one_data_set_with_one_network_differ_as_in_a_search(
    changes: dict[str, Any], keys: tuple[str, ...] | None
) -> None:
    found = differing([config(), config(**changes)])
    if keys is None:  # several keys, or the path of a class
        assert found
    else:
        assert found == keys


def test_a_seed_that_the_config_copies_is_no_difference() -> None:
    runs = [config(seed=seed, data__seed=seed) for seed in (0, 1, 2)]
    assert differing(runs) == ()
    assert differing([*runs, config(seed=3, data__seed=7)]) == ("data.seed",)


def write_experiments(folder: Path, **contents: str) -> None:
    folder = folder / "own" / "experiment"
    folder.mkdir(parents=True)
    for name, text in contents.items():
        (folder / f"{name}.yaml").write_text(
            f"# @package _global_\ndefaults: [polyp_unet]\n{text}\n"
        )


def stopped(command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Start a command and stop its first run before the training."""

    def stop(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("medvision.run.training.fit.build_trainer", stop)
    assert main(command) == 130


def test_two_experiment_files_that_differ_in_the_learning_rate_are_a_search(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    small: tuple[str, ...],
) -> None:
    monkeypatch.chdir(tmp_path)
    write_experiments(tmp_path, lr_a="optimizer: {lr: 1e-3}", lr_b="optimizer: {lr: 1e-4}", lr_c="")
    command = ["-m", *small, "model.base_channels=2", "audit=skip", "seed=0,1"]
    own = ["--config-dir", str(tmp_path / "own")]
    stopped([*command, "experiment=lr_a,lr_b", *own], monkeypatch)
    assert capfd.readouterr().out.startswith(
        "test split sealed: this command varies optimizer.lr, so hyper-parameters are selected; "
    )
    stopped([*command, "experiment=lr_c,brain_mri_cnn", *own], monkeypatch)
    assert "sealed" not in capfd.readouterr().out


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
    assert [summary["metric_definitions"] for summary in summaries] == [4, 4]
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
