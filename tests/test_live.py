import io
import os
import pty
import re
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from medvision.console import print_line
from medvision.live import LiveLine, live_line, phase, time_left

ROOT = Path(__file__).parents[1]


class Terminal(io.StringIO):
    """A stream that is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    stream = Terminal()

    class System:  # pytest sets sys.stderr again before the test
        stderr = stream
        modules = sys.modules
        stdout = property(lambda self: sys.stdout)

    monkeypatch.setattr("medvision.live.sys", System())
    return stream


def test_without_a_terminal_nothing_is_drawn(capsys: pytest.CaptureFixture[str]) -> None:
    with phase("checking files") as advance:
        advance(1, 2)
    assert capsys.readouterr() == ("", "")


def test_a_phase_shows_its_progress_and_is_removed(terminal: Terminal) -> None:
    line = LiveLine()
    line.show("checking files", done=0, total=40, moves=False)
    line._drawn_s = 0.0
    line.show("checking files", done=10, total=40, moves=False)
    drawn = terminal.getvalue()
    assert "checking files" in drawn
    assert "10/40" in drawn
    assert "left" in drawn
    line.clear()
    assert terminal.getvalue().endswith("\x1b[2K")  # the line is erased


def test_another_phase_starts_its_own_clock(terminal: Terminal) -> None:
    line = LiveLine()
    line.show("checking files", done=1, total=2, moves=False)
    line._since_s -= 100
    line.show("testing", done=1, total=1000, moves=False)
    line.clear()
    assert "0:0" in line._content[3]


def test_a_line_that_is_printed_removes_the_live_one_and_keeps_its_own_stream(
    terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    live_line.show("testing", moves=False)
    print("from another library")  # stdout is a pipe: nothing may be lost to the terminal
    print_line("the line of the epoch")
    assert capsys.readouterr().out == "from another library\nthe line of the epoch\n"
    assert terminal.getvalue().endswith("\x1b[2K")
    assert live_line._live is None


def test_a_process_without_the_terminal_draws_nothing(terminal: Terminal) -> None:
    line = LiveLine()
    line.is_on = False
    line.show("testing", done=1, total=2)
    assert terminal.getvalue() == ""
    assert not line.is_due()


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0:00 left"), (125, "2:05 left"), (4200, "1:10:00 left")]
)
def test_the_time_left_is_written_as_a_clock(seconds: float, text: str) -> None:
    assert time_left(seconds) == text


def in_terminal(*command: str, cwd: Path) -> list[tuple[float, str]]:
    """Run a command in a terminal of 100 columns; return what it wrote, with the time."""
    pid, file = pty.fork()
    if pid == 0:
        os.chdir(cwd)
        os.environ |= {"TERM": "xterm", "COLUMNS": "100", "LINES": "40"}
        os.execv(command[0], command)
    started_s, written = time.monotonic(), []
    while True:
        select.select([file], [], [])
        try:
            data = os.read(file, 65536)
        except OSError:  # the program has ended
            break
        written.append((time.monotonic() - started_s, data.decode(errors="replace")))
    assert os.waitpid(pid, 0)[1] == 0, "".join(text for _, text in written)
    return written


ARGUMENTS = (
    *("experiment=polyp_unet", "trainer=cpu", "logger=csv", "model.base_channels=2"),
    *("data.image_size=32", "data.num_images=40", "data.batch_size=4", "data.num_workers=99"),
    "trainer.max_epochs=2",
)


@pytest.mark.slow
def test_a_training_on_a_terminal_shows_each_phase_and_whole_lines(tmp_path: Path) -> None:
    written = in_terminal(sys.executable, str(ROOT / "train.py"), *ARGUMENTS, cwd=tmp_path)
    assert "starting polyp_unet" in written[0][1]
    text = "".join(part for _, part in written)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    assert "Warning" not in plain
    for shown in ("auditing the data", "epoch   1/2 ", "epoch   2/2 ", "testing", "drawing plots"):
        assert shown in plain
    assert "epoch   0" not in plain
    lines = [line for line in re.split(r"[\r\n]+", plain) if " train loss " in line]
    assert [line[:11] for line in lines] == ["epoch   1/2", "epoch   2/2"]
    assert all(len(line) <= 100 for line in lines)


@pytest.mark.slow
def test_a_training_in_a_pipe_prints_the_same_lines_and_nothing_else(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "train.py"), *ARGUMENTS]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stderr == ""
    assert "\x1b" not in done.stdout
    starts = [line[:11] for line in done.stdout.splitlines() if line.startswith("epoch ")]
    assert starts == ["epoch   1/2", "epoch   2/2"]


def test_the_bar_of_an_epoch_counts_from_one_and_covers_validation(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pytorch_lightning import Trainer
    from pytorch_lightning.demos.boring_classes import BoringModel

    from medvision.callbacks import Progress

    shown: list[tuple[str, Any]] = []
    monkeypatch.setattr(LiveLine, "is_due", lambda self: True)
    monkeypatch.setattr(
        LiveLine,
        "show",
        lambda self, name, **kept: shown.append((name, kept["done"], kept["total"])),
    )
    quiet = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False}
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=2,
        limit_train_batches=3,
        limit_val_batches=2,
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        callbacks=[Progress()],
        **quiet,
    )
    trainer.fit(BoringModel())
    assert shown == [(f"epoch   {k}/2", done, 5) for k in (1, 2) for done in range(6)]
