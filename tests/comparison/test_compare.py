"""Comparison of finished runs: groups over seeds, means by hand, and notes on fairness."""

import csv
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from medvision.comparison.caveats import doubts
from medvision.comparison.compare import Comparison, compare, print_comparison
from medvision.comparison.runs import Group, group_runs, mean_and_std, read_run, settings_of
from medvision.comparison.verdicts import compare_pairs
from medvision.errors import MedvisionError
from medvision.files import take_lock

NUMBERS = (0.951, 0.957, 0.966)  # mean 0.958, squared deviations 49 + 1 + 64 millionths
Make = Callable[..., Path]


@pytest.fixture
def three(make: Make) -> list[Path]:
    """Three seeds of one setting."""
    return [make(f"pets/{seed}", seed, value) for seed, value in enumerate(NUMBERS)]


def groups_of(*runs: Path) -> list[Group]:
    return group_runs([read_run(run) for run in runs])


def compared(*runs: Path) -> Comparison:
    """Result of ``compare`` without its files."""
    groups = tuple(groups_of(*runs))
    pairs = tuple(compare_pairs(groups))
    return Comparison(groups=groups, pairs=pairs, notes=tuple(doubts(groups)), out=Path("out"))


def notes_of(*runs: Path) -> list[str]:
    return doubts(groups_of(*runs))


def error_of(*runs: Path) -> str:
    with pytest.raises(MedvisionError) as caught:
        compare(runs, out=Path("never"))
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_mean_and_deviation_over_seeds_by_hand(three: list[Path]) -> None:
    (group,) = compared(*three).to_dict()["groups"]
    accuracy = group["metrics"]["test/accuracy"]
    assert accuracy["mean"] == pytest.approx(0.958)
    assert accuracy["std"] == pytest.approx((114e-6 / 2) ** 0.5)
    assert accuracy["values"] == list(NUMBERS)
    assert accuracy["ci95"] == [[0.8, 0.99]] * 3
    assert accuracy["difference_to_first"] is None
    assert group["seeds"] == [0, 1, 2]
    assert group["size"] == "3 seeds"
    assert [run["name"] for run in group["runs"]] == ["pets/0", "pets/1", "pets/2"]
    assert "test/confusion/cat/dog" not in group["metrics"]


def test_the_files_contain_the_same_values_and_one_run_has_no_deviation(
    three: list[Path], make: Make, tmp_path: Path
) -> None:
    alone = make("pets/low", 0, 0.9, settings={"optimizer.lr": 0.01})
    comparison = compare([*three, alone], out=tmp_path / "out")
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == [f"comparison{end}" for end in (".csv", ".html", ".json", "_pairs.csv")]
    content = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert content == comparison.to_dict()
    found = content["groups"][1]["metrics"]["test/accuracy"]
    assert found["std"] is None
    assert found["difference_to_first"] == pytest.approx(0.9 - 0.958)
    with (tmp_path / "out" / "comparison.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["test/accuracy_std"] for row in rows][1] == ""
    assert float(rows[0]["test/accuracy_mean"]) == pytest.approx(0.958)
    assert [row["seeds"] for row in rows] == ["0 1 2", "0"]
    assert "only one seed, so no spread over seeds, in group 2" in comparison.notes
    with (tmp_path / "out" / "comparison_pairs.csv").open(newline="") as file:
        pairs = list(csv.DictReader(file))
    assert [row["metric"] for row in pairs] == [
        "test/accuracy",
        "test/balanced_accuracy",
        "test/auroc",
    ]
    assert [row["verdict"] for row in pairs] == ["alike", "", ""]
    assert float(pairs[0]["p"]) == 1


def test_undefined_values_are_left_out_of_the_mean() -> None:
    assert mean_and_std([0.5, None, 0.7]) == (pytest.approx(0.6), pytest.approx(0.02**0.5))
    assert mean_and_std([None, 0.7]) == (0.7, None)
    assert mean_and_std([None]) == (None, None)


def test_an_undefined_score_is_counted_as_such(make: Make) -> None:
    runs = [make("pets/0", 0, None), make("pets/1", 1, 0.8)]
    (group,) = compared(*runs).to_dict()["groups"]
    found = group["metrics"]["test/accuracy"]
    assert (found["mean"], found["std"], found["num_values"]) == (0.8, None, 1)


def test_seeds_and_run_folders_are_not_settings() -> None:
    settings = settings_of(
        {
            "seed": 3,
            "run_dir": "runs/x",
            "data": {"seed": 3, "split_seed": 5},
            "logger": {"save_dir": "runs/x/logs", "name": "runs/xy"},
            "loss": {"_target_": "medvision.losses.Dice", "smooth": 1.0},
        }
    )
    assert settings == {
        "data.split_seed": 5,
        "logger.save_dir": "<run_dir>/logs",
        "logger.name": "runs/xy",
        "loss": "medvision.losses.Dice",
        "loss.smooth": 1.0,
    }


def test_another_split_seed_is_another_group(make: Make) -> None:
    runs = [make("pets/0"), make("pets/1", settings={"data.split_seed": 1})]
    labels = [group.label for group in groups_of(*runs)]
    assert labels == ["pets data.split_seed=0", "pets data.split_seed=1"]


def test_labels_name_the_differences_in_a_few_words(make: Make) -> None:
    many = {
        "optimizer.lr": 0.01,
        "model._target_": "medvision.models.AlexNet",
        "data.root": "/data/of/pets",
        "data.image_size": 64,
        "model.image_size": 64,  # follows data.image_size: not named twice
        "data.split_seed": 7,
    }
    runs = [make("pets/0"), make("pets/1", settings=many), make("other/0", experiment="other")]
    first, second, other = (group.label for group in groups_of(*runs))
    assert first == "pets model=SimpleCNN optimizer.lr=0.001 data.image_size=32 +2"
    assert second == "pets model=AlexNet optimizer.lr=0.01 data.image_size=64 +2"
    assert other == "other"


def test_labels_that_would_be_equal_are_numbered(make: Make) -> None:
    roots = ("/one/pets", "/two/pets")
    runs = [make(f"pets/{n}", settings={"data.root": root}) for n, root in enumerate(roots)]
    labels = [group.label for group in groups_of(*runs)]
    assert labels == ["pets data.root=.../pets #1", "pets data.root=.../pets #2"]


def test_a_repeated_seed_gives_no_spread(make: Make) -> None:
    runs = [make("pets/0", 4, 0.8), make("pets/1", 4, 0.9)]
    (group,) = groups_of(*runs)
    assert group.mean_and_std("test/accuracy") == (pytest.approx(0.85), None)
    assert group.size == "2 runs, 1 seed"
    assert notes_of(*runs) == [
        "more than one run has seed 4 in group 1: no spread over seeds is given, and the mean"
        " counts each of these runs"
    ]


def test_similar_runs_give_no_note(three: list[Path]) -> None:
    assert notes_of(*three) == []


def test_other_training_data_and_sizes_are_reported(make: Make) -> None:
    other = {"fingerprint": "0123456789"}
    notes = notes_of(
        make("pets/0"), make("pets/1", 1, dataset=other, settings={"data.image_size": 64})
    )
    assert (
        "the test images are the same, but the other data differ: fingerprint ffffffff in group 1;"
        " fingerprint 01234567 in group 2" in notes
    )
    assert "the image sizes differ: 32 px in group 1; 64 px in group 2" in notes


def test_the_leak_of_the_merged_protocol_is_reported(make: Make) -> None:
    runs = [make(f"pets/{seed}", seed, dataset={"protocol": "merged"}) for seed in range(2)]
    assert notes_of(*runs) == [
        "data leakage by the merged protocol in group 1: images of one patient and"
        " near-duplicates can be in both train and test"
    ]


def test_folds_are_reported_and_missing_ones_counted(make: Make) -> None:
    runs = [
        make(
            f"pets/{fold}",
            images=(f"{fold}.png",),
            dataset={"protocol": "kfold"},
            settings={"data.protocol": "kfold", "data.fold": fold, "data.folds": 5},
        )
        for fold in range(2)
    ]
    (group,) = groups_of(*runs)
    assert group.size == "2 folds, 1 seed"
    assert group.repeated_seeds == []
    assert notes_of(*runs) == [
        "group 1 pools 2 of 5 folds; their AUROC ranks the probabilities of several models"
        " together",
        "only one seed, so no spread over seeds, in group 1",
    ]


def test_synthetic_images_are_reported(make: Make) -> None:
    drawn = {"synthetic": True}
    runs = [make(f"pets/{seed}", seed, dataset=drawn) for seed in range(2)]
    assert notes_of(*runs) == [
        "all images are generated by code; scores on them do not apply to patients"
    ]


def test_the_roc_of_two_classes_is_that_of_the_second(make: Make) -> None:
    # dogs at 0.2 and 0.6, cats at 0 and 0.4
    curve = read_run(make("pets/0")).roc()
    assert curve is not None
    assert curve[0].tolist() == [0, 0, 0.5, 0.5, 1]
    assert curve[1].tolist() == [0, 0.5, 0.5, 1, 1]


def test_the_roc_of_more_classes_is_their_mean(make: Make) -> None:
    path = make("pets/0")
    (path / "predictions_test.csv").write_text(
        "path,target,predicted,probability/a,probability/b,probability/c\n"
        "1,a,a,0.8,0.1,0.1\n"
        "2,b,b,0.1,0.8,0.1\n"
        "3,b,a,0.9,0.1,0\n"
    )
    curve = read_run(path).roc()  # nothing is c: undefined, left out
    assert curve is not None
    # a: area 1/2, for one of the two others scores higher; b: 3/4, for one pair of two is tied
    assert np.trapezoid(curve[1], curve[0]) == pytest.approx((1 / 2 + 3 / 4) / 2)


def test_the_roc_of_pixels_is_read_from_its_file(make: Make) -> None:
    path = make("polyps/0", task="segmentation")
    assert read_run(path).roc() is None
    (path / "roc_test.csv").write_text(
        "false_positive_rate,true_positive_rate,threshold\n0,0,1\n0.25,0.5,0.5\n1,1,0\n"
    )
    curve = read_run(path).roc()
    assert curve is not None
    assert [points.tolist() for points in curve] == [[0, 0.25, 1], [0, 0.5, 1]]


def test_an_undefined_rate_gives_no_curve(make: Make) -> None:
    path = make("polyps/0", task="segmentation")
    (path / "roc_test.csv").write_text(
        "false_positive_rate,true_positive_rate,threshold\n0,,1\n1,,0\n"
    )
    assert read_run(path).roc() is None


def test_a_folder_that_is_not_a_run_is_refused(make: Make, tmp_path: Path) -> None:
    run, empty = make("pets/0"), tmp_path / "empty"
    empty.mkdir()
    assert error_of(run, empty) == (
        f"not a run folder: it has no summary.json ({empty}); give a run folder,"
        " such as runs/<experiment>/<time>"
    )
    (run / "config.yaml").unlink()
    assert error_of(run, empty).startswith(f"not a run folder: it has no config.yaml ({run});")


def test_an_evaluation_is_refused(make: Make) -> None:
    runs = [make("pets/0"), make("pets/1", 1, evaluated={"run": "x"})]
    (runs[1] / "config.yaml").unlink()
    assert error_of(*runs) == (
        f"expected a run, got an evaluation ({runs[1]}); name the run that was evaluated"
    )


def test_an_unfinished_run_is_refused(make: Make) -> None:
    for status in ("interrupted", "running"):  # a killed run cannot correct its status
        runs = [make(f"{status}/0"), make(f"{status}/1", 1, status=status)]
        assert error_of(*runs) == (
            f"the run did not finish: its status is interrupted ({runs[1]});"
            f" continue it: python train.py resume={runs[1]}"
        )
    release = take_lock(runs[1] / ".lock", wait=False)
    assert release is not None
    assert error_of(*runs) == (
        f"the run is still being trained by another process ({runs[1]}); wait for its end"
    )
    release()


def test_one_run_is_not_enough(make: Make) -> None:
    assert error_of(make("pets/0")) == (
        "expected at least two runs, got 1 (RUN); name the folders of two or more runs"
    )


def test_a_run_named_twice_is_refused_however_its_path_is_written(make: Make) -> None:
    run = make("pets/0")
    again = run / ".." / "0"
    assert error_of(run, again) == f"the same run is named twice ({again}); name each run once"


def test_runs_of_two_tasks_are_refused(make: Make) -> None:
    runs = [make("pets/0"), make("polyps/0", task="segmentation")]
    assert error_of(*runs) == (
        f"runs of different tasks cannot be compared: classification in {runs[0]}, segmentation"
        f" in {runs[1]} (RUN); compare runs of one task"
    )


def test_a_broken_table_is_named(make: Make) -> None:
    runs = [make("pets/0"), make("pets/1", 1)]
    (runs[1] / "metrics.csv").write_text("epoch,val/loss\n0,low\n")
    assert error_of(*runs) == f"expected a number, got 'low' ({runs[1] / 'metrics.csv'})"
    (runs[1] / "metrics.csv").write_text("loss\n1\n")
    assert error_of(*runs) == f"missing column epoch ({runs[1] / 'metrics.csv'})"


def test_a_folder_that_cannot_be_created_ends_with_3(three: list[Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MedvisionError, match="cannot write the comparison") as caught:
        compare(three, out=tmp_path / "file" / "out")
    assert caught.value.exit_code == 3


def test_the_tables_on_the_screen_fit_80_columns(three: list[Path], make: Make) -> None:
    long = "a_rather_long_name_of_a_run_folder/2026-11-22_00-18-57"
    comparison = compared(*three, make(long, settings={"optimizer.lr": 1.0}))
    console = Console(width=80, file=io.StringIO())
    with console.capture() as printed:
        print_comparison(comparison, console=console)
    *lines, page = printed.get().splitlines()
    assert max(map(len, lines)) <= 80
    assert page == "out/comparison.html"
    text = "\n".join(lines)
    assert "0.958 ± 0.008" in text
    assert "0.800 to 0.990" in text
    assert "0.900 ±" not in text  # one run: no deviation
    assert "note: only one seed" in text
    assert "No difference between pets optimizer.lr=0.001 and pets optimizer.lr=1.0:" in text
    assert "p from 16 permutations" in text


def test_importing_it_loads_nothing_heavy() -> None:
    heavy = ("torch", "pytorch_lightning", "matplotlib", "jinja2", "cv2", "scipy")
    code = (
        "import sys, medvision.comparison.compare\n"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_comparing_loads_no_torch(make: Make, tmp_path: Path) -> None:
    runs = [str(make(f"pets/{n}", settings={"optimizer.lr": float(n)})) for n in range(2)]
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from medvision.comparison.compare import compare, print_comparison\n"
        f"print_comparison(compare([Path(p) for p in {runs!r}], out=Path({str(tmp_path)!r})))\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
