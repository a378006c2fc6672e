"""Run folder: its location, its lock, and the files that describe the run."""

import errno
import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Self

import yaml

import medvision
from medvision.command_line import training
from medvision.errors import MedvisionError
from medvision.files import (
    MOST_BYTES,
    RUN_LOCK,
    check_links,
    file_errors,
    is_writable,
    own_folder,
    read_plain,
    read_regular,
    take_lock,
    write_atomically,
    write_json,
)
from medvision.hardware.processes import place_of


def lock_folder(folder: Path, *, wait: bool = False) -> Callable[[], None]:
    """Lock a run folder until its process ends, for whatever reason.

    Args:
        folder: Existing folder.
        wait: If True, wait for the process that holds the lock instead of raising.

    Returns:
        Function that releases the lock.

    Raises:
        MedvisionError: If another process holds the lock.
    """
    release = take_lock(folder / RUN_LOCK, wait=wait)
    if release is None:
        raise MedvisionError(
            "this run is already in use by another process",
            where=str(folder),
            hint="wait until it ends, or end that process",
        )
    return release


REPLACED = ("checkpoints", "evaluation", "plots", "predictions_test", "predictions_val")
"""Folders of a run in which no file is written in place."""


def check_run_folder(folder: Path) -> None:
    """Check that a run folder, which may come from anywhere, holds what is written into it.

    Raises:
        MedvisionError: If a link leads out of it, or a folder has the name of a file.
    """
    with file_errors("cannot list the run folder", folder, exit_code=2):
        check_links(folder, replaced=REPLACED)
        files = (path for path in folder.iterdir() if path.suffix in SUFFIXES and path.is_dir())
        odd = next(files, None)
    if odd is not None:
        raise MedvisionError("expected a file, found a folder", where=str(odd), hint="remove it")


SUFFIXES = (".csv", ".html", ".json", ".safetensors", ".yaml")
"""Endings of the files at the top of a run folder."""

PACKAGES = (
    "torch",
    "pytorch-lightning",
    "torchmetrics",
    "torchvision",
    "timm",
    "segmentation-models-pytorch",
    "albumentations",
    "hydra-core",
    "numpy",
    "opencv-python-headless",
    "pillow",
    "scipy",
    "torch-xla",
)
COUNTS = {
    "packages": ("medvision", "torch", "pytorch-lightning", "albumentations", "numpy"),
    "hardware": ("processor", "threads", "cpu_capability", "gpus"),
}
"""Parts of the environment that affect the last digits of results."""

PROCESS_VARIABLE = "MEDVISION_RUN_DIR"
"""Path of the run folder, passed by the first process to the others."""


def is_own_run(folder: Path) -> bool:
    """Return True if this user has started the run, with the config that it has now.

    Each run leaves an empty file, named by the SHA-256 of its config, in the state folder of the
    user, which no run folder can bring with it.
    """
    try:
        return _mark_of(read_regular(folder / "config.yaml", most=MOST_BYTES)).exists()
    except (OSError, RuntimeError):
        return False


def _mark_of(config: bytes) -> Path:
    return own_folder("state") / "runs" / hashlib.sha256(config).hexdigest()


class RunFolder:
    """Folder of one run; created by ``create``.

    Args:
        path: Path of the folder.
        by_time: True if it is named after the current time, so that another name may be chosen.

    Attributes:
        reopened: True if the run is being resumed.
    """

    def __init__(self, path: Path, *, by_time: bool = False) -> None:
        self.path, self.by_time = path, by_time
        self.reopened = False
        self._created = False
        self._unlock: Callable[[], None] | None = None

    @classmethod
    def plan(
        cls, experiment: str, run_dir: str | None, *, multirun: Path | None, number: int | None
    ) -> Self:
        """Choose the path: as configured, below ``multirun``, or by experiment and time.

        Raises:
            MedvisionError: If the requested folder is not empty, or no folder can be created there.
        """
        shared = os.environ.get(PROCESS_VARIABLE)
        if shared is not None and is_further_process():
            return cls(Path(shared))
        if run_dir is not None:
            folder = cls(Path(run_dir).expanduser())
            if folder.path.exists() and not _is_empty(folder.path):
                raise _taken(folder.path)
        elif multirun is not None:
            folder = cls(multirun / f"{number}_{experiment}")
        else:
            folder = cls(Path("runs", experiment, name_by_time()), by_time=True)
        if not is_further_process() and not is_writable(folder.path):
            raise _not_created(folder.path, errno.EACCES)
        return folder

    @classmethod
    def reopen(cls, path: Path, *, wait: bool = False) -> Self:
        """Open the folder of a run that is resumed.

        As in any run, further processes do not write to it.

        Args:
            path: Path of the folder.
            wait: If True, wait for another process that uses the folder instead of raising.

        Raises:
            MedvisionError: If another process uses the folder, or what is written into it would
                land elsewhere.
        """
        folder = cls(path)
        folder.reopened = True
        if not is_further_process():
            check_run_folder(path)
            folder._unlock = lock_folder(path, wait=wait)
            for begun in path.rglob(".*.tmp"):  # left by a process that was killed while writing
                if begun.is_file():
                    begun.unlink()
            folder._created = True
            os.environ[PROCESS_VARIABLE] = str(path.absolute())
        return folder

    @property
    def exists(self) -> bool:
        """True if this process has created or reopened the folder."""
        return self._created

    def release(self) -> None:
        """Release the lock of the folder, if this process holds it."""
        if self._unlock is not None:
            self._unlock()
            self._unlock = None

    def create(self) -> None:
        """Create the folder; one that is named by the time waits for a name that is free.

        Raises:
            MedvisionError: If the folder cannot be created, or another run has taken it since.
        """
        if is_further_process():
            return
        try:
            if self.by_time:
                self.path = create_by_time(self.path)
            else:
                self._create_given()
            self._unlock = take_lock(self.path / RUN_LOCK, wait=False)
            if self._unlock is None:
                raise _taken(self.path)
            if not _is_empty(self.path):  # by a run that has ended since
                self.release()
                raise _taken(self.path)
            (self.path / "checkpoints").mkdir()
            (self.path / "plots").mkdir()
        except OSError as error:
            raise _not_created(self.path, error.errno or errno.EIO) from error
        self._created = True
        os.environ[PROCESS_VARIABLE] = str(self.path.absolute())

    def _create_given(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except FileExistsError as error:
            raise _taken(self.path) from error

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Write the resolved config as plain YAML."""
        text = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
        with suppress(OSError, RuntimeError):  # RuntimeError: no home folder
            mark = _mark_of(text.encode())
            mark.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            mark.touch()
        write_atomically(self.path / "config.yaml", text)

    def write_environment(self, hardware: Mapping[str, Any]) -> None:
        """Write the environment of the run: source, packages, hardware and command line."""
        environment = {"git": git_state(), **_program(), "hardware": dict(hardware)}
        write_json(self.path / "environment.json", environment)

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write ``summary.json``."""
        write_json(self.path / "summary.json", summary)

    def read_summary(self) -> dict[str, Any]:
        """Read the current ``summary.json``."""
        return read_plain(self.path / "summary.json")

    def write_status(self, status: str) -> None:
        """Change only the status in ``summary.json``.

        On a full disk the old status stays; the error that ended the run is still reported.
        """
        if (self.path / "summary.json").exists():
            with suppress(OSError, ValueError):
                now = self.read_summary()
                if now.get("status") != status:
                    self.write_summary({**now, "status": status})

    def note_part(self, hardware: Mapping[str, Any]) -> list[str]:
        """Add the environment of this part of the run.

        Returns:
            Differences from the start of the run that may change results, in words.
        """
        path = self.path / "environment.json"
        began = read_plain(path) if path.exists() else {}
        now = {**_program(), "hardware": dict(hardware)}
        write_json(path, {**began, "resumed": [*began.get("resumed", []), now]})
        return [
            f"{key} {now[part].get(key)} instead of {began[part][key]}"
            for part, keys in COUNTS.items()
            for key in keys
            if key in began.get(part, {}) and began[part][key] != now[part].get(key)
        ]


def name_by_time() -> str:
    """Name of a folder that is created now."""
    return datetime.now().strftime("%Y-%m-%d_%H-%M-%S")


def create_by_time(path: Path) -> Path:
    """Create a folder that is named by the time; one with a later name if that name is taken.

    Returns:
        Path of the new folder, which no other process has created.

    Raises:
        OSError: If it cannot be created.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        try:
            path.mkdir()
        except FileExistsError:
            time.sleep(0.2)
            path = path.with_name(name_by_time())
        else:
            return path


def _is_empty(path: Path) -> bool:
    """Return True if this is a folder that holds nothing but a lock."""
    return path.is_dir() and all(found.name == RUN_LOCK for found in path.iterdir())


def _taken(path: Path) -> MedvisionError:
    return MedvisionError(
        f"{path} is not an empty folder", where="run_dir", hint="name a new folder"
    )


def _not_created(path: Path, number: int) -> MedvisionError:
    of_disk = number in (errno.ENOSPC, errno.EDQUOT, errno.EIO)
    return MedvisionError(
        f"cannot create the run folder: {os.strerror(number)}",
        where=str(path),
        hint="free space or check the disk" if of_disk else "start in a writable folder",
        exit_code=3 if of_disk else 2,
    )


def _program() -> dict[str, Any]:
    """Current command, its start time and package versions."""
    versions: dict[str, str | None] = {"medvision": medvision.__version__}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "python": sys.version.split()[0],
        "packages": versions,
        "command": training(*sys.argv[1:]),
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
    }


def is_further_process() -> bool:
    """Return True if another process of the same run creates the folder."""
    return not place_of(os.environ).is_first


def git_state() -> dict[str, Any]:
    """Commit of the source, and True if it has local changes; None outside a checkout."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str | None:
        command = ["git", "-C", str(here), *arguments]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    if not git("ls-files", "--error-unmatch", str(Path(__file__))):
        return {"sha": None, "dirty": None}
    return {"sha": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
