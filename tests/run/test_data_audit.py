import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from medvision.audit.dataset import ListedSet
from medvision.data.samples import Sample, SampleTable
from medvision.data.validation import validate as checks
from medvision.run import main
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
    assert f"note: {printed}" in capsys.readouterr().out
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
