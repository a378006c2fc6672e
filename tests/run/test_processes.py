"""Preparation of runs in several processes: commands, environments, errors."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lightning_fabric.plugins.environments import LightningEnvironment
from omegaconf import OmegaConf
from pytorch_lightning.strategies.launchers.subprocess_script import _SubprocessScriptLauncher

from medvision.errors import MedvisionError
from medvision.hardware.processes import Place
from medvision.run import main
from medvision.run.config.processes import check_plan, check_processes
from medvision.run.multirun.jobs import JobResult, own_environment
from medvision.run.processes import errors
from medvision.run.processes import failure_board as notices
from medvision.run.processes import launcher as launch
from medvision.run.processes import launcher as watch
from medvision.run.processes.errors import described, report
from medvision.run.processes.failure_board import Board, ProcessError, first_cause
from medvision.run.processes.launcher import PROGRAM, Launcher, relaunch_command
from medvision.run.storage.run_folder import RunFolder
from medvision.run.training.job import Job

LAUNCHERS = ("LOCAL_RANK", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE")


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[dict[str, Any]]]:
    """Stop every run before it starts, and record its config, command and seal."""
    monkeypatch.chdir(tmp_path)
    runs: list[dict[str, Any]] = []

    def stop(job: Job) -> JobResult:
        config = OmegaConf.to_container(job.cfg, resolve=True)
        runs.append({"config": config, "command": relaunch_command(), "sealed_by": job.sealed_by})
        os.environ.update(dict.fromkeys(LAUNCHERS, "1"))  # as Lightning leaves them
        return JobResult(code=3 if len(runs) == 1 else 0, run=None)

    monkeypatch.setattr("medvision.run.training.job.run_job", stop)
    before, argv = dict(os.environ), sys.argv
    yield runs
    sys.argv = argv
    assert {k: v for k, v in os.environ.items() if k in LAUNCHERS} == {
        k: v for k, v in before.items() if k in LAUNCHERS
    }


def started_as(monkeypatch: pytest.MonkeyPatch, front: list[str], arguments: list[str]) -> int:
    monkeypatch.setattr(sys, "orig_argv", [*front, *arguments])
    return main(arguments)


ODD = (
    "data.root=/a b/Größe [1], 'x' = \"y\"",
    "data.class_names=[a,'b c']",
    "+data.train_transforms={HorizontalFlip: {p: 0.5}}",
    "~loss",
    "run_dir='runs/of seed ${seed}'",
    "+callbacks.other={_target_: a.B, seed: '${seed}'}",
    r"data.group_pattern='(person\d+)_'",
)


@pytest.mark.parametrize("several", [False, True], ids=["one-run", "of-several"])
def test_the_command_of_a_run_composes_the_same_run(
    seen: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, several: bool, tmp_path: Path
) -> None:
    arguments = ["experiment=polyp_unet", *ODD, "seed=0,1" if several else "seed=1"]
    started_as(monkeypatch, [sys.executable, "train.py"], ["-m"] * several + arguments)
    wanted = seen[-1]
    (program_, script, *again), folder = wanted["command"]
    assert (program_, script, folder) == (sys.executable, "train.py", tmp_path)
    assert "-m" not in again
    assert wanted["config"]["data"]["root"] == "/a b/Größe [1], 'x' = \"y\""
    main(again)
    assert seen[-1]["config"] == wanted["config"]
    assert wanted["config"]["callbacks"]["other"]["seed"] == wanted["config"]["seed"] == 1


@pytest.mark.parametrize(
    "front",
    [
        ["python", "train.py"],
        ["python", "-X", "utf8", "-m", "medvision.cli", "train"],
        ["/bin/python", "/bin/medvision", "train"],
        ["python", "-c", "import x; x.main()"],
    ],
)
def test_further_processes_start_the_same_program(
    seen: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, front: list[str]
) -> None:
    started_as(monkeypatch, front, ["experiment=polyp_unet"])
    assert seen[0]["command"][0] == [sys.executable, *front[1:], "experiment=polyp_unet"]


def test_a_run_started_from_python_has_a_program_too(
    seen: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "pytest"])
    main(["experiment=polyp_unet"])
    assert seen[0]["command"][0] == [sys.executable, *PROGRAM, "experiment=polyp_unet"]


def test_options_of_hydra_are_passed_on_except_those_that_make_several_runs(
    seen: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    own = tmp_path / "own conf" / "experiment"
    own.mkdir(parents=True)
    (own / "swept.yaml").write_text(
        "# @package _global_\nhydra:\n  sweeper:\n    params:\n      optimizer.lr: 1e-3,1e-4\n"
    )
    flags = [f"--config-dir={own.parent}", "-m"]
    given = ["experiment=swept", "hydra.job.chdir=false", "hydra/launcher=basic", "seed=1"]
    started_as(monkeypatch, ["python", "train.py"], [*flags, *given])
    assert [run["config"]["optimizer"]["lr"] for run in seen] == [1e-3, 1e-4]
    wanted = seen[-1]
    again = wanted["command"][0][2:]
    assert again[0] == flags[0]
    assert "hydra.job.chdir=false" in again
    assert not [text for text in again if "launcher" in text or "mode" in text]
    main(again)
    assert seen[-1]["config"] == wanted["config"]


def test_the_further_processes_are_sealed_as_the_first_one_is(
    seen: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    main(["-m", "experiment=polyp_unet", "optimizer.lr=choice(1e-3)", "loss=bce,dice"])
    assert seen[0]["sealed_by"] == ("optimizer.lr", "loss")
    monkeypatch.setenv("MEDVISION_PROCESS", "1")
    monkeypatch.setenv("MEDVISION_SEALED_BY", ",".join(seen[0]["sealed_by"]))
    monkeypatch.setattr("medvision.hardware.processes.end_with_parent", lambda: None)
    main(["experiment=polyp_unet"])
    assert seen[-1]["sealed_by"] == ("optimizer.lr", "loss")
    monkeypatch.setenv("MEDVISION_SEALED_BY", "")
    main(["experiment=polyp_unet"])
    assert seen[-1]["sealed_by"] == ()


@pytest.mark.parametrize(
    ("before", "started_by", "port"),
    [
        ({}, "user", None),
        ({"MASTER_PORT": "2000"}, "user", "2002"),
        ({"MASTER_PORT": "2000"}, "torchrun", "2002"),
        ({"SLURM_JOB_ID": "1234567"}, "slurm", "19569"),  # 15000 + 4567 + 2
        ({"SLURM_JOB_ID": "1234567", "MASTER_PORT": "2000"}, "slurm", "2002"),
    ],
)
def test_each_run_of_a_command_uses_its_own_port(
    monkeypatch: pytest.MonkeyPatch, before: dict[str, str], started_by: Any, port: str | None
) -> None:
    for name in (*LAUNCHERS, "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in before.items():
        monkeypatch.setenv(name, value)
    outside = dict(os.environ)
    with own_environment(Place(started_by=started_by), number=2):
        assert os.environ.get("MASTER_PORT") == port
        assert ("TORCHELASTIC_USE_AGENT_STORE" in os.environ) == (started_by == "torchrun")
        os.environ["LOCAL_RANK"] = "0"
        os.environ.pop("SLURM_JOB_ID", None)
    assert dict(os.environ) == outside


def notice(name: str, what: str = "a", *, posted_s: float = 1.0, **changes: Any) -> ProcessError:
    fields: dict[str, Any] = {"where": None, "hint": None, "exit_code": 3, "trace": None}
    return ProcessError(name=name, what=what, posted_s=posted_s, **{**fields, **changes})


@pytest.mark.parametrize(
    ("own", "others", "line"),
    [
        pytest.param(notice("process 0"), [], "a [process 0]", id="alone"),
        pytest.param(
            notice("process 0", "connection broke", posted_s=2.0),
            [notice("process 1", "bad file", where="x", hint="fix it", exit_code=2)],
            "bad file (x); fix it [process 1]",
            id="the-first-cause-counts",
        ),
        pytest.param(
            notice("process 0", "bad file", posted_s=1.0),
            [notice("process 1", "connection broke", posted_s=2.0)],
            "bad file [process 0]",
            id="own",
        ),
    ],
)
def test_an_error_of_one_process_names_it(
    own: ProcessError, others: list[ProcessError], line: str
) -> None:
    assert str(first_cause(own, others)) == line


def test_an_error_of_all_processes_names_none() -> None:
    others = [notice("process 1", posted_s=0.5), notice("process 2", posted_s=2.0)]
    assert first_cause(notice("process 0"), others) is None


@pytest.fixture
def board(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Board:
    """Board of two torchrun processes on this host, seen from the first one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(errors, "PEERS_S", 0.2)
    monkeypatch.setattr(errors, "REPORTED_S", 0.2)
    as_torchrun(monkeypatch, rank=0)
    made = Board.here()
    assert made is not None
    return made


def as_torchrun(monkeypatch: pytest.MonkeyPatch, *, rank: int) -> None:
    values = {"RUN_ID": "none", "RESTART_COUNT": "0"}
    for name, value in values.items():
        monkeypatch.setenv(f"TORCHELASTIC_{name}", value)
    for name in ("RANK", "LOCAL_RANK"):
        monkeypatch.setenv(name, str(rank))
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "2")


def test_the_first_process_reports_an_error_of_all_once(
    board: Board, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    error = MedvisionError("no such key", where="data.rot", hint="see --help")
    board.post(Place(started_by="torchrun", rank=1, local_rank=1), notice_of(error, "process 1"))
    assert report(error) == 2
    assert capsys.readouterr().err == "error: no such key (data.rot); see --help\n"


def test_the_first_process_reports_the_earliest_error(
    board: Board, capsys: pytest.CaptureFixture[str]
) -> None:
    error = MedvisionError("the disk is full", hint="free some space", exit_code=3)
    board.post(Place(started_by="torchrun", rank=1, local_rank=1), notice_of(error, "process 1"))
    broken = described(RuntimeError("[x] Connection closed by peer [127.0.0.1]:1"))
    assert report(broken) == 3
    assert capsys.readouterr().err == "error: the disk is full; free some space [process 1]\n"


def test_a_further_process_reports_if_the_first_one_does_not(
    board: Board, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    as_torchrun(monkeypatch, rank=1)
    assert report(MedvisionError("no such file", where="x")) == 2
    assert capsys.readouterr().err == "error: no such file (x) [process 1]\n"
    assert board.is_reported


def test_a_further_process_is_silent_if_the_first_one_has_reported(
    board: Board, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    board.mark_reported()
    as_torchrun(monkeypatch, rank=1)
    assert report(MedvisionError("no such file", where="x")) == 2
    assert capsys.readouterr().err == ""


def test_a_process_that_this_program_started_leaves_the_report_to_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MEDVISION_BOARD", str(tmp_path))
    monkeypatch.setenv("MEDVISION_PROCESS", "3")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert report(described(ZeroDivisionError("division by zero"))) == 3
    assert capsys.readouterr().err == ""
    (reported,) = Board(tmp_path).errors()
    assert (reported.name, reported.what) == ("process 3", "ZeroDivisionError: division by zero")
    assert reported.trace is not None
    assert list(tmp_path.iterdir()) == [tmp_path / "failed.1.json"]


def test_the_first_process_of_another_host_names_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NODE_RANK", "1")
    assert report(MedvisionError("no such file", where="x")) == 2
    assert capsys.readouterr().err == "error: no such file (x) [host 1]\n"


def notice_of(error: MedvisionError, name: str) -> ProcessError:
    return ProcessError.of(error, name=name)


SLURM = {
    "SLURM_NTASKS": "4",
    "SLURM_NTASKS_PER_NODE": "2",
    "SLURM_JOB_NAME": "job",
    "SLURM_PROCID": "0",
}
TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "none",
    "RANK": "0",
    "LOCAL_RANK": "0",
    "WORLD_SIZE": "4",
    "LOCAL_WORLD_SIZE": "2",
}


@pytest.mark.parametrize(
    ("environment", "trainer", "line"),
    [
        pytest.param(
            {**TORCHRUN, "WORLD_SIZE": "2"},
            {},
            "torchrun started 2 processes, but the run expects 1 on each of 1 host"
            " (trainer.devices); add trainer=ddp trainer.devices=2 trainer.num_nodes=1",
            id="it-would-train-twice",
        ),
        pytest.param(
            TORCHRUN,
            {"devices": 4},
            "torchrun started 4 processes, but the run expects 4 on each of 1 host"
            " (trainer.devices); add trainer=ddp trainer.devices=2 trainer.num_nodes=2",
            id="on-two-hosts",
        ),
        pytest.param(
            {**SLURM, "SLURM_STEP_ID": "0"},
            {"devices": 2},
            "SLURM started 4 processes, but the run expects 2 on each of 1 host (trainer.devices);"
            " add trainer=ddp trainer.devices=2 trainer.num_nodes=2",
            id="slurm",
        ),
        pytest.param(
            SLURM,
            {"devices": 2, "num_nodes": 2},
            "the SLURM job has 4 tasks, but this process was not started by srun: it would block,"
            " waiting for the others (SLURM_NTASKS); put srun before python",
            id="without-srun",
        ),
        pytest.param(
            {"SLURM_NTASKS": "2", "SLURM_JOB_NAME": "job", "SLURM_STEP_ID": "0"},
            {"devices": 2},
            "the SLURM job has 2 tasks, but the number per host is not set"
            " (SLURM_NTASKS_PER_NODE); use --ntasks-per-node=<GPUs of a host> instead of --ntasks",
            id="slurm-tasks-without-hosts",
        ),
        pytest.param(
            {},
            {"num_nodes": 2},
            "2 hosts are requested, but NODE_RANK, MASTER_ADDR, MASTER_PORT are not set: they would"
            " block, waiting for each other (trainer.num_nodes); on each host set NODE_RANK=0, 1,"
            " ..., MASTER_ADDR=<first host> and MASTER_PORT=<free port>, or start with torchrun or"
            " srun",
            id="hosts-that-would-not-meet",
        ),
        pytest.param(
            {"NODE_RANK": "1"},
            {},
            "this is host 1, counted from 0, but the run has 1 host (trainer.num_nodes); set it to"
            " the number of hosts, at least 2, or unset NODE_RANK",
            id="a-host-too-many",
        ),
        pytest.param(
            {"LOCAL_RANK": "0"},
            {"devices": 2},
            "LOCAL_RANK is set, so another program starts the processes, but MASTER_PORT is"
            " not set (LOCAL_RANK); unset LOCAL_RANK, or set MASTER_ADDR and"
            " MASTER_PORT for all of them",
            id="left-over",
        ),
    ],
)
def test_processes_that_do_not_fit_the_config_are_refused(
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    trainer: dict[str, Any],
    line: str,
) -> None:
    with pytest.raises(MedvisionError) as error:
        check(monkeypatch, environment, **trainer)
    assert str(error.value) == line
    assert error.value.exit_code == 2


@pytest.mark.parametrize(
    ("environment", "trainer"),
    [
        ({}, {}),
        ({}, {"devices": 2}),
        (TORCHRUN, {"devices": 2, "num_nodes": 2}),
        (TORCHRUN, {"devices": "auto", "num_nodes": 2}),
        ({**TORCHRUN, "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}, {}),
        ({**SLURM, "SLURM_STEP_ID": "0"}, {"devices": 2, "num_nodes": 2}),
        ({"SLURM_NTASKS": "1", "SLURM_JOB_NAME": "job"}, {}),
        ({"NODE_RANK": "1", "MASTER_ADDR": "a", "MASTER_PORT": "1"}, {"num_nodes": 2}),
        ({"LOCAL_RANK": "1", "MASTER_PORT": "1", "WORLD_SIZE": "2"}, {"devices": 2}),
        ({"NODE_RANK": "3"}, {"accelerator": "tpu"}),
    ],
)
def test_processes_that_fit_the_config_are_accepted(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], trainer: dict[str, Any]
) -> None:
    check(monkeypatch, environment, **trainer)


def check(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], **trainer: Any) -> None:
    for name in LAUNCHERS:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    plain = {"accelerator": "cpu", "devices": 1, "num_nodes": 1}
    check_processes(OmegaConf.create({"trainer": {**plain, **trainer}}))


@pytest.mark.parametrize(
    ("trainer", "accelerator", "rows", "line"),
    [
        (
            {"devices": 8},
            "cpu",
            7,
            "expected at most one process per training image, got 8 for 7 (trainer.devices);"
            " use at most 7",
        ),
        (
            {"devices": 2, "sync_batchnorm": True},
            "cpu",
            9,
            "synchronised batch norm requires GPUs (trainer.sync_batchnorm); leave it out",
        ),
        (
            {"devices": 64},
            "gpu",
            99,
            "64 GPUs requested, but 2 found (trainer.devices); lower it, or set it to auto",
        ),
        ({"devices": 1, "sync_batchnorm": True}, "cpu", 9, None),
        ({"devices": "auto", "sync_batchnorm": True}, "gpu", 2, None),
        ({"devices": 8}, "cpu", 8, None),
    ],
)
def test_more_processes_than_devices_or_rows_are_refused(
    monkeypatch: pytest.MonkeyPatch,
    trainer: dict[str, Any],
    accelerator: str,
    rows: int,
    line: str | None,
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    cfg = OmegaConf.create({"trainer": {"num_nodes": 1, "sync_batchnorm": False, **trainer}})
    plan: Any = SimpleNamespace(accelerator=accelerator, xla=False)
    data: Any = SimpleNamespace(tables={"train": [0] * rows})
    if line is None:
        check_plan(cfg, plan, data)
        return
    with pytest.raises(MedvisionError) as error:
        check_plan(cfg, plan, data)
    assert str(error.value) == line


@pytest.fixture
def launcher(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Launcher]:
    """Launcher of two processes, the second of which runs ``code`` instead of the program."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(watch, "LOOK_S", 0.05)
    monkeypatch.setattr(watch, "STUCK_S", 10.0)  # longer than a busy machine needs to end a process
    monkeypatch.setattr(launch, "PEERS_S", 1.0)

    def make(code: str) -> Launcher:
        head = (
            "import json, os, pathlib, sys, time\n"
            "board = pathlib.Path(os.environ['MEDVISION_BOARD'])\n"
        )
        command = [sys.executable, "-c", head + code]
        monkeypatch.setattr(launch, "relaunch_command", lambda: (command, tmp_path))
        plain = _SubprocessScriptLauncher(LightningEnvironment(), num_processes=2, num_nodes=1)
        return Launcher(plain, RunFolder(tmp_path / "run"))

    return make


READY = "(board / 'ready.1').write_text('')\n"
POST = (
    "note = dict(name='process 1', what='bad file', where='x', hint=None, exit_code=2,"
    " trace=None, posted_s=time.time())\n"
    "(board / 'failed.1.json').write_text(json.dumps(note))\nsys.exit(2)\n"
)


def wait_for_the_other(made: Launcher) -> Callable[[], None]:
    """Wait for the second process as the first one does, and fail if it has ended."""

    def fit() -> None:
        made.procs[0].wait(timeout=20)
        raise RuntimeError("Connection closed by peer")

    return fit


def test_a_fit_that_ends_leaves_no_process_and_no_board(
    launcher: Callable[..., Launcher], tmp_path: Path
) -> None:
    made = launcher(READY)
    assert made.launch(lambda: 5) == 5
    made.wait()
    assert made.procs[0].returncode == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("code", "line", "exit_code"),
    [
        pytest.param(READY + POST, "bad file (x) [process 1]", 2, id="in-the-fit"),
        pytest.param(POST, "bad file (x) [process 1]", 2, id="before-the-fit"),
        pytest.param(
            READY + "os.kill(os.getpid(), 9)",
            "a process was ended by SIGKILL; if memory ran out, lower"
            " data.batch_size or data.num_workers [process 1]",
            3,
            id="killed",
        ),
        pytest.param(
            "sys.exit(7)",
            "a process ended with code 7 without a message; see its output [process 1]",
            3,
            id="without-a-word",
        ),
        pytest.param("", "a process ended before the training started", 3, id="too-early"),
    ],
)
def test_the_first_process_reports_why_another_one_failed(
    launcher: Callable[..., Launcher], tmp_path: Path, code: str, line: str, exit_code: int
) -> None:
    made = launcher(code)
    with pytest.raises(MedvisionError) as error:
        made.launch(wait_for_the_other(made))
    assert str(error.value) == line
    assert error.value.exit_code == exit_code
    assert list(tmp_path.iterdir()) == []


def test_a_blocked_process_ends_with_the_first_one(
    launcher: Callable[..., Launcher], tmp_path: Path
) -> None:
    made = launcher(READY + "time.sleep(600)")

    def fit() -> None:
        raise ZeroDivisionError("division by zero")

    with pytest.raises(ProcessError, match=r"division by zero \[process 0\]"):
        made.launch(fit)
    assert made.procs[0].returncode == -signal.SIGKILL
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_ends_the_others(launcher: Callable[..., Launcher]) -> None:
    made = launcher(READY + "time.sleep(600)")

    def fit() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        made.launch(fit)
    assert made.procs[0].returncode == -signal.SIGKILL


def test_a_first_process_that_waits_for_a_dead_one_is_ended(
    launcher: Callable[..., Launcher],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    made = launcher(READY + POST)
    monkeypatch.setattr(watch, "STUCK_S", 0.2)
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)

    def fit() -> None:
        assert notices.wait_until(lambda: bool(ended), timeout_s=20)

    made.launch(fit)
    assert ended == [2]
    assert capsys.readouterr().err == "error: bad file (x) [process 1]\n"
