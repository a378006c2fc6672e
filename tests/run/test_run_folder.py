"""The run folder has the documented files, and their numbers are correct."""

import csv
import datetime
import json
import math
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml

from convention_tables import dice_by_convention
from medvision.data.phantoms.polyps import draw_polyp_scene
from medvision.errors import MedvisionError
from medvision.files import take_lock
from medvision.run import main
from medvision.run.main import _new_base
from medvision.run.storage.run_folder import RunFolder


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def summary_at(run: Path) -> dict:
    return json.loads((run / "summary.json").read_text())


def test_every_file_of_the_contract_is_there(finished: Path) -> None:
    names = {str(path.relative_to(finished)) for path in finished.rglob("*") if path.is_file()}
    assert {
        "config.yaml",
        "environment.json",
        "splits.csv",
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
        "metrics.csv",
        "predictions_test.csv",
        "predictions_val.csv",
        "summary.json",
        "plots/loss.png",
        "plots/accuracy.png",
        "plots/iou.png",
        "plots/dice.png",
        "plots/roc.png",
        "plots/test_images.png",
    } <= names
    assert not [name for name in names if ".tmp" in name]


def test_the_folder_is_named_by_experiment_and_time(finished: Path) -> None:
    assert finished.parent.name == "polyp_unet"
    datetime.datetime.strptime(finished.name, "%Y-%m-%d_%H-%M-%S")


def test_the_summary_has_every_key(finished: Path) -> None:
    summary = summary_at(finished)
    assert summary["experiment"] == "polyp_unet"
    assert summary["seed"] == 0
    assert summary["task"] == "segmentation"
    assert summary["status"] == "finished"
    assert summary["dataset"]["synthetic"] is True
    assert len(summary["dataset"]["fingerprint"]) == 64
    assert sum(summary["dataset"]["num_images"].values()) == 60
    assert summary["model"]["name"] == "UNet"
    assert summary["model"]["num_parameters"] > 100_000
    assert summary["epochs"] == 2
    assert summary["best_epoch"] in (0, 1)
    assert (finished / summary["best_checkpoint"]).exists()
    assert summary["device"] == "cpu"
    assert any("only 7 test images" in warning for warning in summary["warnings"])
    assert [size["num_images"] for size in summary["lesion_sizes"]]
    timing = summary["timing"]
    assert set(timing) == {"fit_s", "time_to_first_step_s", "train_images_per_s", "peak_memory_mb"}
    assert all(value > 0 for value in timing.values())


def test_the_best_epoch_has_the_largest_validation_dice(finished: Path) -> None:
    rows = rows_of(finished / "metrics.csv")
    best = max(rows, key=lambda row: float(row["val/dice"]))
    summary = summary_at(finished)
    assert int(best["epoch"]) == summary["best_epoch"]
    assert float(best["val/dice"]) == pytest.approx(summary["metrics"]["val/dice"], abs=1e-6)
    assert float(best["train/dice"]) == pytest.approx(summary["metrics"]["train/dice"], abs=1e-6)


def test_metrics_csv_has_the_documented_columns(finished: Path) -> None:
    header = (finished / "metrics.csv").read_text().splitlines()[0].split(",")
    assert header[:5] == ["epoch", "train/loss", "val/loss", "train/dice", "val/dice"]
    names = (
        "dice_global",
        "iou",
        "iou_global",
        "accuracy",
        "precision",
        "recall",
        "specificity",
        "auroc",
    )
    for name in names:
        assert {f"train/{name}", f"val/{name}"} <= set(header)
    assert not [name for name in header if name.startswith("test/")]


def test_test_scores_equal_the_formulas_on_the_stored_predictions(finished: Path) -> None:
    """The documented formulas in NumPy, with the masks drawn again."""
    config = yaml.safe_load((finished / "config.yaml").read_text())
    dice, iou, seen = [], [], 0
    for row in rows_of(finished / "predictions_test.csv"):
        probability = cv2.imread(str(finished / row["predicted"]), cv2.IMREAD_UNCHANGED)
        assert probability.dtype == np.uint8
        assert probability.shape == (config["data"]["image_size"],) * 2
        index = int(Path(row["path"]).stem.split("_")[1])
        mask = draw_polyp_scene(index, size_px=32, seed=config["data"]["split_seed"])[1] > 0
        predicted = probability >= 128
        overlap = (predicted & mask).sum()
        dice.append((2 * overlap + 1e-7) / (predicted.sum() + mask.sum() + 1e-7))
        iou.append((overlap + 1e-7) / ((predicted | mask).sum() + 1e-7))
        assert float(row["dice"]) == pytest.approx(dice[-1], abs=1e-6)
        seen += 1
    summary = summary_at(finished)
    assert seen == summary["dataset"]["num_images"]["test"]
    assert summary["metrics"]["test/dice"] == pytest.approx(np.mean(dice), abs=1e-6)
    assert summary["metrics"]["test/iou"] == pytest.approx(np.mean(iou), abs=1e-6)
    low, high = summary["metrics"]["test/dice_ci95"]
    assert low <= summary["metrics"]["test/dice"] <= high


def test_the_other_conventions_give_other_numbers_on_the_same_predictions(finished: Path) -> None:
    probabilities, masks = [], []
    for row in rows_of(finished / "predictions_test.csv"):
        pixels = cv2.imread(str(finished / row["predicted"]), cv2.IMREAD_UNCHANGED)
        probabilities.append(pixels / np.float32(256))
        index = int(Path(row["path"]).stem.split("_")[1])
        masks.append(draw_polyp_scene(index, size_px=32, seed=0)[1] > 0)
    table = dice_by_convention(probabilities, masks)
    ours = summary_at(finished)["metrics"]["test/dice"]
    assert len(table) == 12
    assert table["per_image"] == pytest.approx(ours, abs=1e-6)
    assert len({round(value, 4) for value in table.values()}) >= 6
    assert all(0 <= value <= 1 for value in table.values())


def test_checkpoints_load_without_this_project(finished: Path) -> None:
    for name in ("best", "last"):
        checkpoint = torch.load(finished / "checkpoints" / f"{name}.ckpt", weights_only=True)
        assert all(isinstance(value, torch.Tensor) for value in checkpoint["state_dict"].values())
        facts = checkpoint["medvision"]
        assert facts["class_names"] == ["background", "polyp"]
        assert facts["model"]["name"] == "medvision.models.UNet"
        assert facts["model"]["arguments"]["base_channels"] == 4
        assert facts["mean"] == checkpoint["state_dict"]["model.normalize.mean"].flatten().tolist()


def test_the_stored_config_is_plain_and_resolved(finished: Path) -> None:
    text = (finished / "config.yaml").read_text()
    assert "${" not in text
    assert "auto" not in {line.split(": ")[-1] for line in text.splitlines() if "precision" in line}
    config = yaml.safe_load(text)
    assert config["experiment"] == "polyp_unet"
    assert config["trainer"]["accelerator"] == "cpu"


def test_the_environment_names_packages_hardware_and_command(finished: Path) -> None:
    environment = json.loads((finished / "environment.json").read_text())
    assert (
        environment["packages"]["torch"] == torch.__version__.split("+")[0]
        or environment["packages"]["torch"] == torch.__version__
    )
    assert environment["hardware"]["cores"] >= 1
    assert "experiment=polyp_unet" in environment["command"]
    assert set(environment["git"]) == {"sha", "dirty"}


def test_splits_csv_lists_every_sample_once(finished: Path) -> None:
    rows = rows_of(finished / "splits.csv")
    assert list(rows[0]) == ["split", "path", "target", "group"]
    assert len({row["path"] for row in rows}) == len(rows) == 60
    counts = summary_at(finished)["dataset"]["num_images"]
    for stage, count in counts.items():
        assert sum(row["split"] == stage for row in rows) == count


def test_the_same_seed_twice_gives_the_same_metrics(train: Callable[..., Path]) -> None:
    options = (
        "experiment=polyp_unet",
        "model.base_channels=4",
        "+data.train_transforms={HorizontalFlip: {p: 0.5}, Affine: {rotate: [-20, 20], p: 0.9}}",
    )
    first = (train(*options) / "metrics.csv").read_text()
    second = (train(*options, "data.num_workers=1") / "metrics.csv").read_text()
    other = (train(*options, "seed=1") / "metrics.csv").read_text()
    assert first == second
    assert first != other


def test_a_user_folder_trains_and_its_split_can_be_kept(
    train: Callable[..., Path],
    make_folder: Callable[..., Path],
    summary_of: Callable[[Path], dict],
    small: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root = make_folder(20)
    options = ("experiment=polyp_unet", "model.base_channels=2", "trainer.limit_train_batches=1")
    first = train(*options, f"data.root={root}")
    summary = summary_of(first)
    assert summary["dataset"]["synthetic"] is False
    row = rows_of(first / "predictions_test.csv")[0]
    assert float(row["dice_original"]) >= 0

    def stop(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("medvision.run.training.fit.build_trainer", stop)
    kept = (f"data.root={root}", f"data.splits={first / 'splits.csv'}", "data.split_seed=9")
    assert main([*small, *options, *kept, "run_dir=kept"]) == 130
    assert Path("kept/splits.csv").read_text() == (first / "splits.csv").read_text()


@pytest.mark.slow
def test_a_run_continues_from_a_checkpoint(train: Callable[..., Path]) -> None:
    options = ("experiment=polyp_unet", "model.base_channels=4")
    whole = train(*options, "trainer.max_epochs=3")
    part = train(*options, "trainer.max_epochs=2")
    rest = train(*options, "trainer.max_epochs=3", f"ckpt_path={part / 'checkpoints/last.ckpt'}")
    assert (rest / "metrics.csv").read_text() == (whole / "metrics.csv").read_text()
    tensors = [
        torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
        for run in (whole, rest)
    ]
    assert all(torch.equal(tensors[0][name], tensors[1][name]) for name in tensors[0])


def test_an_infinite_loss_stops_the_run_and_is_in_no_checkpoint(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    small: tuple[str, ...],
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = [*small, "experiment=polyp_unet", "model.base_channels=2", "optimizer.lr=1e38"]
    assert main([*arguments, "trainer.max_epochs=9", "model.batch_norm=false"]) == 3
    line = capfd.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("error: the training loss became NaN or infinite in epoch ")
    (run,) = tmp_path.glob("runs/*/*")
    assert summary_at(run)["status"] == "failed"
    for path in (run / "checkpoints").iterdir():
        state = torch.load(path, weights_only=True)["state_dict"]
        assert all(math.isfinite(float(value.float().sum())) for value in state.values())


def test_several_classes_with_colours_train_end_to_end(
    train: Callable[..., Path], make_folder: Callable[..., Path], summary_of: Callable[[Path], dict]
) -> None:
    root = make_folder(80)
    for number, path in enumerate(sorted((root / "masks").iterdir())):
        foreground = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) > 0
        colors = np.zeros((*foreground.shape, 3), np.uint8)
        colors[foreground] = (0, 0, 255) if number % 2 else (255, 0, 0)  # BGR
        cv2.imwrite(str(path), colors)
    run = train(
        "experiment=polyp_unet",
        "model.base_channels=2",
        f"data.root={root}",
        "data.num_classes=3",
        "data.class_names=[background,red,blue]",
        "data.color_map=[[0,0,0],[255,0,0],[0,0,255]]",
        "loss=bce_dice",
    )
    metrics = summary_of(run)["metrics"]
    assert {"test/dice/red", "test/dice/blue", "test/auroc"} <= set(metrics)
    each = [metrics[f"test/dice/{name}"] for name in ("red", "blue")]
    known = [value for value in each if value is not None]  # of classes that the images contain
    assert metrics["test/dice"] == pytest.approx(sum(known) / len(known), abs=1e-6)
    for name in ("dice", "dice_original", "dice/red", "iou/blue", "recall", "dice_global"):
        low, high = metrics[f"test/{name}_ci95"]
        resolution = 1e-7  # of float32, in which scores are kept
        assert low - resolution <= metrics[f"test/{name}"] <= high + resolution, name
    assert "dice_original" in rows_of(run / "predictions_test.csv")[0]


@pytest.mark.parametrize(
    "override",
    [
        "data.val_fraction=0",
        pytest.param("trainer.limit_val_batches=0", marks=pytest.mark.slow),
        "data.test_fraction=0",
    ],
)
def test_a_split_may_be_empty(
    train: Callable[..., Path], summary_of: Callable[[Path], dict], override: str
) -> None:
    run = train("experiment=polyp_unet", "model.base_channels=2", override)
    summary = summary_of(run)
    left_out = "test" if "test" in override else "val"
    assert not [name for name in summary["metrics"] if name.startswith(f"{left_out}/")]
    assert not (run / f"predictions_{left_out}.csv").exists()
    reported = [text for text in summary["warnings"] if "val/dice was undefined" in text]
    assert len(reported) == (left_out == "val")
    assert (run / "report.html").exists()


@pytest.mark.slow
def test_several_runs_of_one_command_are_beside_their_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    fewer = [o for o in small if not o.startswith("data.num_images")]
    arguments = [*fewer, "data.num_images=12", "experiment=polyp_unet", "model.base_channels=2"]
    assert main(["-m", *arguments, "seed=0,1"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    (base,) = tmp_path.glob("runs/multirun/*")
    assert {path.name for path in base.iterdir()} == {
        "0_polyp_unet",
        "1_polyp_unet",
        "multirun_runs.csv",
        "multirun_summary.csv",
    }
    rows = rows_of(base / "multirun_runs.csv")
    assert [row["seed"] for row in rows] == ["0", "1"]
    for row in rows:
        own = summary_at(base / row["run"])["metrics"]["test/dice"]
        assert float(row["test/dice"]) == pytest.approx(own)


def plan(run_dir: str | None) -> RunFolder:
    return RunFolder.plan("polyp_unet", run_dir, multirun=None, number=None)


@pytest.mark.parametrize("exists", [False, True])
@pytest.mark.parametrize("ended", [False, True])
def test_of_two_runs_with_one_folder_the_second_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exists: bool, ended: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    if exists:
        Path("mine").mkdir()
    first, second = plan("mine"), plan("mine")  # both find it free
    first.create()
    if ended:
        first.release()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(MedvisionError) as error:
        second.create()
    assert str(error.value) == "mine is not an empty folder (run_dir); name a new folder"
    assert not second.exists
    assert sorted(tmp_path.rglob("*")) == before
    first.release()


def test_a_folder_that_another_run_is_about_to_fill_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine").mkdir()
    folder = plan("mine")
    release = take_lock(Path("mine/.lock"), wait=False)
    assert release is not None
    with pytest.raises(MedvisionError, match=r"mine is not an empty folder \(run_dir\)"):
        folder.create()
    release()
    folder.create()  # the other one was killed before it wrote anything
    folder.release()


def test_runs_and_commands_of_one_second_get_folders_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folders = [plan(None), plan(None)]
    for folder in folders:
        folder.create()
    bases = [_new_base(creates=True) for _ in range(2)]
    assert len({*bases, *(folder.path for folder in folders)}) == 4
    for folder in folders:
        folder.release()


@pytest.mark.slow
def test_names_of_255_bytes_do_not_end_a_run_after_its_fit(
    train: Callable[..., Path], make_folder: Callable[..., Path]
) -> None:
    root = make_folder(20)
    for path in [*root.glob("images/*"), *root.glob("masks/*")]:
        path.rename(path.with_name(path.stem.ljust(251, "x") + ".png"))
    run = train("experiment=polyp_unet", "model.base_channels=2", f"data.root={root}")
    rows = rows_of(run / "predictions_test.csv")
    assert rows
    assert all(len(Path(row["path"]).name) == 255 for row in rows)
    assert all((run / row["predicted"]).is_file() for row in rows)
    assert (run / "report.html").exists()


@pytest.mark.slow
def test_a_user_config_may_set_the_mode_of_hydra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own" / "experiment").mkdir(parents=True)
    (tmp_path / "own" / "experiment" / "twice.yaml").write_text(
        "# @package _global_\ndefaults: [polyp_unet]\nhydra: {mode: MULTIRUN}\n"
    )
    few = ("model.base_channels=2", "trainer.limit_train_batches=1", "seed=0,1")
    assert main([f"--config-dir={tmp_path / 'own'}", "-m", *small, "experiment=twice", *few]) == 0
    assert len(list(tmp_path.glob("runs/multirun/*/*/summary.json"))) == 2
