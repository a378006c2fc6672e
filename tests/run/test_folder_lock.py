import subprocess
import sys
import time
from pathlib import Path

import pytest

from medvision.errors import MedvisionError
from medvision.run.storage.run_folder import lock_folder

HOLD = (
    "import sys; from pathlib import Path;"
    " from medvision.run.storage.run_folder import lock_folder;"
    " unlock = lock_folder(Path(sys.argv[1])); print('held', flush=True); sys.stdin.readline();"
    " unlock()"
)


def hold(folder: Path) -> subprocess.Popen[str]:
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    return other


def test_another_process_is_kept_out_until_the_end_of_the_first(tmp_path: Path) -> None:
    with hold(tmp_path) as other:
        with pytest.raises(
            MedvisionError, match=r"this run is already in use by another process \(.*\);"
        ):
            lock_folder(tmp_path)
        other.kill()
        other.wait()
    lock_folder(tmp_path)()
    assert list(tmp_path.iterdir()) == []


def test_a_waiting_process_gets_the_lock_when_the_first_one_releases_it(tmp_path: Path) -> None:
    with hold(tmp_path) as other:
        assert other.stdin is not None
        other.stdin.write("\n")
        other.stdin.flush()
        started_s = time.monotonic()
        unlock = lock_folder(tmp_path, wait=True)
        assert time.monotonic() - started_s < 30
        other.wait()
        assert (tmp_path / ".lock").exists()  # its own: the first one took its file away
        unlock()
    assert not (tmp_path / ".lock").exists()


def test_a_forked_process_does_not_keep_the_lock_of_one_that_was_killed(tmp_path: Path) -> None:
    code = (
        "import os, sys, time; from pathlib import Path;"
        " from medvision.run.storage.run_folder import lock_folder;"
        " unlock = lock_folder(Path(sys.argv[1])); child = os.fork();"
        " child or (print('held', flush=True), sys.stdin.readline(), os._exit(0)); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(MedvisionError, match="already in use by another process"):
            lock_folder(tmp_path)
        other.kill()
        other.wait()
        lock_folder(tmp_path)()
