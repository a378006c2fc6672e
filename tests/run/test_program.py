"""The program as a process: its output and its error messages."""

import subprocess
import sys
from pathlib import Path

import pytest

from medvision.errors import MedvisionError
from medvision.run.processes.errors import described, report

ROOT = Path(__file__).parents[2]


def test_train_py_is_the_same_program(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "train.py"), "experiment=polyp_unte"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == (
        "error: unknown experiment polyp_unte (experiment=polyp_unte); did you mean polyp_unet?\n"
    )


def test_an_error_in_a_loader_process_is_one_line() -> None:
    text = (
        "Caught MedvisionError in DataLoader worker process 0.\nOriginal Traceback (most recent"
        " call last):\n  File x\n"
        "medvision.errors.MedvisionError: a.png is gone (a.png); put it back\n"
    )
    assert str(described(RuntimeError(text))) == "a.png is gone (a.png); put it back"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ZeroDivisionError("division by zero"), "ZeroDivisionError: division by zero; "),
        (OSError(0, "Success"), "OSError: [Errno 0] Success; "),
    ],
)
def test_an_unexpected_error_is_one_line_and_a_traceback_file(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    line: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        raise error
    except Exception as raised:
        code = report(raised)
    assert code == 3
    assert capsys.readouterr().err == (
        f"error: {line}the traceback is in medvision_traceback.txt\n"
    )
    assert type(error).__name__ in (tmp_path / "medvision_traceback.txt").read_text()


def test_an_error_line_has_no_line_breaks() -> None:
    error = MedvisionError("two\nlines", where="a\nb", hint="c")
    assert str(error) == "two lines (a\\nb); c"
