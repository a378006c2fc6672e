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


def rows_of(path: Path) -> list[dict[str, float | None]]:
    with path.open(newline="") as stream:
        return [
            {k: float(v) if v else None for k, v in row.items()} for row in csv.DictReader(stream)
        ]


@pytest.mark.parametrize("run_before", ["finished"], indirect=True)
def test_a_run_of_an_earlier_version_is_evaluated_with_the_same_scores(
    run_before: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = EXPECTED[run_before.name]["evaluate"]
    out = tmp_path / "out"
    monkeypatch.setattr(sys, "argv", ["medvision", "evaluate", str(run_before), "--out", str(out)])
    with pytest.raises(SystemExit) as ended:
        medvision()
    assert not ended.value.code
    summary = json.loads((out / "summary.json").read_text())
    assert summary["metrics"] == close(expected["metrics"])
    assert summary["evaluated"]["figures_compared"] == expected["figures_compared"]
    assert summary["evaluated"]["largest_difference"] <= TOLERANCE
    assert summary.get("threshold") == pytest.approx(expected["threshold"], abs=TOLERANCE)


@pytest.mark.parametrize("run_before", ["interrupted"], indirect=True)
def test_an_interrupted_run_of_an_earlier_version_resumes_to_the_same_epochs(
    run_before: Path,
) -> None:
    """It was stopped in epoch 3 of 4; the fixture has no best.ckpt, to keep it small."""
    expected = EXPECTED["interrupted"]["resume"]
    begun = (run_before / "metrics.csv").read_text().splitlines()
    assert train([f"resume={run_before}"]) == 0
    lines = (run_before / "metrics.csv").read_text().splitlines()
    assert lines[: len(begun)] == begun  # existing rows are kept
    rows = rows_of(run_before / "metrics.csv")
    assert rows == [close(row) for row in expected["rows"]]
    summary = json.loads((run_before / "summary.json").read_text())
    assert summary["metrics"] == close(expected["metrics"])
    for key in ("status", "epochs", "best_epoch"):
        assert summary[key] == expected[key]
