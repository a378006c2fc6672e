import subprocess
import sys
import time
from pathlib import Path

import pytest

from medvision.errors import MedvisionError
from medvision.run.storage.run_folder import FolderLock

HOLD = (
    "import sys; from pathlib import Path; from medvision.run.storage.run_folder import FolderLock;"
    " lock = FolderLock.take(Path(sys.argv[1])); print('held', flush=True); sys.stdin.readline();"
    " lock.release()"
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
        with pytest.raises(MedvisionError, match=r"the run is going on in another process \(.*\);"):
            FolderLock.take(tmp_path)
        other.kill()
        other.wait()
    FolderLock.take(tmp_path).release()
    assert list(tmp_path.iterdir()) == []


def test_one_that_waits_gets_in_when_the_first_one_lets_go(tmp_path: Path) -> None:
    with hold(tmp_path) as other:
        assert other.stdin is not None
        other.stdin.write("\n")
        other.stdin.flush()
        started_s = time.monotonic()
        lock = FolderLock.take(tmp_path, wait=True)
        assert time.monotonic() - started_s < 30
        other.wait()
        assert (tmp_path / ".lock").exists()  # its own: the first one took its file away
        lock.release()
    assert not (tmp_path / ".lock").exists()
