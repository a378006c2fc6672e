"""Run one config from its check to its end, and report errors in one line."""

from __future__ import annotations

import gc
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from medvision.errors import MedvisionError, Stopped
from medvision.run.processes.errors import described, report, with_way_on

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from medvision.run.storage.run_folder import RunFolder


@contextmanager
def without_collector() -> Iterator[None]:
    """Leave the garbage collector out while modules are imported: a tenth of the time.

    Importing torch and Lightning makes a million objects that stay. The collector goes over them
    again and again, and finds nothing.

    What is there after the first import of torch is taken for permanent: later collections, in
    loader processes as well, do not look at it. Where torch had been imported before, as in a
    notebook, objects of others may lie around, which are left as they are.
    """
    was_enabled, is_first = gc.isenabled(), "torch" not in sys.modules
    gc.disable()
    try:
        yield
        if is_first and was_enabled and "torch" in sys.modules:
            gc.freeze()
    finally:
        if was_enabled:
            gc.enable()


_BEGINNINGS = iter([time.perf_counter()])
"""When this process began, as near as it can know, for the first run in it."""


def run_job(
    cfg: DictConfig,
    experiment: str,
    find_folder: Callable[[], RunFolder],
    *,
    sealed_by: Sequence[str],
) -> tuple[int, Path | None]:
    """Run a config, and say in one line what went wrong.

    Args:
        cfg: As composed or stored.
        experiment: Its name.
        find_folder: Decides the folder, once the config was checked.
        sealed_by: As for ``run_experiment``.

    Returns:
        The exit code, and the folder where there is one.

    Raises:
        Stopped: If a signal ended it; its folder then says so.
    """
    from medvision.run.config.schema import check_config
    from medvision.run.training.trial import trial_of

    folder = None
    started_s = next(_BEGINNINGS, time.perf_counter())
    try:
        check_config(cfg)
        folder = find_folder()
        with without_collector():
            from medvision.run.training.experiment import (
                run_experiment,  # with torch and Lightning: seconds
            )

        summary = run_experiment(
            cfg,
            experiment=experiment,
            folder=folder,
            started_s=started_s,
            sealed_by=sealed_by,
        )
        code = 0
    except MedvisionError as error:
        code = report(error, folder)
    except Exception as error:
        failure = described(error)
        is_trial = trial_of(cfg) is not None  # which its search goes on with
        code = report(failure if is_trial else with_way_on(failure, folder), folder)
    except (Stopped, KeyboardInterrupt):
        _close(folder, "interrupted", is_trial=trial_of(cfg) is not None)
        raise
    if code == 2 and folder is not None and folder.reopened:
        folder.release()  # it did not go on, and stays what it was
        return code, folder.path
    ended = summary["status"] if code == 0 else "failed"
    _close(folder, ended if ended in ("failed", "pruned") else "finished")
    return code, folder.path if folder is not None and folder.exists else None


def _close(folder: RunFolder | None, status: str, *, is_trial: bool = False) -> None:
    """Let the folder say how its run ended, and let others into it."""
    if folder is None or not folder.exists:
        return
    if status == "interrupted" and not is_trial:
        sys.stdout.write(f"to go on: python train.py resume={shlex.quote(str(folder.path))}\n")
    folder.write_status(status)
    folder.release()
