"""A search from its command to its files, with a stub instead of trainings."""

import csv
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig

from medvision.errors import MedvisionError, Stopped
from medvision.run import main
from medvision.run.config.store import CONF
from medvision.run.multirun.jobs import JOBS, JobResult, read_results, write_result
from medvision.run.search.runner import run_search
from medvision.run.search.settings import Settings, read_overrides, read_settings, text_of

LR = "optimizer.lr=tag(log,interval(1e-5,1e-1))"
COMMAND = ("sweep=random", "experiment=polyp_unet", "sweep.name=a", LR, "loss=bce,dice")
FOLDER = Path("runs", "sweep", "a")


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]


@contextmanager
def hydra_of(*command: str) -> Iterator[tuple[Settings, Any]]:
    """Arguments and config of a command, and Hydra's loader."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        fixed = [o for o in command if not re.search(r"\w\(|,", o.partition("=")[2])]
        config = compose("train", overrides=fixed, return_hydra_config=True)
        loader = GlobalHydra.instance().hydra.config_loader  # type: ignore[union-attr]
        HydraConfig.instance().set_config(config)
        yield read_settings(command, config, loader), loader


class Stub:
    """End trials as a training would, without training.

    Args:
        code: Exit code and error message of the trial with these overrides; (0, None) by default.
    """

    def __init__(
        self, code: Callable[[dict[str, str]], tuple[int, MedvisionError | None]] | None = None
    ) -> None:
        self.code, self.started = code, list[dict[str, str]]()
        self.stop_at: int | None = None
        self.silent: set[int] = set()

    def __call__(self, batch: Sequence[Sequence[str]], first: int) -> None:
        for overrides in batch:
            given = dict(override.partition("=")[::2] for override in overrides)
            self.started.append(given)
            number = int(given["sweep.trial"])
            if self.stop_at == number:
                self.stop_at = None
                raise Stopped(2)
            (FOLDER / JOBS / str(number)).mkdir(parents=True, exist_ok=True)
            (FOLDER / JOBS / str(number) / "begun").touch()
            if number in self.silent:
                continue
            code, error = (0, None) if self.code is None else self.code(given)
            if code == 0:
                write_run(number, [0.1, float(given["optimizer.lr"]), 0.05])
            write_result(FOLDER / JOBS, number, JobResult.of(code, None, error))


def write_run(number: int, dice: Sequence[float], *, status: str = "finished") -> None:
    run = FOLDER / str(number)
    run.mkdir(parents=True, exist_ok=True)
    lines = [f"{epoch},{value}" for epoch, value in enumerate(dice)]
    (run / "metrics.csv").write_text("\n".join(["epoch,val/dice", *lines, ""]))
    (run / "config.yaml").write_text("trainer: {max_epochs: 3}\n")
    dataset = {"synthetic": True, "protocol": "official", "fingerprint": "f"}
    summary = {"status": status, "best_epoch": 1, "timing": {"fit_s": 2.5}, "dataset": dataset}
    (run / "summary.json").write_text(json.dumps(summary))


def search(stub: Stub, *more: str) -> Settings:
    with hydra_of(*COMMAND, *more) as (settings, loader):
        run_search(settings, start=stub, loader=loader)
    return settings


def rows() -> list[dict[str, str]]:
    with (FOLDER / "trials.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_search_runs_the_requested_trials_and_continues_with_a_larger_number() -> None:
    stub = Stub()
    search(stub, "sweep.num_trials=3")
    assert [row["number"] for row in rows()] == ["0", "1", "2"]
    search(stub, "sweep.num_trials=5")
    assert [int(given["sweep.trial"]) for given in stub.started] == [0, 1, 2, 3, 4]
    for row in rows():
        assert row["state"] == "complete"
        assert float(row["value"]) == float(row["optimizer.lr"])  # of the best epoch, 1
        assert (row["epochs"], row["seconds"]) == ("3", "2.5")
        assert row["loss"] in ("bce", "dice")


def test_the_best_config_composes_to_the_values_of_the_trial() -> None:
    settings = search(Stub(), "sweep.num_trials=4", "data.batch_size=3", "model=smp_unet")
    best = max(rows(), key=lambda row: float(row["value"]))
    path = FOLDER / "experiment" / "a_best.yaml"
    text = path.read_text()
    command = "python train.py --config-dir runs/sweep/a experiment=a_best"
    assert f"#   command   {command}\n" in text
    assert yaml.safe_load(text)["optimizer"] == {"lr": float(best["optimizer.lr"])}
    with initialize_config_dir(str(CONF), version_base="1.3"):
        place = f"hydra.searchpath=[file://{FOLDER.absolute()}]"
        found = compose("train", overrides=["experiment=a_best", place])
        one = [f"optimizer.lr={best['optimizer.lr']}", f"loss={best['loss']}"]
        trial = compose("train", overrides=[*settings.fixed_texts, *one])
    assert found == trial


def test_a_stopped_search_continues_with_the_same_values_and_numbers() -> None:
    stub = Stub()
    stub.stop_at = 2
    with pytest.raises(Stopped):
        search(stub, "sweep.num_trials=4")
    assert [row["state"] for row in rows()] == ["complete", "complete", "running"]
    search(stub, "sweep.num_trials=4")
    assert [int(given["sweep.trial"]) for given in stub.started] == [0, 1, 2, 2, 3]
    assert stub.started[2] == stub.started[3]


def test_a_trial_that_ended_unnoticed_is_not_started_again() -> None:
    stub = Stub()
    stub.stop_at = 1
    with pytest.raises(Stopped):
        search(stub, "sweep.num_trials=2")
    write_run(1, [0.1, 0.7], status="finished")
    search(stub, "sweep.num_trials=2")
    assert len(stub.started) == 2  # of which the second was stopped
    assert [row["value"] for row in rows()][1] == "0.7"


def test_a_pruned_trial_keeps_its_best_value() -> None:
    stub = Stub()
    stub.stop_at = 1
    with pytest.raises(Stopped):
        search(stub, "sweep.num_trials=2")
    write_run(1, [0.3, 0.2], status="pruned")
    search(stub, "sweep.num_trials=2")
    assert (rows()[1]["state"], rows()[1]["value"], rows()[1]["epochs"]) == ("pruned", "0.3", "2")
    assert "Pruning ended 1 trial early and saved 1 of 6 epochs (17%)" in page()


def page() -> str:
    return " ".join((FOLDER / "sweep.html").read_text().split())


def test_failed_trials_are_recorded_and_the_search_continues() -> None:
    def code(given: dict[str, str]) -> tuple[int, MedvisionError | None]:
        if given["sweep.trial"] != "1":
            return 0, None
        return 3, MedvisionError("the loss is no number", where="step 7", exit_code=3)

    search(Stub(code), "sweep.num_trials=3")
    assert [row["state"] for row in rows()] == ["complete", "failed", "complete"]
    assert rows()[1]["error"] == "the loss is no number (step 7)"
    assert "trial 1: the loss is no number (step 7)" in page()


def test_wrong_input_that_has_nothing_to_do_with_the_search_ends_it_and_leaves_nothing() -> None:
    error = MedvisionError("/x does not exist", where="data.root", hint="give the folder")
    stub = Stub(lambda _: (2, error))
    with pytest.raises(MedvisionError, match=r"^/x does not exist \(data.root\); give the folder$"):
        search(stub)
    assert len(stub.started) == 1
    assert not Path("runs").exists()


def test_wrong_input_of_a_continued_search_can_be_fixed() -> None:
    error = MedvisionError("/x does not exist", where="data.root")
    stub = Stub(lambda _: (2, error))
    stub.stop_at = 0
    with pytest.raises(Stopped):
        search(stub, "sweep.num_trials=1")
    with pytest.raises(MedvisionError, match="/x does not exist"):
        search(stub, "sweep.num_trials=1")
    stub.code = None
    search(stub, "sweep.num_trials=1")
    assert [row["state"] for row in rows()] == ["complete"]


def test_wrong_input_about_a_searched_key_is_a_failed_trial() -> None:
    error = MedvisionError("too large", where="optimizer.lr")
    stub = Stub(lambda given: (2, error) if given["sweep.trial"] == "0" else (0, None))
    search(stub, "sweep.num_trials=2")
    assert [row["state"] for row in rows()] == ["failed", "complete"]


def test_a_process_that_dies_twice_without_a_message_is_a_failed_trial() -> None:
    stub = Stub()
    stub.silent = {1}
    search(stub, "sweep.num_trials=3")
    assert [int(given["sweep.trial"]) for given in stub.started] == [0, 1, 1, 2]
    assert rows()[1]["error"].startswith("its process ended without a message")


def test_a_launcher_that_starts_nothing_ends_the_search() -> None:
    def broken(batch: Sequence[Sequence[str]], first: int) -> None:
        raise ConnectionError("no cluster")

    with (
        hydra_of(*COMMAND) as (settings, loader),
        pytest.raises(MedvisionError, match=r"no trial could be started: ConnectionError: no clus"),
    ):
        run_search(settings, start=broken, loader=loader)
    assert not Path("runs").exists()


def test_a_search_without_a_complete_trial_ends_with_3() -> None:
    stub = Stub(lambda _: (3, MedvisionError("no memory", exit_code=3)))
    with pytest.raises(MedvisionError, match="no trial was completed") as raised:
        search(stub, "sweep.num_trials=2")
    assert raised.value.exit_code == 3


def test_another_search_with_the_same_name_is_refused_with_the_differences() -> None:
    search(Stub(), "sweep.num_trials=2")
    with pytest.raises(MedvisionError, match=r"another search: data.batch_size is now given \(s"):
        search(Stub(), "sweep.num_trials=2", "data.batch_size=3")


def test_another_search_replaces_one_without_ended_trials() -> None:
    stub = Stub()
    stub.stop_at = 0
    with pytest.raises(Stopped):
        search(stub)
    search(stub, "sweep.num_trials=1", "data.batch_size=3")
    assert len(rows()) == 1


def test_the_page_is_self_contained_and_shows_no_test_score() -> None:
    search(Stub(), "sweep.num_trials=5")
    text = page()
    assert not re.search(r'(src|href)="(?!data:|#)', text)
    assert "test/" not in text
    assert "The test split was not used" in text
    assert "synthetic data" in text
    assert text.count("data:image/png;base64,") == 4


@pytest.mark.parametrize(
    ("override", "line"),
    [
        (
            "sweep.metric=test/dice",
            "test/dice must not be used to compare trials: nothing is selected on the test set"
            " (sweep.metric); use val/dice",
        ),
        (
            "sweep.metric=val/my_score",
            "no direction is set for val/my_score (sweep.mode); add",
        ),
        ("sweep.jobs=2", "2 trials at a time need a launcher that starts them in parallel"),
        ("sweep.num_trials=0", "expected an integer of at least 1, got 0 (sweep.num_trials)"),
        ("sweep.pruner=mean", "expected one of median, none, got mean (sweep.pruner)"),
        ("sweep.name=a/b", "'a/b' is not a valid name of a search (sweep.name); use letters"),
        ("sweep.trial=3", "a search sets this itself (sweep.trial); leave it out"),
        ("run_dir=x", "a search sets this itself (run_dir); leave it out"),
        (
            "optimizer.lr=tag(log,interval(0,1))",
            "expected a log interval above 0, got the low end 0",
        ),
        ("optimizer.lr=tag(big,interval(1,2))", "expected the tag log, got big"),
        ("loss=bce,bcee", "unknown loss bcee (loss=bcee); did you mean bce?"),
        ("optimizer.lrr=interval(0,1)", "unknown config key optimizer.lrr"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(
    override: str, line: str, capfd: pytest.CaptureFixture[str]
) -> None:
    given = dict(o.split("=", 1) for o in [*COMMAND, override] if o.split("=")[0] != "-m")
    assert main([*(f"{key}={value}" for key, value in given.items())]) == 2
    assert capfd.readouterr().err.startswith(f"error: {line}")
    assert not Path("runs").exists()


def test_a_search_without_a_range_is_refused_with_an_example(
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert main(["sweep=tpe", "experiment=polyp_unet"]) == 2
    assert capfd.readouterr().err.startswith(
        "error: no key has a range to search (command line); give"
    )


def test_searched_and_fixed_keys_are_read_from_the_command() -> None:
    command = [
        "sweep=tpe",
        "sweep.seed=3",
        "sweep.num_trials=4",
        "experiment=polyp_unet",
        "optimizer.lr=interval(0.1,1)",
        "a=int(interval(1,9))",
        "+b=tag(log,int(interval(1,64)))",
        "c=range(2,9,3)",
        "d=range(0.1,0.4,0.1)",
        "loss=bce,dice",
        "scheduler=glob(*)",
        "data.batch_size=2",
        "~callbacks.x",
    ]
    with hydra_of(*COMMAND) as (_, loader):
        keys, fixed, own = read_overrides(command, loader)
    assert {key.given: key.values.described() for key in keys} == {
        "optimizer.lr": "0.1 to 1",
        "a": "1 to 9, whole",
        "+b": "1 to 64, whole, log",
        "c": "2 to 8 by 3, whole",
        "d": "0.1 to 0.3 by 0.1",
        "loss": "bce, dice",
        "scheduler": "constant, cosine, plateau",
    }
    assert [text_of(override) for override in fixed] == [
        "experiment=polyp_unet",
        "data.batch_size=2",
        "~callbacks.x",
    ]
    assert own == ("sweep=tpe", "sweep.seed=3", "sweep.num_trials=4")


def test_results_of_jobs_come_back_by_number(tmp_path: Path) -> None:
    results = [JobResult(code=0, run=Path("r"), overrides=("seed=1",)), JobResult(code=3, run=None)]
    write_result(tmp_path, 10, results[1])
    write_result(tmp_path, 2, results[0])
    assert read_results(tmp_path) == results
    earlier = tmp_path / "2" / "result.json"  # as an earlier version wrote it
    earlier.write_text(earlier.read_text().replace('"reported"', '"told"'))
    assert read_results(tmp_path) == results


@pytest.mark.slow
def test_a_real_search_trains_seals_and_its_best_config_runs_and_is_tested(
    small: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    given = [*small, "experiment=polyp_unet", "sweep.name=a", LR, "audit=skip"]
    assert main([*given, "sweep=tpe", "sweep.num_trials=2", "model.base_channels=2"]) == 0
    out = capfd.readouterr().out
    assert out.startswith("test split sealed: this command is a search, so")
    assert out.strip().splitlines()[-1] == "runs/sweep/a"
    for number in range(2):
        run = FOLDER / str(number)
        summary = json.loads((run / "summary.json").read_text())
        assert summary["sealed"]
        assert not [name for name in summary["metrics"] if name.startswith("test/")]
        with (run / "metrics.csv").open(newline="") as file:
            values = [row["val/dice"] for row in csv.DictReader(file)]
        assert rows()[number]["value"] == values[summary["best_epoch"]]
    assert main(["--config-dir", str(FOLDER), "experiment=a_best"]) == 0
    (best,) = Path("runs", "a_best").iterdir()
    summary = json.loads((best / "summary.json").read_text())
    assert "test/dice" in summary["metrics"]
