"""Run folders written by an earlier version (commit 0cad5b0) are evaluated and resumed."""

import csv
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from medvision.cli import main as medvision
from medvision.run import main as train

BEFORE = Path(__file__).parents[1] / "fixtures" / "run_before"
EXPECTED: dict[str, Any] = json.loads((BEFORE / "expected.json").read_text())

# Results of that version on an AMD EPYC with AVX2, one thread. Equal to the last digit there;
# with the kernels of older CPUs and with two threads nothing was off by more than 2e-7.
TOLERANCE = 1e-4


@pytest.fixture
def run_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: Any) -> Path:
    """Copy of one of the folders, in an empty working folder."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(BEFORE / request.param, tmp_path / request.param))


def close(values: dict[str, Any]) -> dict[str, Any]:
    """Scores, intervals and undefined values, for comparison with a tolerance."""
    return {
        name: value if value is None else pytest.approx(value, abs=TOLERANCE)
        for name, value in values.items()
    }


def is_changed(name: str) -> bool:
    """True for a value of a segmentation whose definition has changed since."""
    return name.endswith("_ci95") or name.split("/")[1] in ("auroc", "precision")


def rows_of(path: Path) -> list[dict[str, float | None]]:
    with path.open(newline="") as stream:
        return [
            {k: float(v) if v else None for k, v in row.items()} for row in csv.DictReader(stream)
        ]


@pytest.mark.parametrize("run_before", ["finished"], indirect=True)
def test_a_run_of_an_earlier_version_is_evaluated_with_the_same_scores(
    run_before: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    expected = EXPECTED[run_before.name]["evaluate"]
    out = tmp_path / "out"
    monkeypatch.setattr(sys, "argv", ["medvision", "evaluate", str(run_before), "--out", str(out)])
    with pytest.raises(SystemExit) as ended:
        medvision()
    assert not ended.value.code
    summary = json.loads((out / "summary.json").read_text())
    evaluated = summary["evaluated"]
    unchanged = {n: v for n, v in expected["metrics"].items() if not is_changed(n)}
    assert {name: summary["metrics"][name] for name in unchanged} == close(unchanged)
    stored = json.loads((run_before / "summary.json").read_text())["metrics"]
    compared = [n for n in stored if n.startswith("test/") and not is_changed(n)]
    assert evaluated["figures_compared"] == len(compared)
    assert evaluated["largest_difference"] <= TOLERANCE
    assert {*evaluated["definitions_changed"]} <= {"auroc", "intervals"}
    assert "auroc" in evaluated["definitions_changed"]
    printed = " ".join(capsys.readouterr().out.split())
    assert "auroc: pixels are ranked by their logit, not in 256 bins of probability" in printed
    assert "NOT reproduced" not in printed
    assert summary["metric_definitions"] == 4
    assert summary.get("threshold") == pytest.approx(expected["threshold"], abs=TOLERANCE)


@pytest.mark.parametrize("run_before", ["interrupted"], indirect=True)
def test_an_interrupted_run_of_an_earlier_version_resumes_to_the_same_epochs(
    run_before: Path,
) -> None:
    """It was stopped in epoch 3 of 4; the fixture has no best.ckpt, to keep it small.

    The sums of the training scores of that epoch have another form now: the scores are blank.
    """
    expected = EXPECTED["interrupted"]["resume"]
    begun = rows_of(run_before / "metrics.csv")
    assert train([f"resume={run_before}"]) == 0
    rows = rows_of(run_before / "metrics.csv")
    known = [{name: row[name] for name in begun[0]} for row in rows]
    assert known[: len(begun)] == begun  # existing rows are kept
    for row, before in zip(known, expected["rows"], strict=True):
        cut = row["epoch"] == 2
        names = [n for n in before if "auroc" not in n and "precision" not in n]
        blank = {n for n in names if n.startswith("train/") and n != "train/loss"}
        assert {n: row[n] for n in names if not (cut and n in blank)} == close(
            {n: before[n] for n in names if not (cut and n in blank)}
        )
        assert not cut or {row[n] for n in blank} == {None}
    summary = json.loads((run_before / "summary.json").read_text())
    unchanged = {n: v for n, v in expected["metrics"].items() if not is_changed(n)}
    unchanged = {n: v for n, v in unchanged.items() if not n.startswith("train/")}
    assert {name: summary["metrics"][name] for name in unchanged} == close(unchanged)
    for key in ("status", "epochs", "best_epoch"):
        assert summary[key] == expected[key]
