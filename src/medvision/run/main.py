"""Program behind ``train.py``: compose the configs of a command, and run a job for each."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvision.console import unread_output
from medvision.errors import MedvisionError, Stopped, printable
from medvision.files import file_errors
from medvision.live import live_line
from medvision.run.config.store import CONF, help_text, run_name
from medvision.run.multirun.jobs import (
    JOBS,
    JobResult,
    forget_jobs,
    own_environment,
    read_results,
    write_result,
)
from medvision.run.processes.errors import described, report
from medvision.run.quick_imports import defer_unused

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from medvision.hardware.processes import Place

SEALED_VARIABLE = "MEDVISION_SEALED_BY"
"""Keys that the command varies, passed to the further processes of a run."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Train as ``python train.py ARGUMENTS`` does.

    Args:
        arguments: Command line after the program name; None reads ``sys.argv``.

    Returns:
        Exit code: 0 done, 2 wrong input or usage, 3 failed while running, 130 stopped by Ctrl-C,
        143 by SIGTERM, 129 by SIGHUP.
    """
    with unread_output():
        return _main(list(sys.argv[1:] if arguments is None else arguments))


def _main(arguments: Sequence[str]) -> int:
    if {"-h", "--help"} & set(arguments):
        sys.stdout.write(help_text(arguments))
        return 0
    from medvision.run.processes.signals import handle_signals

    defer_unused()
    try:
        with handle_signals(), _starting(arguments):
            resumes = any(argument.startswith("resume=") for argument in arguments)
            code = resume_run(arguments) if resumes else run_command(arguments)
            sys.stdout.flush()
            return code
    except Stopped as stopped:
        return _report_stopped(stopped)
    except KeyboardInterrupt:  # outside the main thread, where signals are not handled
        return _report_stopped(Stopped(signal.SIGINT))
    except Exception as error:
        return report(error)


@contextmanager
def _starting(arguments: Sequence[str]) -> Iterator[None]:
    """Say at once on the terminal that the program has started; the first imports take seconds."""
    named = [a.partition("=")[2] for a in arguments if a.startswith(("experiment=", "resume="))]
    live_line.is_on = _place().is_first
    if not any(argument.startswith(("--cfg", "-c", "--info", "-i")) for argument in arguments):
        live_line.show(f"starting {named[-1]}" if named else "starting")
    try:
        yield
    finally:
        live_line.clear()


def run_command(arguments: Sequence[str], *, made: list[Path] | None = None) -> int:
    """Compose the config of each run with Hydra, and call `Command.run` with it.

    Args:
        arguments: Command line after the program name.
        made: For callers in Python: gets the folder of the run. Errors are then raised.

    Returns:
        Largest exit code of the runs.

    Raises:
        MedvisionError: If the command is wrong, or if a run failed and ``made`` is given.
    """
    # By default Hydra prints its own errors and exits with 1; this lets them propagate.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from medvision.run.config.hydra_errors import check_usage, explaining, quote_text
    from medvision.run.storage.test_seal import searches

    place = _place()
    multirun, overrides, arguments = check_usage(arguments)
    arguments = [quote_text(argument) for argument in arguments]
    is_search = place.started_by != "medvision" and searches(overrides)
    if is_search and not multirun:
        arguments = ["-m", *arguments]
    base = None
    if multirun and not is_search:
        base = _new_base(creates=place.is_first)
    sys.argv = [sys.argv[0], *arguments]
    command = Command(
        overrides=tuple(map(quote_text, overrides)),
        process=os.getpid(),
        folder=Path.cwd(),
        argv=tuple(sys.argv),
        place=place,
        jobs=None if base is None else base / f"{JOBS}_{os.getpid()}",
        made=made,
    )
    codes = command.codes
    broken: MedvisionError | Stopped | None = None
    with explaining(arguments), _scratch(command.jobs) as scratch:
        os.environ["MEDVISION_SCRATCH"] = str(scratch)
        try:
            # a launcher may pickle the method and call it in another process
            program = hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")
            with _composing_once(arguments):
                program(command.run)()
        except (MedvisionError, HydraException, OmegaConfBaseException):
            raise
        except Stopped as stopped:  # the runs that finished before are reported
            broken = stopped
        except Exception as error:  # a launcher whose process was killed or is unreachable
            broken = described(error)
        if base is not None and command.jobs is not None:
            codes = _gather(base, command.jobs)
    for failure in filter(None, [broken, *command.errors]):
        raise failure
    return max(codes, default=0)


@contextmanager
def _composing_once(arguments: Sequence[str]) -> Iterator[None]:
    """Keep Hydra from composing the same config several times (Hydra 1.3.8).

    It composes the config of each of several runs to check it, and again to start it; `differing`
    needs it a third time. Before that it composes one only to read ``hydra.mode``, which without a
    value follows from ``-m``: unless the command or a config of the user may set it, that is left
    out. Saves a quarter of a second per command and again per run.
    """
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra._internal.hydra import Hydra

    compose, get_mode = ConfigLoaderImpl.load_configuration, Hydra.get_mode
    composed: dict[tuple[ConfigLoaderImpl, str], bytes] = {}

    def compose_once(loader: ConfigLoaderImpl, **options: Any) -> DictConfig:
        key = loader, repr(options)
        if key not in composed:
            composed[key] = pickle.dumps(compose(loader, **options))
        return pickle.loads(composed[key])

    own_configs = ("--config-", "-cd", "-cp", "-cn", "hydra")
    sets_mode = any(argument.lstrip("+~").startswith(own_configs) for argument in arguments)
    setattr(ConfigLoaderImpl, "load_configuration", compose_once)  # noqa: B010  for mypy
    if not sets_mode:
        setattr(Hydra, "get_mode", lambda *_, **__: None)  # noqa: B010
    try:
        yield
    finally:
        setattr(ConfigLoaderImpl, "load_configuration", compose)  # noqa: B010
        setattr(Hydra, "get_mode", get_mode)  # noqa: B010


def _new_base(*, creates: bool) -> Path:
    """Choose the folder of the runs of a command; if this process creates it, it is new."""
    from medvision.run.storage.run_folder import create_by_time, name_by_time

    base = Path("runs", "multirun", name_by_time())
    hint = "start in a writable folder"
    with file_errors("cannot create the folder of the runs", base, hint=hint, exit_code=2):
        return create_by_time(base) if creates else base


SHARE_A_HOST = ("JoblibLauncher", "LocalLauncher")
"""Launchers whose processes share the cores of one machine; with others each has its own."""

END_WITH_STARTER = ("JoblibLauncher", "RayLauncher")
"""Launchers whose processes end with their parent process; not those with a job queue."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """Command for one run or several; passed to the process of each run.

    Attributes:
        overrides: As given, quoted for Hydra.
        process: System ID of the process that received the command.
        folder: Working folder of that process: relative paths start there.
        argv: Command line of that process.
        place: Place of that process among those of its run.
        jobs: Folder for the results of several runs; None for a single run, and for a search, which
            has its own.
        codes: Exit codes of the runs of this process.
        made: Gets the folders of the runs, and keeps errors; None reports them.
        errors: Errors that were kept.
        id: Distinguishes this command from others that its processes receive.
    """

    overrides: tuple[str, ...]
    process: int
    folder: Path
    argv: tuple[str, ...]
    place: Place
    jobs: Path | None
    codes: list[int] = field(default_factory=list)
    made: list[Path] | None = None
    errors: list[MedvisionError] = field(default_factory=list)
    id: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def is_here(self) -> bool:
        """True if this process received the command."""
        return os.getpid() == self.process

    def run(self, cfg: DictConfig) -> int:
        """Run one composed config, in any process; return its exit code."""
        from hydra.core.hydra_config import HydraConfig
        from omegaconf import OmegaConf

        from medvision.run.config.hydra_errors import check_folders
        from medvision.run.config.schema import trusted_packages
        from medvision.run.storage.run_folder import RunFolder
        from medvision.run.storage.test_seal import is_trial, start_line
        from medvision.run.training.job import Job, run_job

        hydra_cfg: Any = HydraConfig.get()
        check_folders(hydra_cfg)
        experiment = str(hydra_cfg.runtime.choices["experiment"])
        number = int(OmegaConf.select(hydra_cfg, "job.num", default=0) or 0)
        share = int(OmegaConf.select(cfg, "sweep.jobs", default=1))
        base, is_here = None if self.jobs is None else self.jobs.parent, self.is_here
        with (
            self._at_home(launcher=str(hydra_cfg.launcher._target_), share=share),
            own_environment(self.place, number=number),
        ):
            keys = self._sealed_by()
            os.environ[SEALED_VARIABLE] = ",".join(keys)
            if self.place.started_by != "medvision" and is_trial(cfg):
                from medvision.run.search.runner import run_trial

                return run_trial(cfg, experiment, is_here=is_here)
            if keys and number == 0 and self.place.is_first:
                sys.stdout.write(f"{start_line(keys)}\n")
            name = run_name(experiment, cfg.data.get("root"))
            job = Job(
                cfg=cfg,
                experiment=experiment,
                folder=lambda: RunFolder.plan(name, cfg.run_dir, multirun=base, number=number),
                sealed_by=keys,
                trusted=trusted_packages(cfg),
                is_quiet=not is_here,
                raises=self.made is not None,
            )
            try:
                result = run_job(job)
            except MedvisionError as error:  # Hydra would print what passes through it
                self.errors.append(error)
                return error.exit_code
            except Stopped as stopped:
                if is_here:
                    raise
                result = JobResult(code=stopped.exit_code, run=None)
            if self.jobs is not None:
                # Unresolved: with ${seed} resolved, every seed would form its own group.
                given: Any = OmegaConf.to_container(hydra_cfg.overrides, resolve=False)
                result = replace(
                    result, overrides=tuple(given["task"]), trusted=job.trusted, reported=is_here
                )
                write_result(self.jobs, number, result)
        self.codes.append(result.code)
        if self.made is not None and result.run is not None:
            self.made.append(result.run)
        return result.code

    @contextmanager
    def _at_home(self, *, launcher: str, share: int) -> Iterator[None]:
        """Set up a process started by a launcher like the one that received the command.

        It works in the same folder, handles signals, uses its share of the cores, and ends with its
        parent: no process keeps training after a search was killed.

        Args:
            launcher: Class that started this process.
            share: Number of such processes that share the cores of this machine.
        """
        if self.is_here:
            yield
            return
        from medvision.hardware.processes import end_with_parent, num_cores
        from medvision.run.processes.signals import handle_signals

        os.environ["HYDRA_FULL_ERROR"] = "1"
        live_line.is_on = False  # several runs may share the terminal
        if self.folder.is_dir():
            os.chdir(self.folder)
        sys.argv = list(self.argv)
        launcher = launcher.rpartition(".")[2]
        if launcher in END_WITH_STARTER:
            end_with_parent()
        if share > 1 and launcher in SHARE_A_HOST and "OMP_NUM_THREADS" not in os.environ:
            import torch

            torch.set_num_threads(max(1, num_cores() // share))
        with handle_signals():
            yield

    def _sealed_by(self) -> tuple[str, ...]:
        """Keys that the command varies; further processes read them from the environment."""
        from hydra.core.hydra_config import HydraConfig
        from hydra.types import RunMode

        from medvision.run.storage.test_seal import SEARCH, differing, sealed

        if self.place.started_by == "medvision":
            return tuple(filter(None, os.environ.get(SEALED_VARIABLE, "").split(",")))
        hydra_cfg, by_config = HydraConfig.get(), list[str]()
        if hydra_cfg.mode == RunMode.MULTIRUN:
            if str(hydra_cfg.sweeper._target_).endswith(".BasicSweeper"):
                params = hydra_cfg.sweeper.params or {}
                by_config = [f"{key}={value}" for key, value in params.items()]
            else:  # other sweepers search
                by_config = [f"{SEARCH}={hydra_cfg.runtime.choices['hydra/sweeper']}"]
        overrides = [*self.overrides, *by_config]
        keys = sealed(overrides)
        if keys or hydra_cfg.mode != RunMode.MULTIRUN:
            return keys
        if self.id not in _DIFFERING:
            _DIFFERING[self.id] = differing(_configs_of(overrides, hydra_cfg))
        return _DIFFERING[self.id]


_DIFFERING: dict[str, tuple[str, ...]] = {}
"""Keys in which the runs of each command differ: all configs are compared once, not in each run."""


def _configs_of(overrides: Sequence[str], hydra_cfg: Any) -> list[dict[str, Any]]:
    """Compose and resolve the config of each run of a command, as Hydra does to start it."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.types import RunMode
    from omegaconf import OmegaConf, open_dict

    loader = GlobalHydra.instance().config_loader()
    parsed = OverridesParser.create(config_loader=loader).parse_overrides(list(overrides))
    of_task = [override for override in parsed if not override.is_hydra_override()]
    (jobs,) = BasicSweeper.split_arguments(of_task, max_batch_size=None)
    configs: list[dict[str, Any]] = []
    for job in jobs if len(jobs) > 1 else ():
        cfg = loader.load_configuration(
            config_name=hydra_cfg.job.config_name,
            overrides=[*hydra_cfg.overrides.hydra, *job],
            run_mode=RunMode.RUN,
        )
        with open_dict(cfg):
            cfg.pop("hydra", None)
        configs.append(OmegaConf.to_container(cfg, resolve=True))  # type: ignore[arg-type]
    return configs


def resume_run(arguments: Sequence[str]) -> int:
    """Continue the run that ``resume=`` names; return the exit code."""
    from omegaconf import OmegaConf

    from medvision.registry import trust
    from medvision.run.config.schema import check_values, trusted_packages
    from medvision.run.storage.resume import InterruptedRun, read_arguments
    from medvision.run.storage.run_folder import RunFolder
    from medvision.run.training.job import Job, run_job

    place = _place()
    path, changes = read_arguments(arguments)
    given = OmegaConf.create({"trust": changes.pop("trust", None)})  # never from the stored run
    check_values(given, part="trust")
    trust(trusted_packages(given))
    named = changes.get("data.root")
    run = InterruptedRun.read(path, root=named)
    if run.is_over:
        sys.stdout.write(f"{path}: already {run.summary['status']}, nothing to do\n")
        return 0
    root = OmegaConf.select(run.cfg, "data.root")
    if named is None and root is not None and place.is_first:
        sys.stdout.write(
            f"reading the data in {printable(str(root))}, as stated in the config of the run\n"
        )
    for key, value in changes.items():
        OmegaConf.update(run.cfg, key, value)
    job = Job(
        cfg=run.cfg,
        experiment=run.experiment,
        folder=lambda: RunFolder.reopen(path),
        sealed_by=tuple(run.summary.get("sealed_by", ())),
    )
    with own_environment(place, number=0):
        return run_job(job).code


def _place() -> Place:
    """Place of this process; a process started by another one ends with it."""
    from medvision.hardware.processes import end_with_parent, place_of

    place = place_of(os.environ)
    if place.started_by == "medvision":
        end_with_parent()
    return place


def _gather(base: Path, jobs: Path) -> list[int]:
    """Write and print the summary of the runs of a command; return their exit codes."""
    from medvision.registry import trust
    from medvision.run.multirun.kfold import write_folds
    from medvision.run.multirun.summary import summarise
    from medvision.run.multirun.tables import print_folds, print_multirun

    results = read_results(jobs)
    forget_jobs(jobs)
    for result in results:
        if result.error is not None and not result.reported:
            sys.stderr.write(f"error: {result.error}\n")
    trust({package for result in results for package in result.trusted})  # they define tasks
    run_dirs = [result.run for result in results]
    if any(run_dirs):
        base.mkdir(parents=True, exist_ok=True)  # run_dir may point the runs elsewhere
        groups = summarise(run_dirs, [result.overrides for result in results], base=base)
        print_multirun(groups)
        print_folds(write_folds(base, groups))
        sys.stdout.write(f"{base}\n")
    return [result.code for result in results]


@contextmanager
def _scratch(jobs: Path | None) -> Iterator[Path]:
    """Folder for files of Hydra, its launchers and jobs; also visible to other hosts."""
    if jobs is None:
        with tempfile.TemporaryDirectory() as scratch:
            yield Path(scratch)
        return
    hint = "start in a writable folder"
    with file_errors("cannot create the folder of the runs", jobs.parent, hint=hint, exit_code=2):
        jobs.mkdir(parents=True, exist_ok=True)
    try:
        yield jobs.absolute()
    finally:
        forget_jobs(jobs)


def _report_stopped(stopped: Stopped) -> int:
    """Report once on each host that the user stopped the run; return the exit code."""
    from medvision.hardware.processes import place_of

    place = place_of(os.environ)
    if place.is_first or (place.local_rank == 0 and place.started_by == "user"):
        sys.stderr.write("interrupted\n")
    return stopped.exit_code
