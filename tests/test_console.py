import io
import os
import subprocess
import sys

import pytest
from rich.console import Console

from medvision.console import counted, print_line, progress_bar


def test_a_line_is_neither_wrapped_nor_interpreted(capsys: pytest.CaptureFixture[str]) -> None:
    print_line("[red]a[/red] " + "b" * 300 + "\nnext \x1b[31m")
    assert capsys.readouterr().out == "[red]a[/red] " + "b" * 300 + "\\nnext \\x1b[31m\n"


def test_counts_have_their_noun() -> None:
    assert [counted(number, "image") for number in (0, 1, 2)] == ["0 images", "1 image", "2 images"]
    assert [counted(number, "class", "classes") for number in (1, 2)] == ["1 class", "2 classes"]


def test_without_a_terminal_no_bar_is_drawn(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar() as advance:
        advance("read", 0, None)
        advance("read", 3, 3)
    assert capsys.readouterr() == ("", "")


def test_a_download_continues_from_the_existing_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()

    def terminal(**_: object) -> Console:
        return Console(file=shown, force_terminal=True, width=100)

    monkeypatch.setattr("rich.console.Console", terminal)
    with progress_bar(of_bytes=True, transient=False) as advance:
        advance("download", 500, 2000)
        advance("download", 2000, 2000)
    assert "2.0/2.0 kB" in shown.getvalue()


def test_rich_waits_until_something_is_printed() -> None:
    code = "import sys, medvision.console; print('rich' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_lines_appear_at_once_with_unbuffered_output() -> None:
    """Containers set PYTHONUNBUFFERED, so that each line of a log is there when it is written."""
    code = (
        "import os; from medvision.console import unread_output\n"
        "with unread_output():\n    print('first'); os.write(1, b'second\\n')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    assert done.stdout == "first\nsecond\n"
