import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from medvision.audit.dataset import ListedSet
from medvision.data import ClassificationData, SegmentationData
from medvision.data.discovery.splits_csv import write_splits
from medvision.data.reading import Reading
from medvision.data.samples import Sample, SampleTable
from medvision.data.validation import validate as checks
from medvision.run import main
from medvision.run.config.store import keys_of
from medvision.run.evaluation.evaluate import evaluate_run
from medvision.run.training import data_audit

SMALL = (
    "experiment=brain_mri_cnn",
    "model.base_channels=2",
    "trainer=cpu",
    "logger=csv",
    "data=folder_classification",
    "data.image_size=32",
    "data.in_channels=1",
    "data.batch_size=4",
    "data.num_workers=0",
    "trainer.max_epochs=1",
)


@pytest.fixture
def leaking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two classes, twelve and six images each; three test images of each are from train."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name in ("ill", "well"):
        for split, count in (("train", 12), ("test", 6)):
            (tmp_path / "set" / split / name).mkdir(parents=True)
            for k in range(count):
                noise = rng.normal(0, 1, (48, 48)) + (name == "ill")
                image = cv2.normalize(
                    cv2.GaussianBlur(noise, (0, 0), 3), None, 0, 255, cv2.NORM_MINMAX
                )
                cv2.imwrite(str(tmp_path / "set" / split / name / f"{split}{k}.png"), image)
        for k in range(3):
            source = tmp_path / f"set/train/{name}/train{k}.png"
            shutil.copyfile(source, tmp_path / f"set/test/{name}/test{k}.png")
    return tmp_path / "set"


def run_on(root: Path, *more: str) -> dict[str, Any]:
    before = set(Path("runs").glob("*/2*"))
    assert main([*SMALL, f"data.root={root}", *more]) == 0
    (run,) = set(Path("runs").glob("*/2*")) - before
    return {**json.loads((run / "summary.json").read_text()), "run": run}


def test_training_on_a_leaking_split_reports_the_leak_first_and_scores_near_duplicates_separately(
    leaking: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = run_on(leaking)
    printed = summary["warnings"][0]
    assert printed.startswith("LEAK: 6 of 12 test images are identical to one in train")
    out = capsys.readouterr().out
    assert f"note: {printed}" in out
    few = "note: test has few images of some classes: 6 of ill, 6 of well; one image changes"
    assert few in out[: out.index("run folder:")]
    assert not any(text.startswith("few test images of a class") for text in summary["warnings"])
    audit = summary["audit"]
    assert (audit["mode"], audit["complete"]) == ("warn", True)
    assert audit["exact_duplicates"]["test_images_in_train"] == 6
    assert len(audit["leaks"]) == 1
    twins = summary["twins"]
    assert (twins["with_twin"]["num_images"], twins["without_twin"]["num_images"]) == (6, 6)
    assert twins["memory_baseline"]["with_twin"]["accuracy"] == 1
    parts = [twins[part]["accuracy"] * 6 for part in ("with_twin", "without_twin")]
    assert sum(parts) / 12 == pytest.approx(summary["metrics"]["test/accuracy"])
    page = (summary["run"] / "report.html").read_text()
    assert "6 of 12 test images are identical to one in train" in page


def test_findings_replace_the_notes_of_the_split_on_the_same_problem() -> None:
    found = ["LEAK: 1 of 4 test images", "val has no image of a class that other splits contain: x"]
    audited = data_audit.DataAudit(summary={}, warnings=found, near_duplicates=None)
    notes = ["val (2 images) contains no x", "test (4 images) contains no y", "LEAK: 1 group"]
    assert data_audit.notes_with(notes, audited) == [*found, notes[1]]
    assert data_audit.notes_with(notes, None) == notes


@pytest.mark.slow
def test_evaluating_it_again_gives_the_same_table(leaking: Path) -> None:
    summary = run_on(leaking)
    again = evaluate_run(summary["run"])
    assert again["twins"] == summary["twins"]
    assert again["test_evaluations"] == summary["test_evaluations"] + 1
    assert again["evaluated"]["largest_difference"] == 0


def test_strict_refuses_before_there_is_a_run_folder(
    leaking: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*SMALL, f"data.root={leaking}", "audit=strict"]) == 2
    printed = capsys.readouterr().err.splitlines()
    assert len(printed) == 1
    assert printed[0].startswith("error: 6 of 12 test images are identical to one in train")
    assert "audit=strict" in printed[0]
    assert not list(Path("runs").glob("*/2*"))


def test_strict_trains_on_data_without_leaks(leaking: Path) -> None:
    summary = run_on(leaking, "audit=strict", "data.protocol=grouped")
    assert summary["audit"]["leaks"] == []
    assert "twins" not in summary


def test_a_skipped_audit_is_reported_in_summary_and_report(leaking: Path) -> None:
    summary = run_on(leaking, "audit=skip")
    assert summary["audit"] == {"mode": "skip"}
    assert "the data were not audited: audit=skip" in summary["warnings"]
    assert "twins" not in summary
    assert "not audited" in (summary["run"] / "report.html").read_text()


@pytest.mark.slow
def test_a_partial_audit_of_many_files_is_reported(
    leaking: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(checks.check_files.__kwdefaults__, "max_decoded", 10)
    summary = run_on(leaking)
    assert summary["audit"]["complete"] is False
    assert any("checked only names and counts" in text for text in summary["warnings"])
    capsys.readouterr()
    assert main([*SMALL, f"data.root={leaking}", "audit=strict"]) == 2
    assert "too many files to read" in capsys.readouterr().err
    monkeypatch.setitem(checks.check_files.__kwdefaults__, "max_decoded", None)
    run_on(leaking)  # reads them all
    monkeypatch.setitem(checks.check_files.__kwdefaults__, "max_decoded", 10)
    assert run_on(leaking)["audit"]["complete"] is True


def test_phantoms_are_not_audited(train: Callable[..., Path]) -> None:
    run = train("experiment=polyp_unet", "model.base_channels=2")
    assert "audit" not in json.loads((run / "summary.json").read_text())


def test_of_very_many_names_some_sections_are_searched_and_reported(
    leaking: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(checks.check_files.__kwdefaults__, "max_decoded", 10)
    monkeypatch.setattr(data_audit, "MAX_NAMES", 12)
    monkeypatch.setattr(data_audit, "NAME_RUNS", 4)
    summary = run_on(leaking)
    assert summary["audit"]["names_searched"] == 12
    printed = "patient numbers were searched in 12 of 36 names"
    assert any(text.endswith(printed) for text in summary["warnings"])


def test_the_sections_of_names_cover_the_whole_list_and_are_contiguous(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(data_audit, "MAX_NAMES", 40)
    monkeypatch.setattr(data_audit, "NAME_RUNS", 4)
    samples = SampleTable.of(Sample(path=f"a/{k:03d}.png", target="a") for k in range(100))
    seen = ListedSet(
        name="set",
        task="classification",
        roots=(Path("set"),),
        samples=samples,
        origin=np.zeros(100, np.int8),
        class_names=("a",),
    )
    named = data_audit._runs_of_names(seen)
    rows = [*range(10), *range(30, 40), *range(60, 70), *range(90, 100)]
    assert [sample.path for sample in named.samples] == [f"a/{k:03d}.png" for k in rows]
    assert len(named.origin) == 40
    few = replace(seen, samples=samples[:40], origin=seen.origin[:40])
    assert data_audit._runs_of_names(few) is few


def gathered(root: Path, images: dict[str, tuple[str, np.ndarray]]) -> Any:
    """Stand in for the data module of a folder: split and pixels of each file, by its name."""
    root.mkdir()
    for name, (_, image) in images.items():
        cv2.imwrite(str(root / name), image)
    samples = SampleTable.of(Sample(path=n, target="", split=s) for n, (s, _) in images.items())
    check = checks.check_files(root, samples, Reading(), on_error="fail", max_decoded=None)
    tables = {stage: samples.of_split(stage) for stage in ("train", "val", "test")}
    return SimpleNamespace(root=root, samples=samples, tables=tables, properties=check.properties)


@pytest.fixture
def kept(tmp_path: Path) -> tuple[Path, list[np.ndarray]]:
    """A run folder with the hashes of eleven training and one validation image, and 16 images."""
    rng = np.random.default_rng(0)
    planes = [cv2.GaussianBlur(noise, (0, 0), 3) for noise in rng.normal(0, 1, (16, 60, 60))]
    images = [cv2.normalize(p, None, 20, 235, cv2.NORM_MINMAX).astype(np.uint8) for p in planes]
    splits = ["train"] * 11 + ["val", "test"]
    named = {f"{k:02d}.png": (s, images[k]) for k, s in reversed([*enumerate(splits)])}
    data = gathered(tmp_path / "own", named)
    run = run_knowing(data, tmp_path / "run")
    return run, images


def test_training_and_validation_images_are_found_in_other_data(
    kept: tuple[Path, list[np.ndarray]], tmp_path: Path
) -> None:
    run, images = kept
    smaller = cv2.resize(images[5], (48, 48), interpolation=cv2.INTER_AREA)
    others = {"a.png": images[13], "b.png": images[11], "c.png": smaller, "d.png": images[2]}
    data = gathered(tmp_path / "other", {n: ("test", image) for n, image in others.items()})
    found = data_audit.check_external(run, data)
    assert found.copies == [
        {"path": "b.png", "known_path": "11.png", "split": "val", "identical": True},
        {"path": "c.png", "known_path": "05.png", "split": "train", "identical": False},
        {"path": "d.png", "known_path": "02.png", "split": "train", "identical": True},
    ]
    near = {"images": 3, "images_in_train": 2, "images_in_val": 1}
    assert found.summary["near_duplicates"] == near
    assert found.summary["exact_duplicates"] == dict.fromkeys(near, 1) | {"images": 2}
    assert found.notes == [
        "LEAK: 3 of 4 images are near-duplicates of one of the 11 training and 1 validation images"
        " of the run (2 of training images, 1 of validation images, 2 with identical pixels)"
    ]
    assert found.near_duplicates is not None
    assert set(found.near_duplicates.duplicate_of) == {"b.png", "c.png", "d.png"}


def test_test_images_and_other_images_of_the_same_look_are_external(
    kept: tuple[Path, list[np.ndarray]], tmp_path: Path
) -> None:
    run, images = kept
    data = gathered(tmp_path / "other", {f"{k}.png": ("test", images[k]) for k in (12, 13, 14)})
    found = data_audit.check_external(run, data)
    assert (found.copies, found.near_duplicates, found.notes) == ([], None, [])
    assert found.summary["text"].startswith("none of the 3 images is a copy of one of the 11 train")


def test_the_reason_is_given_where_other_data_cannot_be_checked(
    kept: tuple[Path, list[np.ndarray]], tmp_path: Path
) -> None:
    run, images = kept
    data = gathered(tmp_path / "other", {"a.png": ("test", images[13])})
    file = run / data_audit.KNOWN_IMAGES
    content = file.read_bytes()

    def reason(**changed: Any) -> str:
        found = data_audit.check_external(run, SimpleNamespace(**{**vars(data), **changed}))
        assert found.summary["checked"] is False
        assert found.notes == [found.summary["text"]]
        return found.summary["text"]

    assert "too many to read now: audit" in reason(properties=None)
    file.write_bytes(content[:-9])
    assert "cannot be used: the file is damaged" in reason()
    file.write_bytes(content)
    splits = (run / "splits.csv").read_text()
    (run / "splits.csv").write_text("\n".join(splits.splitlines()[:-2]) + "\n")
    assert "different numbers of images" in reason()
    file.unlink()
    assert "the run has no known_images.safetensors, because it is older" in reason()


@pytest.mark.parametrize("task", ["classification", "segmentation"])
def test_copies_are_found_in_the_data_modules_of_every_task(
    make_folder: Callable[..., Path],
    make_class_folder: Callable[..., Path],
    tmp_path: Path,
    task: str,
) -> None:
    root = make_folder() if task == "segmentation" else make_class_folder({"a": 12, "b": 12})
    data = opened(root, task)
    data.prepare()
    run = run_knowing(data, tmp_path / "run")
    shutil.copytree(root, tmp_path / "copy")
    again = opened(root, task)
    again.restore(list(data.samples))
    again.read_again()  # near-duplicates depend on neighbours in the list
    assert list(again.samples.paths) == list(data.samples.paths) == sorted(data.samples.paths)
    other = opened(tmp_path / "copy", task)
    samples = other.gather()
    other.restore([replace(sample, split="test") for sample in samples])
    found = data_audit.check_external(run, other)
    assert found.summary["num_images"] == len(samples) == len(data.samples)
    kept = sum(split != "test" for split in data.samples.splits)
    assert found.summary["exact_duplicates"]["images"] == kept > 0


def run_knowing(data: Any, run: Path) -> Path:
    """Write the files of a run folder by which its images are recognised."""
    run.mkdir()
    write_splits(run / "splits.csv", data.samples)
    known = data_audit.known_images_of(data)
    assert known is not None
    (run / data_audit.KNOWN_IMAGES).write_bytes(known.to_bytes())
    return run


def opened(root: Path, task: str) -> Any:
    """Data module of the shipped configuration."""
    config: Any = keys_of("data", f"folder_{task}")
    config.pop("_target_")
    kind = SegmentationData if task == "segmentation" else ClassificationData
    return kind(**{**config, "seed": 0, "root": str(root)})
