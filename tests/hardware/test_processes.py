import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from medvision.errors import MedvisionError
from medvision.hardware.processes import ORPHANED, Place, place_of

TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "none",
    "RANK": "3",
    "LOCAL_RANK": "1",
    "GROUP_RANK": "1",
    "WORLD_SIZE": "4",
    "LOCAL_WORLD_SIZE": "2",
}
SLURM = {
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "1",
    "SLURM_NTASKS_PER_NODE": "2",
    "SLURM_JOB_NAME": "polyps",
}
OURS = {"MEDVISION_PROCESS": "3", "LOCAL_RANK": "1", "NODE_RANK": "1", "WORLD_SIZE": "4"}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        pytest.param({}, {"started_by": "user", "rank": 0}, id="nothing"),
        pytest.param(
            {"NODE_RANK": "0", "MASTER_ADDR": "a", "MASTER_PORT": "1"},
            {"started_by": "user", "rank": 0},
            id="first-host",
        ),
        pytest.param(
            {"NODE_RANK": "1"}, {"started_by": "user", "rank": None, "node_rank": 1}, id="host"
        ),
        pytest.param(
            OURS,
            {
                "started_by": "medvision",
                "rank": 3,
                "local_rank": 1,
                "node_rank": 1,
                "num_processes": 4,
            },
            id="ours",
        ),
        pytest.param(
            TORCHRUN,
            {
                "started_by": "torchrun",
                "rank": 3,
                "local_rank": 1,
                "node_rank": 1,
                "num_processes": 4,
                "num_local": 2,
            },
            id="torchrun",
        ),
        pytest.param(
            {**SLURM, **TORCHRUN},
            {
                "started_by": "torchrun",
                "rank": 3,
                "local_rank": 1,
                "node_rank": 1,
                "num_processes": 4,
                "num_local": 2,
            },
            id="torchrun-inside-slurm",
        ),
        pytest.param(
            SLURM,
            {
                "started_by": "slurm",
                "rank": 2,
                "local_rank": 0,
                "node_rank": 1,
                "num_processes": 4,
                "num_local": 2,
            },
            id="slurm",
        ),
        pytest.param(
            {**SLURM, "SLURM_JOB_NAME": "interactive"},
            {"started_by": "user", "rank": 0},
            id="a-shell-in-slurm",
        ),
        pytest.param(
            {"LOCAL_RANK": "1", "WORLD_SIZE": "2"},
            {"started_by": "other", "rank": 1, "local_rank": 1, "num_processes": 2},
            id="other",
        ),
        pytest.param(
            {"LOCAL_RANK": "1", "NODE_RANK": "2"},
            {"started_by": "other", "rank": None, "local_rank": 1, "node_rank": 2},
            id="other-without-rank",
        ),
        pytest.param(
            {"LOCAL_RANK": "1", "NODE_RANK": "2", "RANK": "5"},
            {"started_by": "other", "rank": 5, "local_rank": 1, "node_rank": 2},
            id="other-with-rank",
        ),
    ],
)
def test_the_process_is_identified_from_the_environment(
    environment: dict[str, str], expected: dict[str, Any]
) -> None:
    assert place_of(environment) == Place(**expected)


@pytest.mark.parametrize(
    ("environment", "is_first", "name"),
    [
        ({}, True, "process 0"),
        ({"NODE_RANK": "1"}, False, "host 1"),
        (OURS, False, "process 3"),
        ({**TORCHRUN, "RANK": "0", "LOCAL_RANK": "0", "GROUP_RANK": "0"}, True, "process 0"),
        ({**SLURM, "SLURM_PROCID": "0", "SLURM_NODEID": "0"}, True, "process 0"),
        (SLURM, False, "process 2"),
    ],
)
def test_one_process_prints_and_writes_for_all(
    environment: dict[str, str], is_first: bool, name: str
) -> None:
    place = place_of(environment)
    assert (place.is_first, place.name) == (is_first, name)


def test_a_process_of_an_external_launcher_starts_no_others() -> None:
    outside = (TORCHRUN, SLURM, {"LOCAL_RANK": "0"})
    assert all(place_of(environment).has_starter for environment in outside)
    assert not any(place_of(environment).has_starter for environment in ({}, OURS))


def test_a_variable_that_is_not_a_number_is_named() -> None:
    with pytest.raises(MedvisionError) as error:
        place_of({"LOCAL_RANK": "first"})
    assert str(error.value) == (
        "expected a number, got 'first' (LOCAL_RANK); unset it, unless a launcher of several"
        " processes has set it: env -u LOCAL_RANK"
    )


def test_a_process_ends_with_its_parent(tmp_path: Path) -> None:
    child = (
        "import os, pathlib, time\n"
        "from medvision.hardware.processes import end_with_parent\n"
        "end_with_parent()\n"
        "pathlib.Path('child').write_text(str(os.getpid()))\n"
        "time.sleep(60)\n"
    )
    parent = (
        "import subprocess, sys, time\n"
        f"subprocess.Popen([sys.executable, '-c', {child!r}])\n"
        "time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", parent], cwd=tmp_path)
    deadline_s = time.monotonic() + 20
    while not (tmp_path / "child").exists() or not (tmp_path / "child").read_text():
        assert time.monotonic() < deadline_s
        time.sleep(0.05)
    pid = int((tmp_path / "child").read_text())
    process.kill()
    process.wait()
    while _is_alive(pid):
        assert time.monotonic() < deadline_s, "the child lives on"
        time.sleep(0.05)


def test_a_process_ends_if_its_parent_ended_before_the_first_check() -> None:
    code = (
        "import time; from medvision.hardware.processes import end_with_parent;"
        " end_with_parent(); time.sleep(60)"
    )
    environment = {**os.environ, "MEDVISION_PARENT": "0"}  # not the current parent
    done = subprocess.run([sys.executable, "-c", code], env=environment, timeout=50, check=False)
    assert done.returncode == ORPHANED


def _is_alive(pid: int) -> bool:
    """Return True if a process runs; a zombie does not."""
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat")
        return not (state.exists() and state.read_text().rpartition(")")[2].split()[0] == "Z")
    except (ProcessLookupError, FileNotFoundError):
        return False


def test_identifying_the_process_imports_no_heavy_package() -> None:
    code = "import sys, medvision.hardware.processes; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
