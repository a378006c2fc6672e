"""The program behind ``train.py``: compose, run each job, turn failures into one line."""

from __future__ import annotations

import os
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from medvision.run.configs import CONF, help_text
from medvision.types import MedvisionError

if TYPE_CHECKING:  # --help must not wait for Hydra
    from omegaconf import DictConfig

    from medvision.run.folder import RunFolder

STARTED_S = time.perf_counter()
"""When this process began, as near as it can know."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Train as ``python train.py ARGUMENTS`` does.

    Args:
        arguments: What follows the program's name; None takes it from ``sys.argv``.

    Returns:
        Exit code: 0 done, 2 wrong input or usage, 3 failed while running, 130 interrupted.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if {"-h", "--help"} & set(arguments):
        sys.stdout.write(help_text())
        return 0
    try:
        codes = _run_jobs(arguments)
    except MedvisionError as error:
        return report(error)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130
    return max(codes, default=0)


def _run_jobs(arguments: Sequence[str]) -> list[int]:
    """Let Hydra compose and start every job; return their exit codes."""
    # Hydra prints its own errors and exits with 1 unless it is told to let them through.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    import hydra

    from medvision.run.folder import is_further_process
    from medvision.run.messages import check_usage, explaining, quote_text
    from medvision.run.sealed import sealed, start_line

    multirun, given = check_usage(arguments)
    arguments = [quote_text(argument) for argument in arguments]
    base = None
    if multirun:
        base = Path("runs", "multirun", datetime.now().strftime("%Y-%m-%d_%H-%M-%S"))
    codes: list[int] = []
    run_dirs: list[Path | None] = []
    overrides: list[list[str]] = []

    def job(cfg: DictConfig) -> None:
        from hydra.core.hydra_config import HydraConfig

        keys = sealed([*map(quote_text, given), *_swept_by_config()])
        if keys and not codes and not is_further_process():
            sys.stdout.write(f"{start_line(keys)}\n")
        code, run_dir = _run_job(cfg, base, sealed_by=keys)
        codes.append(code)
        run_dirs.append(run_dir)
        overrides.append([str(override) for override in HydraConfig.get().overrides.task])

    sys.argv = [sys.argv[0], *arguments]
    with explaining(arguments), tempfile.TemporaryDirectory() as scratch:
        os.environ["MEDVISION_SCRATCH"] = scratch
        hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")(job)()
    if base is not None and any(run_dirs):
        from medvision.run.folds import write_folds
        from medvision.run.multirun import write_multirun
        from medvision.run.multirun_screen import print_folds, print_multirun

        groups = write_multirun(base, run_dirs, overrides)
        print_multirun(groups)
        print_folds(write_folds(base, groups))
        sys.stdout.write(f"{base}\n")
    return codes


def _swept_by_config() -> list[str]:
    """What a config, and not the command line, lets the runs of a command vary."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from medvision.run.sealed import SEARCH

    hydra_cfg = HydraConfig.get()
    if hydra_cfg.mode != RunMode.MULTIRUN:
        return []
    if not str(hydra_cfg.sweeper._target_).endswith(".BasicSweeper"):  # others search
        return [f"{SEARCH}={hydra_cfg.runtime.choices['hydra/sweeper']}"]
    return [f"{key}={value}" for key, value in (hydra_cfg.sweeper.params or {}).items()]


def _run_job(
    cfg: DictConfig, base: Path | None, *, sealed_by: Sequence[str]
) -> tuple[int, Path | None]:
    """Run one composed config; return its exit code and run folder."""
    from hydra.core.hydra_config import HydraConfig

    from medvision.run.check import check_config
    from medvision.run.folder import RunFolder

    hydra_cfg = HydraConfig.get()
    experiment = str(hydra_cfg.runtime.choices["experiment"])
    folder = None
    try:
        check_config(cfg)
        number = None if base is None else int(hydra_cfg.job.num)
        folder = RunFolder.plan(experiment, cfg.run_dir, multirun=base, number=number)
        from medvision.run.job import run_experiment  # imports torch: a second's config check first

        run_experiment(
            cfg,
            experiment=experiment,
            folder=folder,
            started_s=STARTED_S,
            sealed_by=sealed_by,
        )
        code = 0
    except MedvisionError as error:
        code = report(error)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        code = 130
    except Exception as error:
        code = report(as_failure(error, folder))
    if folder is not None and folder.exists:
        status = {0: "finished", 130: "interrupted"}.get(code, "failed")
        folder.write_status(status)
        return code, folder.path
    return code, None


def as_failure(error: Exception, folder: RunFolder | None) -> MedvisionError:
    """Say in one line what no room foresaw, and keep the traceback where it can be found."""
    from medvision.files import write_atomically

    text = traceback.format_exc()
    inner = _from_worker(str(error))
    if inner is not None:
        return MedvisionError(inner)
    where = Path("medvision_traceback.txt")
    if folder is not None and folder.exists:
        where = folder.path / "traceback.txt"
    write_atomically(where, text)
    lines = str(error).splitlines() or [""]
    what, hint = f"{type(error).__name__}: {lines[0]}", f"the traceback is in {where}"
    if isinstance(error, MemoryError) or "out of memory" in str(error):
        what, hint = "out of memory", f"lower data.batch_size or data.image_size; {hint}"
    elif isinstance(error, OSError) and error.errno == 28:
        what, hint = "no space left on the disk", f"free some; {hint}"
    return MedvisionError(what, hint=hint, exit_code=3)


def _from_worker(message: str) -> str | None:
    """The one line of a ``MedvisionError`` that a loader process raised, if it is one."""
    mark = f"{MedvisionError.__module__}.{MedvisionError.__name__}: "
    return message.rsplit(mark, 1)[1].strip() if mark in message else None


def report(error: MedvisionError) -> int:
    """Say in one line what is wrong; return the exit code."""
    from medvision.run.folder import is_further_process

    if is_further_process():  # one process speaks for all
        return error.exit_code
    if os.environ.get("MEDVISION_DEBUG") == "1":
        traceback.print_exception(error)
    sys.stderr.write(f"error: {error}\n")
    return error.exit_code
