import csv
import errno
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml

from faults import as_nobody
from medvision.data.phantoms.polyps import draw_polyp_scene
from medvision.errors import MedvisionError
from medvision.files import take_lock
from medvision.run import main
from medvision.run.evaluation import evaluate
from medvision.run.evaluation.evaluate import choose_target, evaluate_run
from medvision.run.storage.saved_run import StoredRun, largest_difference
from medvision.run.storage.test_seal import sealed_note

MakeFolder = Callable[..., Path]
Train = Callable[..., Path]


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "report.html"
    }


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Start in a new folder, which contains the ledger of test evaluations."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def ledger_of(here: Path) -> list[dict[str, str]]:
    path = here / "runs" / "test_ledger.csv"
    return list(csv.DictReader(path.read_text().splitlines())) if path.exists() else []


@pytest.fixture
def own_run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.fixture
def folder_run(
    shared_folder: Callable[..., Path], small: tuple[str, ...], make_folder: MakeFolder
) -> tuple[Path, Path]:
    """A copy of a run on a folder of pairs, and the folder."""
    root = make_folder(30)

    def fill() -> None:
        shutil.copytree(root, "set")
        given = ("experiment=polyp_unet", "model.base_channels=2", "data.root=set")
        assert main([*small, *given, "run_dir=run"]) == 0

    shared = shared_folder("folder_run", fill)
    run = Path(shutil.copytree(shared / "run", root.parent / "run"))
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace(str(shared / "set"), str(root)))
    return run, root


def test_the_stored_test_split_gives_the_scores_of_the_run(
    own_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = content(own_run)
    (own_run / "report.html").unlink()
    summary = evaluate_run(own_run)
    stored = json.loads((own_run / "summary.json").read_text())["metrics"]
    for name in [name for name in stored if name.startswith("test/")]:
        assert summary["metrics"][name] == pytest.approx(stored[name], abs=1e-6), name
    out = own_run / "evaluation" / "test"
    after = content(own_run)
    assert {name: after[name] for name in before} == before
    assert json.loads((out / "summary.json").read_text()) == summary
    assert (own_run / "report.html").read_text() == (out / "report.html").read_text()
    printed = capsys.readouterr().out
    assert "reproduced: " in printed
    assert printed.splitlines()[-2:] == [f"report: {out / 'report.html'}", str(out)]
    assert summary["evaluated"]["largest_difference"] <= 1e-6
    assert summary["evaluated"]["figures_compared"] >= 15


def test_conventions_score_the_same_predictions(own_run: Path) -> None:
    out = own_run / "evaluation" / "test"
    for split in ("val", "test"):
        summary = evaluate_run(own_run, split=split, conventions=True)
        rows = {row["key"]: row for row in summary["conventions"]}
        metrics = summary["metrics"]
        for name in ("dice", "iou"):
            ours = metrics[f"{split}/{name}"]
            assert rows["per_image"][name] == pytest.approx(ours, abs=1e-6)
            pooled = metrics[f"{split}/{name}_global"]
            assert rows["pooled"][name] == pytest.approx(pooled, abs=1e-6)
        accuracy = metrics[f"{split}/accuracy"]
        assert rows["micro_with_background"]["dice"] == pytest.approx(accuracy, abs=1e-6)
        assert 0 < rows["mean_over_thresholds"]["iou"] < rows["max_over_thresholds"]["iou"] < 1
    assert json.loads((out / "summary.json").read_text())["conventions"] == summary["conventions"]

    values = []  # of the 8-bit maps: floor of 256 p
    for row in csv.DictReader((out / "predictions_test.csv").read_text().splitlines()):
        p = cv2.imread(str(out / row["predicted"]), cv2.IMREAD_UNCHANGED) / 256
        mask = draw_polyp_scene(int(Path(row["path"]).stem.split("_")[1]), size_px=32, seed=0)[1]
        values.append((2 * p[mask > 0].sum() + 1) / (p.sum() + (mask > 0).sum() + 1))
    soft = rows["soft_smooth_1"]["dice"]
    assert soft == pytest.approx(np.mean(values), abs=1 / 256)
    assert soft != pytest.approx(np.mean(values), abs=1e-6)


def own_scores_of(summary: dict[str, Any]) -> dict[str, float | None]:
    """Scores of the run, by the names of medvision's rows in the table of conventions."""
    rows = {row["key"]: row["value"] for row in summary["conventions"]}
    for name in ("accuracy", "balanced_accuracy", "f1", "auroc"):
        ours = summary["metrics"][f"test/{name}"]
        assert rows[name] == (None if ours is None else pytest.approx(ours, abs=1e-12)), name
    return rows


def test_every_evaluation_of_a_test_split_is_counted(own_run: Path, here: Path) -> None:
    assert evaluate_run(own_run)["test_evaluations"] == 1
    summary = evaluate_run(own_run)
    assert summary["test_evaluations"] == 2
    first, second = ledger_of(here)
    assert second == {**first, "time": second["time"]}
    assert first["metric"] == "test/dice"
    assert float(first["value"]) == summary["metrics"]["test/dice"]
    assert Path(first["run"]) == own_run


def test_a_damaged_ledger_is_found_before_the_evaluation(own_run: Path, here: Path) -> None:
    (here / "runs").mkdir()
    (here / "runs" / "test_ledger.csv").write_text("my notes\n")
    with pytest.raises(MedvisionError, match=r"test_ledger.csv, line 1"):
        evaluate_run(own_run)
    assert not (own_run / "evaluation").exists()


@pytest.fixture
def sealed_run(own_run: Path) -> Path:
    """A sealed run, without scores of its test images."""
    path = own_run / "summary.json"
    summary = json.loads(path.read_text())
    kept = {k: v for k, v in summary["metrics"].items() if not k.startswith("test/")}
    note = sealed_note(("optimizer.lr",), own_run)
    path.write_text(
        json.dumps({**summary, "metrics": kept, "sealed": True, "warnings": [note, "else"]})
    )
    return own_run


def test_an_evaluation_opens_the_seal_and_reports_it(
    sealed_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = evaluate_run(sealed_run)
    printed = " ".join(capsys.readouterr().out.split())
    assert "its scores must not be used to change hyper-parameters" in printed
    assert "nothing to compare: the run's summary.json has no score of these images" in printed
    assert summary["metrics"]["test/dice"] > 0
    assert summary["metrics"]["val/dice"] > 0
    assert "sealed" not in summary
    assert not any("split is sealed" in warning for warning in summary["warnings"])
    assert "else" in summary["warnings"]
    assert json.loads((sealed_run / "summary.json").read_text())["sealed"] is True


def test_evaluating_validation_images_keeps_the_seal(
    sealed_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = evaluate_run(sealed_run, split="val")
    assert summary["sealed"] is True
    assert not any(name.startswith("test/") for name in summary["metrics"])
    assert "to change hyper-parameters" not in capsys.readouterr().out
    assert any("split is sealed" in warning for warning in summary["warnings"])


def test_surface_scores_are_added_with_their_counts(own_run: Path) -> None:
    summary = evaluate_run(own_run)
    metrics = summary["metrics"]
    low, high = metrics["test/nsd_2px_ci95"]
    assert 0 <= low <= metrics["test/nsd_2px"] <= high <= 1
    with (own_run / "evaluation/test/predictions_test.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    blank = [row for row in rows if row["hd95_px"] == ""]
    assert metrics["test/hd95_px_undefined"] == len(blank)
    defined = [float(row["hd95_px"]) for row in rows if row["hd95_px"]]
    assert metrics["test/hd95_px"] == pytest.approx(np.mean(defined))
    assert [size["name"] for size in summary["lesion_sizes"]][-1] == "large"
    assert "hd95_px" in summary["lesion_sizes"][-1]


def test_the_validation_split_gives_the_scores_of_the_run_too(own_run: Path, here: Path) -> None:
    summary = evaluate_run(own_run, split="val", out=own_run.parent / "out")
    assert summary["evaluated"]["largest_difference"] <= 1e-6
    assert summary["evaluated"]["differs_most"] == ""
    assert (own_run.parent / "out" / "predictions_val.csv").exists()
    assert ledger_of(here) == []
    assert "conventions" not in summary


def test_operating_points_come_from_validation(finished_chest: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished_chest, tmp_path / "run"))
    summary = evaluate_run(run, conventions=True)
    stored = json.loads((run / "summary.json").read_text())
    assert own_scores_of(summary)["accuracy_best"] >= summary["metrics"]["test/accuracy"]
    assert summary["operating_points"] == stored["operating_points"]
    names = [point["name"] for point in summary["operating_points"]]
    assert names == ["in use", "Youden's J", "95 % sensitivity"]
    in_use = summary["operating_points"][0]
    assert in_use["threshold"] == stored["threshold"]
    assert in_use["sensitivity"] == pytest.approx(stored["metrics"]["test/recall"])
    assert summary["evaluated"]["largest_difference"] <= 1e-6


def test_several_classes_are_measured_too(finished_brain: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished_brain, tmp_path / "run"))
    summary = evaluate_run(run, conventions=True)
    assert summary["evaluated"]["largest_difference"] <= 1e-6
    assert "operating_points" not in summary
    assert own_scores_of(summary)["accuracy_best"] is None  # of two classes only


@pytest.mark.slow
def test_moved_data_is_recognised_by_its_content(folder_run: tuple[Path, Path]) -> None:
    run, root = folder_run
    moved = root.rename(root.with_name("moved"))
    with pytest.raises(MedvisionError, match=r"missing files of the split.*--data ROOT"):
        evaluate_run(run)
    summary = evaluate_run(run, root=moved)
    assert summary["evaluated"]["external"] is False
    assert summary["evaluated"]["largest_difference"] <= 1e-6


def test_changed_images_are_reported(
    folder_run: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run, root = folder_run
    for image in (root / "images").iterdir():
        cv2.imwrite(str(image), 255 - cv2.imread(str(image)))  # type: ignore[operator]
    evaluate_run(run)
    assert "NOT reproduced: " in capsys.readouterr().out


def test_another_set_is_measured_whole(
    folder_run: tuple[Path, Path], make_folder: MakeFolder
) -> None:
    run, _ = folder_run
    before = content(run)
    other = make_folder(7, name="elsewhere", size_px=(50, 30))
    summary = evaluate_run(run, root=other)
    out = run / "evaluation" / "elsewhere"
    assert summary["evaluated"] | {"run": ""} == {
        "run": "",
        "data": str(other),
        "split": "all",
        "external": True,
        "figures_compared": 0,
        "largest_difference": 0.0,
        "differs_most": "",
    }
    assert summary["dataset"]["num_images"] == {"train": 0, "val": 0, "test": 7}
    assert {name.split("/")[0] for name in summary["metrics"]} == {"test"}
    assert len((out / "predictions_test.csv").read_text().splitlines()) == 8
    assert not (out / "metrics.csv").exists()
    assert "elsewhere" in (out / "report.html").read_text()
    after = content(run)
    assert {name: after[name] for name in before} == before


def test_keys_of_the_own_folder_do_not_stop_the_measurement_of_another(
    folder_run: tuple[Path, Path], make_folder: MakeFolder
) -> None:
    run, _ = folder_run
    other = make_folder(4, name="elsewhere", size_px=(50, 30))
    config = (run / "config.yaml").read_text()
    for key, value in (("group_pattern", "'(HOSP1_.)'"), ("mask_suffix", "_own")):
        config = re.sub(rf"^  {key}: .*$", f"  {key}: {value}", config, flags=re.MULTILINE)
    (run / "config.yaml").write_text(config)
    stored = StoredRun.read(run)
    with pytest.raises(MedvisionError, match=r"to leave it out, add data.mask_suffix=null$"):
        choose_target(stored, other, None)
    data = choose_target(stored, other, None, {"mask_suffix": None}).data
    assert len(data.tables["test"]) == 4
    (note,) = [note for note in data.notes if "group_pattern" in note]
    assert note.startswith(
        "data.group_pattern of the run is not used for this data set: (HOSP1_.) matches no image"
    )
    with pytest.raises(MedvisionError, match="matches no image"):  # as typed for this set
        choose_target(stored, other, None, {"mask_suffix": None, "group_pattern": "(HOSP1_.)"})


def test_a_pattern_of_classes_of_the_run_that_fits_no_other_name_is_named(
    finished_chest: Path, tmp_path: Path
) -> None:
    run, other = tmp_path / "run", tmp_path / "other"
    shutil.copytree(finished_chest, run)
    config = (run / "config.yaml").read_text()
    assert "class_pattern: null" in config
    (run / "config.yaml").write_text(config.replace("class_pattern: null", "class_pattern: (q)_"))
    stored = StoredRun.read(run)
    for number, name in enumerate(("NORMAL", "PNEUMONIA")):
        (other / name).mkdir(parents=True)
        picture = np.random.default_rng(number).integers(0, 255, (64, 64)).astype(np.uint8)
        cv2.imwrite(str(other / name / "1.png"), picture)
    with pytest.raises(MedvisionError, match=r"to leave it out, add data.class_pattern=null$"):
        choose_target(stored, other, None)
    data = choose_target(stored, other, None, {"class_pattern": None}).data
    assert len(data.tables["test"]) == 2


def test_what_the_run_excludes_is_excluded_from_another_set_with_a_note(
    folder_run: tuple[Path, Path], make_folder: MakeFolder
) -> None:
    run, _ = folder_run
    other = make_folder(4, name="elsewhere", size_px=(50, 30))
    excluded = sorted(path.name for path in (other / "images").iterdir())[0]
    config = (run / "config.yaml").read_text()
    config = re.sub(r"^  exclude: .*$", f"  exclude: '*/{excluded}'", config, flags=re.MULTILINE)
    (run / "config.yaml").write_text(config)
    stored = StoredRun.read(run)
    data = choose_target(stored, other, None).data
    assert len(data.tables["test"]) == 3
    (note,) = [note for note in data.notes if "exclude" in note]
    assert note == (
        f"data.exclude of the run is used for this data set too (*/{excluded}); set"
        " data.exclude=null to include these files"
    )
    data = choose_target(stored, other, None, {"exclude": None}).data
    assert len(data.tables["test"]) == 4
    assert not [note for note in data.notes if "exclude" in note]


@pytest.mark.slow
def test_training_images_under_other_names_are_found_in_another_set(
    folder_run: tuple[Path, Path],
    make_folder: MakeFolder,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run, root = folder_run
    rows = list(csv.DictReader((run / "splits.csv").read_text().splitlines()))
    other = tmp_path / "rebundled"
    for folder in ("images", "masks"):
        (other / folder).mkdir(parents=True)
    drawn = {stage: [row for row in rows if row["split"] == stage] for stage in ("train", "test")}
    for k, row in enumerate([*drawn["train"][:4], *drawn["test"]]):
        image = cv2.imread(str(root / row["path"]))
        if k < 2:
            shutil.copyfile(root / row["path"], other / f"images/{k}{Path(row['path']).suffix}")
        else:
            cv2.imwrite(str(other / f"images/{k}.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, 60])
        shutil.copyfile(root / row["target"], other / f"masks/{k}{Path(row['target']).suffix}")
    summary = evaluate_run(run, root=other)
    found = summary["external_check"]
    assert found["near_duplicates"] == {"images": 4, "images_in_train": 4, "images_in_val": 0}
    assert found["exact_duplicates"]["images"] == 2
    assert summary["twins"]["with_twin"]["num_images"] == 4
    assert summary["twins"]["without_twin"]["num_images"] == len(drawn["test"])
    assert summary["warnings"][0] == f"LEAK: {found['text']}"
    assert found["text"] in " ".join(capsys.readouterr().out.split())
    out = run / "evaluation" / "rebundled"
    named = list(csv.DictReader((out / "known_images.csv").read_text().splitlines()))
    assert [row["known_path"] for row in named] == [row["path"] for row in drawn["train"][:4]]
    assert "These are not all external data" in (out / "report.html").read_text()
    (run / "known_images.safetensors").unlink()  # as in a run of an earlier version
    unknown = evaluate_run(run, root=other)
    assert unknown["external_check"]["checked"] is False
    assert "twins" not in unknown
    assert "Not known to be external data" in (out / "report.html").read_text()


@pytest.mark.slow
def test_the_test_images_of_another_data_set_with_a_split_are_used(
    folder_run: tuple[Path, Path], make_folder: MakeFolder
) -> None:
    run, _ = folder_run
    other = make_folder(6, name="given")
    names = sorted(path.name for path in (other / "images").iterdir())
    lines = [f"{'test' if k < 2 else 'train'},images/{name}" for k, name in enumerate(names)]
    (other / "splits.csv").write_text("split,path\n" + "\n".join(lines) + "\n")
    assert evaluate_run(run, root=other)["dataset"]["num_images"]["test"] == 2
    assert evaluate_run(run, root=other, split="all")["dataset"]["num_images"]["test"] == 6
    with pytest.raises(MedvisionError, match="has no val split"):
        evaluate_run(run, root=other, split="val")


def test_another_set_must_have_the_classes_of_the_model(
    train: Train, make_class_folder: Callable[..., Path]
) -> None:
    root = make_class_folder({"healthy": 12, "ill": 12, "very ill": 12})
    run = train("experiment=brain_mri_cnn", "model.base_channels=2", f"data.root={root}")
    fewer = make_class_folder({"healthy": 3, "ill": 3}, name="fewer")
    summary = evaluate_run(run, root=fewer)
    assert any("has no image of very ill" in note for note in summary["warnings"])
    assert summary["metrics"]["test/recall/very ill"] is None
    strange = make_class_folder({"healthy": 3, "il": 3}, name="strange")
    with pytest.raises(
        MedvisionError, match=r"unknown class il, expected one of .*did you mean ill\?"
    ):
        evaluate_run(run, root=strange)


def test_training_images_are_not_measured(own_run: Path) -> None:
    with pytest.raises(MedvisionError, match="most images of a run are its training images"):
        evaluate_run(own_run, split="all")


@pytest.mark.slow
def test_only_an_earlier_evaluation_is_replaced(own_run: Path) -> None:
    out = own_run.parent / "out"
    evaluate_run(own_run, out=out)
    (out / "plots" / "mine.txt").write_text("x")
    (out / "report.html").write_text("earlier")
    evaluate_run(own_run, out=out)
    assert (out / "plots" / "mine.txt").read_text() == "x"
    assert (out / "report.html").read_text() != "earlier"
    mine = own_run.parent / "mine"
    mine.mkdir()
    (mine / "summary.json").write_text("my notes")
    for taken in (own_run, own_run / "plots", mine):
        with pytest.raises(MedvisionError, match="the folder is not empty"):
            evaluate_run(own_run, out=taken)
    assert (own_run / "checkpoints" / "best.ckpt").exists()


def test_a_failure_leaves_nothing(own_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **options: Any) -> None:
        raise RuntimeError("broke")

    monkeypatch.setattr("medvision.run.evaluation.evaluate.write_report", fail)
    with pytest.raises(RuntimeError, match="broke"):
        evaluate_run(own_run)
    assert list((own_run / "evaluation").iterdir()) == []


def test_a_folder_that_is_not_a_finished_run_is_refused(own_run: Path, tmp_path: Path) -> None:
    with pytest.raises(MedvisionError, match=r"not a run folder.*summary.json"):
        evaluate_run(tmp_path)
    summary = json.loads((own_run / "summary.json").read_text())
    (own_run / "summary.json").write_text(json.dumps({**summary, "status": "interrupted"}))
    with pytest.raises(MedvisionError, match="its status is interrupted"):
        evaluate_run(own_run)


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "torch.hub.load",
        "monai.bundle.load",
        "monai.networks.nets.resnet18",
        "medvision.run.evaluation.evaluate.shutil.rmtree",
        "medvision.data.download.catalog.Path",
        "builtins.eval",
    ],
)
@pytest.mark.parametrize("part", ["data", "loss", "metrics", "task", "trainer"])
def test_a_config_builds_only_parts_of_this_package(own_run: Path, target: str, part: str) -> None:
    config = yaml.safe_load((own_run / "config.yaml").read_text())
    config[part]["extra"] = [{"_target_": target}]
    (own_run / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(MedvisionError, match=rf"names {target}.*config.yaml, {part}"):
        evaluate_run(own_run)


def test_a_run_older_than_a_key_gets_its_default(own_run: Path) -> None:
    config = yaml.safe_load((own_run / "config.yaml").read_text())
    del config["data"]["download"], config["data"]["mask_suffix"]
    (own_run / "config.yaml").write_text(yaml.safe_dump(config))
    assert evaluate_run(own_run)["evaluated"]["largest_difference"] <= 1e-6


def test_differences_count_both_ends_of_intervals_and_undefined_scores() -> None:
    stored = {"a": 0.5, "b": [0.1, 0.2], "c": None, "train/x": 1.0}
    assert largest_difference(stored, {"a": 0.5, "b": [0.1, 0.3], "c": None, "new": 3}) == (
        4,
        pytest.approx(0.1),
        "b",
    )
    assert largest_difference(stored, {"c": 0.5}) == (1, float("inf"), "c")
    assert largest_difference(stored, {"a": 0.5}) == (1, 0.0, "")


def test_a_read_only_run_is_refused_before_it_is_measured(
    own_run: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = content(own_run)
    monkeypatch.setattr(evaluate, "load_network", None)  # would be called next
    with as_nobody(here / "mine"), pytest.raises(MedvisionError) as error:
        evaluate_run(own_run)
    assert str(error.value) == (
        f"the run folder is read-only ({own_run}); give a writable folder for the results with"
        " --out"
    )
    with as_nobody(here / "mine"), pytest.raises(MedvisionError, match="the folder is read-only"):
        evaluate_run(own_run, out=own_run / "mine")
    assert content(own_run) == before
    assert ledger_of(here) == []


def test_a_read_only_run_is_measured_into_another_folder(
    own_run: Path, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def denied(path: Path, _: bytes) -> None:  # the only file that is written into the run
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    monkeypatch.setattr(evaluate, "write_atomically", denied)
    before, page = content(own_run), (own_run / "report.html").read_bytes()
    summary = evaluate_run(own_run, out=Path("out"))
    assert summary["evaluated"]["largest_difference"] <= 1e-6
    assert len(ledger_of(here)) == 1
    assert (here / "out" / "report.html").exists()
    assert (content(own_run), (own_run / "report.html").read_bytes()) == (before, page)
    assert "report.html was not updated: Permission denied" in capsys.readouterr().out


def test_a_ledger_that_may_not_be_written_is_found_before_anything_is_measured(
    own_run: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "_measure", None)
    with as_nobody(here / "mine"), pytest.raises(MedvisionError) as error:
        evaluate_run(own_run, out=here / "mine" / "out")
    assert str(error.value) == (
        "the ledger of test evaluations is read-only (runs/test_ledger.csv); start in a writable"
        " folder"
    )
    assert list((here / "mine").iterdir()) == []


def test_a_run_that_is_being_trained_or_was_killed_is_named_so(own_run: Path) -> None:
    path = own_run / "summary.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "status": "running"}))
    for checkpoint in ((own_run / "checkpoints" / "best.ckpt"), own_run / "none"):
        checkpoint.unlink(missing_ok=True)
        release = take_lock(own_run / ".lock", wait=False)
        assert release is not None
        with pytest.raises(MedvisionError) as error:
            evaluate_run(own_run)
        assert str(error.value) == (
            f"the run is still being trained by another process ({own_run}); wait for its end"
        )
        release()
        with pytest.raises(MedvisionError) as error:
            evaluate_run(own_run)
        assert str(error.value) == (
            f"the run did not finish: its status is interrupted ({own_run});"
            f" continue it: python train.py resume={own_run}"
        )
