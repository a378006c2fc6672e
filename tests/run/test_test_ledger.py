"""Every evaluation of a test split adds one line, from any process and in parallel."""

import csv
import datetime
import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medvision.errors import MedvisionError
from medvision.run.storage.test_ledger import (
    COLUMNS,
    LEDGER,
    check_ledger,
    config_hash,
    ledger_note,
    note_test_evaluation,
    times_in_words,
)

CONFIG = {
    "experiment": "polyp_unet",
    "seed": 0,
    "run_dir": "runs/a",
    "audit": "warn",
    "logger": {"save_dir": "runs/a"},
    "data": {"name": "polyps", "root": "/here", "num_workers": 2, "splits": None},
    "trainer": {"accelerator": "cpu", "max_epochs": 3},
    "callbacks": {"log": {"dirpath": "runs/a", "every": 1}},
}
ONE, OTHER = 64 * "1", 64 * "a"


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def note(fingerprint: str = ONE, **changes: Any) -> int:
    given: dict[str, Any] = {"metric": "test/dice", "value": 0.5, "run": Path("runs", "a")}
    return note_test_evaluation(
        config=CONFIG, split_fingerprint=fingerprint, **{**given, **changes}
    )


def rows() -> list[dict[str, str]]:
    with LEDGER.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_each_test_split_is_counted_by_itself() -> None:
    assert [note(), note(OTHER), note(), note(), note(OTHER)] == [1, 1, 2, 3, 2]
    assert len(rows()) == 5


def test_a_line_has_time_config_and_run(tmp_path: Path) -> None:
    note(metric="test/accuracy", value=1 / 3, run=Path("runs", "b, c"))
    (row,) = rows()
    assert tuple(row) == COLUMNS
    assert datetime.datetime.fromisoformat(row["time"]).tzinfo is not None
    assert row["config_hash"] == config_hash(CONFIG)
    assert row["split_fingerprint"] == ONE
    assert (row["metric"], float(row["value"])) == ("test/accuracy", 1 / 3)
    assert row["run"] == "runs/b, c"
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["test_ledger.csv"]


def test_the_commit_is_marked_dirty_if_the_source_was_changed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for state in (("abc", False), ("abc", True), (None, None)):
        monkeypatch.setattr(
            "medvision.run.storage.test_ledger.git_state",
            lambda state=state: {"sha": state[0], "dirty": state[1]},
        )
        note()
    assert [row["git_sha"] for row in rows()] == ["abc", "abc-dirty", ""]


def test_an_undefined_score_is_a_blank_cell() -> None:
    assert note(value=None) == 1
    assert rows()[0]["value"] == ""


def test_lines_are_only_ever_added() -> None:
    note()
    before = LEDGER.read_bytes()
    note()
    assert LEDGER.read_bytes().startswith(before)


def test_an_empty_file_gets_its_first_line() -> None:
    LEDGER.parent.mkdir()
    LEDGER.touch()
    check_ledger()
    assert note() == 1
    assert len(rows()) == 1


def test_a_ledger_saved_by_a_spreadsheet_can_be_read() -> None:
    note()
    text = LEDGER.read_text().replace("\n", "\r\n")
    LEDGER.write_text("\ufeff" + text, newline="")
    assert note() == 2


def _note_often(count: int) -> list[int]:
    return [note() for _ in range(count)]


def test_processes_that_write_at_once_lose_no_line() -> None:
    with multiprocessing.get_context("fork").Pool(4) as pool:
        counts = [count for part in pool.map(_note_often, [5] * 4) for count in part]
    assert sorted(counts) == list(range(1, 21))
    assert len(rows()) == 20


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (lambda text: text[:-1], "the last line is incomplete (runs/test_ledger.csv, line 2)"),
        (
            lambda text: text[:-20] + "\n",
            "",
        ),
        (
            lambda text: text + "2026,x\n",
            "expected 7 cells, got 2 (runs/test_ledger.csv, line 3)",
        ),
        (
            lambda text: text.replace(ONE, "many"),
            "expected a fingerprint of a split (runs/test_ledger.csv, line 2)",
        ),
        (lambda text: "a,b\n" + text, f"expected the first line {','.join(COLUMNS)}"),
        (lambda text: text.split("\n", 1)[1], f"expected the first line {','.join(COLUMNS)}"),
    ],
    ids=["no line end", "shorter name of a run", "two cells", "fingerprint", "foreign", "no head"],
)
def test_a_damaged_file_is_reported_and_unchanged(damage: Callable[[str], str], what: str) -> None:
    note(run=Path("runs", "a" * 30))
    damaged = damage(LEDGER.read_text())
    LEDGER.write_text(damaged)
    if not what:  # still a valid line of seven cells
        assert note() == 2
        return
    for look in (note, check_ledger):
        with pytest.raises(MedvisionError) as error:
            look()
        assert str(error.value).startswith(what)
        assert str(error.value).endswith("; fix it, or move it away")
        assert error.value.exit_code == 2
    assert LEDGER.read_text() == damaged


def test_a_picture_under_the_name_of_the_ledger() -> None:
    LEDGER.parent.mkdir()
    LEDGER.write_bytes(b"\x89PNG\r\n\x1a\n\x00\xff\xfe")
    with pytest.raises(MedvisionError, match=r"not a csv file \(runs/test_ledger.csv, line 1\)"):
        note()


def test_a_folder_under_the_name_of_the_ledger() -> None:
    LEDGER.mkdir(parents=True)
    with pytest.raises(MedvisionError, match=r"cannot read the file: Is a directory \(runs/"):
        check_ledger()
    with pytest.raises(MedvisionError, match="cannot record the evaluation") as e:
        note()
    assert e.value.exit_code == 3


def test_a_missing_ledger_is_not_an_error() -> None:
    check_ledger()
    assert not LEDGER.parent.exists()


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({"run_dir": "runs/b", "callbacks": {"log": {"dirpath": "runs/b", "every": 1}}}, True),
        ({"data": {**CONFIG["data"], "root": "/there", "num_workers": 0}}, True),  # type: ignore[dict-item]
        ({"trainer": {"max_epochs": 3, "accelerator": "gpu"}}, True),
        ({"logger": None, "audit": "skip"}, True),
        ({"seed": 1}, False),
        ({"trainer": {"accelerator": "cpu", "max_epochs": 4}}, False),
        ({"callbacks": {"log": {"dirpath": "runs/a", "every": 2}}}, False),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_the_hash_covers_the_training_but_not_its_location(
    changes: dict[str, Any], same: bool
) -> None:
    assert (config_hash({**CONFIG, **changes}) == config_hash(CONFIG)) is same


def test_a_command_in_another_folder_counts_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [note(), note()] == [1, 2]
    for number, folder in enumerate(("b", "c"), start=3):
        (tmp_path / folder).mkdir()
        monkeypatch.chdir(tmp_path / folder)
        assert note() == number
        assert len(rows()) == 1  # the copy holds the evaluations of this folder
    assert note(OTHER) == 1
    LEDGER.unlink()
    assert note() == 5


def test_lines_that_only_one_of_the_ledgers_has_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    note()
    monkeypatch.setenv("MEDVISION_STATE_DIR", str(tmp_path / "another user"))
    assert note() == 2
    (shared,) = (tmp_path / "another user" / "test_evaluations").glob("*.csv")
    assert shared.stem == ONE
    with shared.open(newline="") as stream:
        (row,) = csv.DictReader(stream)
    assert Path(row["run"]) == tmp_path / "runs" / "a"


def test_a_state_folder_that_cannot_be_written_is_a_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ledger_note() is None
    assert "runs/test_ledger.csv, those of other folders in " in times_in_words(2)
    monkeypatch.setattr(
        "medvision.run.storage.test_ledger.is_writable", lambda path: "state" not in str(path)
    )
    assert [note(), note()] == [1, 2]
    assert "counted in runs/test_ledger.csv only" in str(ledger_note())
    assert times_in_words(2).endswith("evaluated 2 times (runs/test_ledger.csv)")


def test_a_damaged_shared_ledger_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDVISION_STATE_DIR", str(tmp_path / "state"))
    note()
    shared = tmp_path / "state" / "test_evaluations" / f"{ONE}.csv"
    shared.write_text("notes\n")
    with pytest.raises(MedvisionError, match="expected the first line") as error:
        check_ledger(ONE)
    assert str(shared) in str(error.value)
    check_ledger(OTHER)
