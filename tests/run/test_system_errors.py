"""Failures of the machine end in one line that says how to continue, and never block."""

import errno
import os
import resource
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import reduction
from pathlib import Path
from types import SimpleNamespace

import pytest

from faults import Ended, attempt
from medvision.data.loading import datasets as loader_process
from medvision.data.loading.datasets import workers_with_room
from medvision.run import main
from medvision.run.processes.errors import described

SMALL = (
    "trainer=cpu",
    "logger=csv",
    "experiment=polyp_unet",
    "model.base_channels=2",
    "data.image_size=32",
    "data.num_images=60",
    "data.batch_size=4",
    "run_dir=run",
)
RESUME_HINT = "; then continue with python train.py resume=run"


@pytest.fixture(scope="module")
def _imported(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Import modules that every fork would import again, some with little memory."""
    folder = tmp_path_factory.mktemp("imported") / "run"
    assert main([*SMALL[:-1], "trainer.max_epochs=1", f"run_dir={folder}"]) == 0
    os.environ.pop("MEDVISION_RUN_DIR", None)


@pytest.fixture
def run(tmp_path: Path, _imported: None) -> Callable[..., Ended]:
    """Run the program in a fork, after a change to that process."""

    def in_fork(prepare: Callable[[], None], *overrides: str) -> Ended:
        work = tmp_path / "work"
        work.mkdir(exist_ok=True)

        def program() -> int:
            prepare()
            return main([*SMALL, *overrides])

        return attempt(program, work, work)

    return in_fork


def children() -> list[int]:
    tasks = Path("/proc/self/task").iterdir()
    return [int(pid) for task in tasks for pid in (task / "children").read_text().split()]


def end_a_loader(signum: int) -> Callable[[], None]:
    """End a loader process, once there are batches."""

    def wait() -> None:
        while not Path("run/metrics.csv").exists() or not (found := children()):
            time.sleep(0.02)
        os.kill(found[0], signum)

    return lambda: threading.Thread(target=wait, daemon=True).start()


in_proc = pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="looks into /proc")


DIED = (
    "a process that reads images ended unexpectedly;"
    " if memory or shared memory (/dev/shm) ran out, lower data.num_workers"
)
NO_SHARED_MEMORY = (
    "no shared memory is left for a process that reads images; set data.num_workers=0,"
    " or in a container raise it with docker run --shm-size=1g"
)


@pytest.mark.slow
@in_proc
@pytest.mark.parametrize(
    "signum",
    [
        signal.SIGKILL,
        pytest.param(signal.SIGBUS, marks=pytest.mark.slow),
        pytest.param(signal.SIGSEGV, marks=pytest.mark.slow),
    ],
)
def test_a_dead_loader_process_ends_the_run_which_resumes_without_loaders(
    run: Callable[..., Ended], tmp_path: Path, signum: int
) -> None:
    ended = run(end_a_loader(signum), "data.num_workers=1", "trainer.max_epochs=20")
    assert ended.code == 3
    reported = ended.err[ended.err.index("error: ") :].rstrip().removesuffix(RESUME_HINT)
    assert reported in (f"error: {DIED}", f"error: {NO_SHARED_MEMORY}")
    work = tmp_path / "work"
    assert '"status": "failed"' in (work / "run" / "summary.json").read_text()
    if signum == signal.SIGKILL:
        again = attempt(lambda: main(["resume=run", "data.num_workers=0"]), work, work)
        assert again.code == 0, again.err


def unread() -> None:
    """Let the output go to a pipe whose reader has ended, as after ``| head``."""
    reader, writer = os.pipe()
    os.close(reader)
    for number in (1, 2):
        os.dup2(writer, number)


@pytest.mark.slow
def test_a_run_whose_output_nobody_reads_comes_to_its_end(
    run: Callable[..., Ended], tmp_path: Path
) -> None:
    assert run(unread, "data.num_workers=0", "trainer.max_epochs=2").code == 0
    assert '"status": "finished"' in (tmp_path / "work" / "run" / "summary.json").read_text()
    bad = run(unread, "data.num_workers=0", "run_dir=other", "data.root=nowhere")
    assert bad.code == 2


def close_the_terminal() -> None:
    """Let the output go to a terminal, and close it once there is an epoch."""
    terminal, output = os.openpty()
    for number in (1, 2):
        os.dup2(output, number)
    os.close(output)

    def close() -> None:
        while not Path("run/metrics.csv").exists():
            os.set_blocking(terminal, False)
            with suppress(BlockingIOError):
                os.read(terminal, 10_000)
            time.sleep(0.02)
        os.close(terminal)
        for _ in range(2):  # the system sends one, and the shell another one
            os.kill(os.getpid(), signal.SIGHUP)

    threading.Thread(target=close, daemon=True).start()


@pytest.mark.slow
@pytest.mark.parametrize(
    "ignored",
    [pytest.param(False, id=""), pytest.param(True, id="nohup", marks=pytest.mark.slow)],
)
def test_a_closed_terminal_ends_a_run_saved_unless_the_signal_is_ignored(
    run: Callable[..., Ended], tmp_path: Path, ignored: bool
) -> None:
    def prepare() -> None:
        if ignored:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
        close_the_terminal()

    ended = run(prepare, "data.num_workers=0", f"trainer.max_epochs={3 if ignored else 1000}")
    work = tmp_path / "work"
    summary = (work / "run" / "summary.json").read_text()
    if ignored:
        assert ended.code == 0
        assert '"status": "finished"' in summary
        return
    assert ended.code == 129
    assert '"status": "interrupted"' in summary
    assert (work / "run" / "checkpoints" / "last.ckpt").exists()


def limit(kind: int, number: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(kind, (number, number))


def test_a_batch_that_cannot_be_sent_does_not_block(run: Callable[..., Ended]) -> None:
    def no_handle(_: int) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    def few() -> None:  # the loader processes are forks of this one
        reduction.DupFd = no_handle  # type: ignore[misc,assignment]

    ended = run(few, "data.num_workers=2", "trainer.max_epochs=1")
    assert ended.code == 3
    assert ended.err.splitlines()[-1] == (
        "error: too many open files; raise the limit (ulimit -n 65536) or lower data.num_workers"
        + RESUME_HINT
    )


@in_proc
def test_running_out_of_memory_is_one_line(run: Callable[..., Ended]) -> None:
    def little() -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        allowed = pages * os.sysconf("SC_PAGE_SIZE") + 200 * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (allowed, allowed))

    big = ("model.base_channels=64", "data.image_size=512", "data.num_images=12")
    ended = run(little, "data.num_workers=0", *big)
    assert ended.code == 3, ended.err
    assert len(ended.errors) == 1
    assert ended.errors[0].startswith(
        "error: out of memory; lower data.batch_size or data.image_size"
    )


@pytest.mark.parametrize("size", [pytest.param(1000, marks=pytest.mark.slow), 30_000])
def test_a_file_size_limit_leaves_no_partial_file(
    run: Callable[..., Ended], tmp_path: Path, size: int
) -> None:
    ended = run(limit(resource.RLIMIT_FSIZE, size), "data.num_workers=0", "trainer.max_epochs=1")
    assert ended.code == 3
    assert len(ended.errors) == 1
    assert "larger than the system allows" in ended.err or "File too large" in ended.err
    left = [path.name for path in (tmp_path / "work" / "run").rglob("*") if path.is_file()]
    assert all(not name.endswith((".tmp", ".ckpt")) for name in left)


@pytest.mark.slow
@pytest.mark.parametrize("size_kb", [8, 40, 100, 200, 400, 700])
def test_a_small_disk_that_fills_up_for_real(
    run: Callable[..., Ended], tmp_path: Path, size_kb: int
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    if os.system(f"mount -t tmpfs -o size={size_kb}k tmpfs {work} 2>/dev/null") != 0:
        pytest.skip("may not mount a disk")
    try:
        ended = run(lambda: None, "data.num_workers=0", "trainer.max_epochs=3")
        assert ended.code in (2, 3)
        assert len(ended.errors) == 1
        assert "o space left on" in ended.errors[0]
        assert "Traceback" not in ended.err
        began = (work / "run" / "summary.json").exists()
        assert os.system(f"mount -o remount,size=64m {work}") == 0
        again = attempt(lambda: main(["resume=run"]), work, work)
        assert again.code == (0 if began else 2)
        print(f"{size_kb} kB: {ended.errors[0]}; then {again.code}")
    finally:
        os.system(f"umount {work}")


def space(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, total: int, free: int) -> None:
    """Set the size of the shared memory."""
    found = SimpleNamespace(total=total, used=total - free, free=free)
    monkeypatch.setattr(loader_process, "SHARED_MEMORY", tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: found)


@pytest.mark.parametrize(
    ("free", "requested", "used"),
    [(64, 4, 4), (10, 4, 4), (9, 4, 3), (5, 4, 1), (3, 4, 0), (0, 4, 0), (0, 0, 0)],
)
def test_loader_processes_are_limited_by_the_shared_memory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, free: int, requested: int, used: int
) -> None:
    space(monkeypatch, tmp_path, total=64_000_000, free=free * 1_000_000)
    number, note = workers_with_room(requested, batch_bytes=1_000_000)
    assert number == used
    assert (note is None) == (used == requested)
    if note is not None:
        start = f"{tmp_path} has {free} MB left, batches of 1.0 MB each: using {used} of"
        assert note.startswith(start)


def test_unlimited_shared_memory_does_not_limit_loader_processes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    space(monkeypatch, tmp_path, total=0, free=0)
    assert workers_with_room(4, batch_bytes=10**9) == (4, None)
    monkeypatch.setattr(loader_process, "SHARED_MEMORY", tmp_path / "none")
    assert workers_with_room(4, batch_bytes=10**9) == (4, None)


def test_a_run_reports_fewer_loader_processes(
    train: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    space(monkeypatch, tmp_path, total=1, free=1)
    made = train("experiment=polyp_unet", "model.base_channels=2", "data.num_workers=2")
    assert "using 0 of 2 loader processes" in (made / "summary.json").read_text()


WRAPPED = "Caught OSError in DataLoader worker process 0.\nOriginal Traceback (most recent call)\n"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "run/metrics.csv"),
            "no space left on the disk (run/metrics.csv); free some space",
        ),
        (
            OSError(errno.EDQUOT, "Disk quota exceeded", "run/a.csv"),
            "disk quota exceeded (run/a.csv); free some space",
        ),
        (
            OSError(WRAPPED + "OSError: [Errno 5] Input/output error: 'a.png'\n"),
            "the disk failed; see the system log",
        ),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "out of memory; lower data.batch_size"),
        (
            RuntimeError(
                "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate"
                " memory: you tried to allocate 67108864 bytes."
            ),
            "out of memory; lower data.batch_size",
        ),
        (
            RuntimeError(
                "unable to allocate shared memory(shm) for file </torch_1_2_0>: No space left on"
                " device (28)"
            ),
            "no shared memory is left for a process that reads images; set data.num_workers=0",
        ),
    ],
)
def test_failures_of_the_machine_have_their_messages(error: Exception, line: str) -> None:
    reported = described(error)
    assert str(reported).startswith(line)
    assert reported.exit_code == 3


@pytest.mark.parametrize(
    ("number", "reported"),
    [(errno.EMFILE, "too many open files"), (errno.EACCES, "RuntimeError: b")],
)
def test_a_later_library_error_does_not_hide_a_failure_of_the_machine(
    number: int, reported: str
) -> None:
    first, then = OSError(number, os.strerror(number)), RuntimeError("b")
    then.__context__ = first
    assert described(then).what == reported


@pytest.mark.slow
@pytest.mark.skipif(
    not hasattr(os, "seteuid") or os.geteuid() != 0, reason="needs root to be no one"
)
def test_a_read_only_folder_is_named(run: Callable[..., Ended], tmp_path: Path) -> None:
    def someone_else() -> None:
        os.seteuid(65534)

    work = tmp_path / "work"
    work.mkdir()
    shared = Path(tempfile.gettempdir())  # stays writable for all
    for path in (tmp_path, *tmp_path.parents):
        if path.is_relative_to(shared) and path != shared:
            path.chmod(0o755)
    ended = run(someone_else, "data.num_workers=0", "trainer.max_epochs=1")
    assert ended.code == 2
    assert ended.err == (
        "error: cannot create the run folder: Permission denied (run); start in a writable folder\n"
    )
    assert not list(work.iterdir())
    first = run(lambda: None, "data.num_workers=0", "trainer.max_epochs=1")
    assert first.code == 0
    (work / "run" / "summary.json").write_text(
        (work / "run" / "summary.json").read_text().replace('"finished"', '"interrupted"')
    )

    def resume() -> int:
        someone_else()
        return main(["resume=run"])

    ended = attempt(resume, work, work)
    assert ended.code == 3
    assert ended.err == "error: permission denied (run/.lock); check the permissions\n"
