"""Several runs of one command become one row per compared setting."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from rich.console import Console

from medvision.run import main
from medvision.run.multirun.jobs import JobResult
from medvision.run.multirun.summary import summarise
from medvision.run.multirun.tables import print_multirun

Made = tuple[list[Path], list[list[str]]]
NUMBERS = (0.951, 0.957, 0.966)  # mean 0.958, squared deviations 49 + 1 + 64 millionths


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., tuple[Path, list[str]]]:
    def one(
        seed: int,
        metrics: dict[str, Any],
        *,
        experiment: str = "brain",
        status: str = "finished",
        task: str = "classification",
        synthetic: bool = False,
        protocol: str | None = "official",
        sealed: bool = False,
        more: tuple[str, ...] = (),
    ) -> tuple[Path, list[str]]:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}_{experiment}"
        path.mkdir()
        summary = {
            "experiment": experiment,
            "seed": seed,
            "status": status,
            "task": task,
            "best_epoch": 4,
            "dataset": {"synthetic": synthetic}
            | ({} if protocol is None else {"protocol": protocol}),
            "metrics": metrics,
            **({"sealed": True} if sealed else {}),
        }
        (path / "summary.json").write_text(json.dumps(summary))
        return path, [f"experiment={experiment}", f"seed={seed}", *more]

    return one


@pytest.fixture
def three(make: Callable[..., tuple[Path, list[str]]]) -> Made:
    """Three seeds of one experiment."""
    return together(*(make(seed, {"test/accuracy": v}) for seed, v in enumerate(NUMBERS)))


def together(*made: tuple[Path, list[str]]) -> Made:
    return [path for path, _ in made], [overrides for _, overrides in made]


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def screen(made: Made, *, width: int = 80) -> str:
    console = Console(width=width, file=io.StringIO(), force_terminal=True, color_system="standard")
    with console.capture() as printed:
        print_multirun(summarise(*made), console=console)
    return printed.get()


def test_mean_and_sample_deviation_by_hand(three: Made) -> None:
    (group,) = summarise(*three)
    mean, std = group.mean_and_std("test/accuracy")
    assert mean == pytest.approx(0.958)
    assert std == pytest.approx((114e-6 / 2) ** 0.5)


def test_the_seeds_of_one_experiment_share_a_row(tmp_path: Path, three: Made) -> None:
    summarise(*three, base=tmp_path)
    (row,) = rows_of(tmp_path / "multirun_summary.csv")
    assert list(row) == [
        "experiment",
        "overrides",
        "runs",
        "failed",
        "seeds",
        "test/accuracy_mean",
        "test/accuracy_std",
        "test/accuracy_runs",
    ]
    assert (row["experiment"], row["runs"], row["failed"]) == ("brain", "3", "0")
    assert row["seeds"] == "0 1 2"
    assert row["test/accuracy_runs"] == "0.951 0.957 0.966"


def test_the_files_contain_exactly_the_values_of_the_summaries(
    tmp_path: Path, make: Callable[..., Any]
) -> None:
    values = [1 / 3, 0.1 + 0.2, 2 / 7]
    made = together(*(make(seed, {"test/auroc": value}) for seed, value in enumerate(values)))
    (group,) = summarise(*made, base=tmp_path)
    (row,) = rows_of(tmp_path / "multirun_summary.csv")
    assert [float(value) for value in row["test/auroc_runs"].split()] == values
    assert (float(row["test/auroc_mean"]), float(row["test/auroc_std"])) == group.mean_and_std(
        "test/auroc"
    )
    runs = rows_of(tmp_path / "multirun_runs.csv")
    assert [float(run["test/auroc"]) for run in runs] == values
    assert [run["run"] for run in runs] == ["0_brain", "1_brain", "2_brain"]


def test_one_run_has_a_mean_and_no_deviation(tmp_path: Path, make: Callable[..., Any]) -> None:
    made = together(make(7, {"test/accuracy": 0.5}))
    summarise(*made, base=tmp_path)
    (row,) = rows_of(tmp_path / "multirun_summary.csv")
    assert (row["test/accuracy_mean"], row["test/accuracy_std"]) == ("0.5", "")
    assert screen(made).count("50.00") == 2  # in both tables
    assert "50.00 ±" not in screen(made)


def test_runs_that_did_not_finish_are_counted_and_not_averaged(
    tmp_path: Path, make: Callable[..., Any]
) -> None:
    made = together(
        make(0, {"test/accuracy": 0.9}),
        make(1, {"test/accuracy": 0.1}, status="interrupted"),
        (tmp_path / "never_made", ["experiment=brain", "seed=2"]),
        (None, ["experiment=brain", "seed=three"]),
        make(4, {}, status="running"),  # killed
    )
    summarise(*made, base=tmp_path)
    (row,) = rows_of(tmp_path / "multirun_summary.csv")
    assert (row["runs"], row["failed"], row["seeds"]) == ("1", "4", "0")
    assert row["test/accuracy_runs"] == "0.9"
    runs = rows_of(tmp_path / "multirun_runs.csv")
    assert [run["status"] for run in runs] == [
        *("finished", "interrupted", "failed", "failed", "interrupted")
    ]
    assert [run["seed"] for run in runs] == ["0", "1", "2", "three", "4"]
    assert "\x1b[1;31m4 failed" in screen(made)


def test_a_group_without_a_finished_run_keeps_its_row(
    tmp_path: Path, make: Callable[..., Any]
) -> None:
    made = together(make(0, {"test/accuracy": 0.9}), (None, ["experiment=chest", "seed=0"]))
    summarise(*made, base=tmp_path)
    rows = rows_of(tmp_path / "multirun_summary.csv")
    assert [(row["experiment"], row["runs"], row["failed"]) for row in rows] == [
        ("brain", "1", "0"),
        ("chest", "0", "1"),
    ]
    assert rows[1]["test/accuracy_mean"] == rows[1]["test/accuracy_runs"] == ""
    assert "chest" in screen(made)


def test_only_failed_runs_still_give_a_table(tmp_path: Path) -> None:
    made = together((None, ["experiment=brain", "seed=0"]))
    summarise(*made, base=tmp_path)
    assert rows_of(tmp_path / "multirun_summary.csv")[0]["failed"] == "1"
    assert "1 failed" in screen(made)


def test_runs_with_other_overrides_are_other_groups(make: Callable[..., Any]) -> None:
    made = together(
        *(
            make(seed, {"test/accuracy": 0.9}, more=(f"optimizer.lr={rate}", "trainer=cpu"))
            for rate in ("1e-3", "1e-4")
            for seed in (0, 1)
        )
    )
    first, second = summarise(*made)
    assert (first.label, second.label) == ("brain optimizer.lr=1e-3", "brain optimizer.lr=1e-4")
    assert [run.seed for run in second.finished] == [0, 1]


def test_an_override_that_every_run_shares_is_not_in_the_label(
    tmp_path: Path, make: Callable[..., Any]
) -> None:
    made = together(
        make(0, {}, more=("trainer=cpu",)), make(0, {}, experiment="chest", more=("trainer=cpu",))
    )
    assert [group.label for group in summarise(*made)] == ["brain", "chest"]
    summarise(*made, base=tmp_path)
    rows = rows_of(tmp_path / "multirun_summary.csv")
    assert [row["overrides"] for row in rows] == ["trainer=cpu", "trainer=cpu"]


def test_an_undefined_value_is_left_out_of_the_mean_and_shown_as_a_dash(
    tmp_path: Path, make: Callable[..., Any]
) -> None:
    made = together(*(make(seed, {"test/auroc": v}) for seed, v in enumerate((0.5, None, 0.75))))
    summarise(*made, base=tmp_path)
    (row,) = rows_of(tmp_path / "multirun_summary.csv")
    assert (row["test/auroc_mean"], row["test/auroc_runs"]) == ("0.625", "0.5 - 0.75")
    undefined = together(make(0, {"test/auroc": None}))
    summarise(*undefined, base=tmp_path)
    (row,) = rows_of(tmp_path / "multirun_summary.csv")
    assert (row["test/auroc_mean"], row["test/auroc_runs"]) == ("", "-")


def test_the_headline_is_first_and_intervals_and_confusions_are_left_out(
    tmp_path: Path, make: Callable[..., Any]
) -> None:
    metrics = {
        "train/loss": 0.3,
        "test/recall/glioma": 0.7,
        "test/confusion/glioma/none": 3,
        "test/auroc": 0.8,
        "test/accuracy": 0.9,
        "test/accuracy_ci95": [0.8, 0.95],
        "test/auroc_ci95": None,
        "train/accuracy": 0.99,
    }
    summarise(*together(make(0, metrics)), base=tmp_path)
    (row,) = rows_of(tmp_path / "multirun_summary.csv")
    assert [name.removesuffix("_mean") for name in row if name.endswith("_mean")] == [
        "train/accuracy",
        "test/accuracy",
        "test/auroc",
        "train/loss",
        "test/recall/glioma",
    ]


def test_each_task_has_its_own_table_and_its_own_unit(make: Callable[..., Any]) -> None:
    made = together(
        *(make(seed, {"test/accuracy": v}) for seed, v in enumerate((0.97, 0.98))),
        *(
            make(seed, {"test/dice": v}, experiment="polyp", task="segmentation")
            for seed, v in enumerate((0.89, 0.908))
        ),
    )
    text = screen(made)
    assert "97.50 ± 0.71" in text
    assert "0.8990 ± 0.0127" in text
    assert "97.00 98.00" in text
    assert "0.8900 0.9080" in text


def test_columns_of_one_task_are_blank_for_the_other(
    tmp_path: Path, make: Callable[..., Any]
) -> None:
    made = together(
        make(0, {"test/accuracy": 0.5}),
        make(0, {"test/dice": 0.5}, experiment="polyp", task="segmentation"),
    )
    summarise(*made, base=tmp_path)
    brain, polyp = rows_of(tmp_path / "multirun_summary.csv")
    assert (brain["test/dice_mean"], polyp["test/accuracy_mean"]) == ("", "")


def test_phantoms_and_the_leaking_protocol_are_marked(
    tmp_path: Path, make: Callable[..., Any]
) -> None:
    made = together(
        make(0, {}, synthetic=True),
        make(0, {}, experiment="chest", protocol="merged"),
        make(0, {}, experiment="polyp", protocol=None),
    )
    groups = summarise(*made, base=tmp_path)
    assert [group.marks for group in groups] == [" (synthetic data)", " (merged protocol)", ""]
    runs = rows_of(tmp_path / "multirun_runs.csv")
    assert [run["protocol"] for run in runs] == ["official", "merged", ""]
    assert "merged protocol" in screen(made)


def test_all_numbers_of_ten_runs_fit_into_80_columns(make: Callable[..., Any]) -> None:
    scores = ("train/dice", "val/dice", "test/dice", "test/iou")
    made = together(
        *(
            make(
                seed,
                dict.fromkeys(scores, 0.8 + seed / 100),
                experiment="polyp_unet_with_a_long_name",
                task="segmentation",
            )
            for seed in range(10)
        )
    )
    text = screen(made)
    assert text.count("0.8450 ± 0.0303") == 4
    assert all(f"{0.8 + seed / 100:.4f}" in text for seed in range(10))


def test_sealed_runs_show_validation_scores(make: Callable[..., Any]) -> None:
    metrics = {"train/accuracy": 0.99, "val/accuracy": 0.75, "val/auroc": 0.625}
    made = together(
        *(make(0, metrics, sealed=True, more=(f"optimizer.lr={rate}",)) for rate in (1, 2))
    )
    text = screen(made)
    assert "classification, per cent, test sealed: mean" in text
    assert "each run's val accuracy" in text
    assert text.count("62.50") == 2
    assert "test accuracy" not in text.replace("\n", " ")
    segmented = together(make(0, {"val/dice": 0.5}, sealed=True, task="segmentation"))
    assert "each run's val dice" in screen(segmented)


def test_brackets_in_an_override_are_not_read_as_markup(make: Callable[..., Any]) -> None:
    made = together(make(0, {}, more=("a=[red]",)), make(0, {}, more=("a=[1,2]",)))
    assert "brain a=[red]" in screen(made, width=120)


def test_a_wrong_number_of_overrides_is_refused(three: Made) -> None:
    with pytest.raises(ValueError, match="expected overrides of 3 runs, got 2"):
        summarise(three[0], three[1][:2])


@pytest.mark.parametrize("more", [(), ("hydra.verbose=false",)])
def test_each_config_of_a_command_is_composed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...]
) -> None:
    composed, seeds = [], []
    compose = ConfigLoaderImpl._load_configuration_impl

    def count(*args: Any, overrides: list[str], **options: Any) -> Any:
        composed.append(overrides)
        return compose(*args, overrides=overrides, **options)

    def run(job: Any) -> JobResult:
        seeds.append(job.cfg.seed)
        job.cfg.seed = 9  # its own copy
        return JobResult(code=0, run=None)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ConfigLoaderImpl, "_load_configuration_impl", count)
    monkeypatch.setattr("medvision.run.training.job.run_job", run)
    main(["-m", "experiment=brain_mri_cnn", "seed=0,1,2", *more])
    assert seeds == [0, 1, 2]
    of_runs = [overrides[-1] for overrides in composed if "seed=0,1,2" not in overrides]
    assert of_runs == ["seed=0", "seed=1", "seed=2"]
