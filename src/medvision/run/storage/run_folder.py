"""Run folder: its location, its lock, and the files that describe the run."""

import errno
import json
import os
import shlex
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
from medvision.errors import MedvisionError
from medvision.files import take_lock, write_atomically, write_json
from medvision.hardware.processes import place_of

NAME = ".lock"


def lock_folder(folder: Path, *, wait: bool = False) -> Callable[[], None]:
    """Lock a run folder until its process ends, however it ends.

    Args:
        folder: Must exist.
        wait: Wait for the process that has the lock, instead of refusing.

    Returns:
        The function that releases the lock.

    Raises:
        MedvisionError: If another process has it.
    """
    release = take_lock(folder / NAME, wait=wait)
    if release is None:
        raise MedvisionError(
            "this run is already in use by another process",
            where=str(folder),
            hint="wait for its end, or end that process",
        )
    return release


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
"""What of the environment decides the last digits of numbers."""

PROCESS_VARIABLE = "MEDVISION_RUN_DIR"
"""Tells the other processes of a run where its first process has made the folder."""


class RunFolder:
    """One run's folder; nothing exists before ``create``.

    Args:
        path: Where it lies.

    Attributes:
        reopened: Whether its run is being continued.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.reopened = False
        self._created = False
        self._unlock: Callable[[], None] | None = None

    @classmethod
    def plan(
        cls, experiment: str, run_dir: str | None, *, multirun: Path | None, number: int | None
    ) -> Self:
        """Decide the path: as told, below ``multirun``, or by experiment and time.

        Raises:
            MedvisionError: If the folder that was asked for already holds something.
        """
        shared = os.environ.get(PROCESS_VARIABLE)
        if shared is not None and is_further_process():
            return cls(Path(shared))
        if run_dir is not None:
            path = Path(run_dir).expanduser()
            if path.exists() and (not path.is_dir() or any(path.iterdir())):
                raise MedvisionError(
                    f"{path} exists and is not empty", where="run_dir", hint="name a new folder"
                )
            return cls(path)
        if multirun is not None:
            return cls(multirun / f"{number}_{experiment}")
        return cls(Path("runs", experiment, datetime.now().strftime("%Y-%m-%d_%H-%M-%S")))

    @classmethod
    def reopen(cls, path: Path, *, wait: bool = False) -> Self:
        """Open the folder of a run that is continued.

        Further processes do not write to it, as in any run.

        Args:
            path: The folder.
            wait: Wait for another process that runs in there, instead of refusing.

        Raises:
            MedvisionError: If another process runs in there.
        """
        folder = cls(path)
        folder.reopened = True
        if not is_further_process():
            folder._unlock = lock_folder(path, wait=wait)
            for begun in path.rglob(".*.tmp"):  # by a process that was killed as it wrote
                begun.unlink()
            folder._created = True
            os.environ[PROCESS_VARIABLE] = str(path.absolute())
        return folder

    @property
    def exists(self) -> bool:
        """Whether this process has made the folder, or opened it again."""
        return self._created

    def release(self) -> None:
        """Let other runs into the folder, where this process keeps them out."""
        if self._unlock is not None:
            self._unlock()
            self._unlock = None

    def create(self) -> None:
        """Make the folder; a second run of the same second waits for the next one.

        Raises:
            MedvisionError: If it cannot be made.
        """
        if is_further_process():
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            while True:
                try:
                    self.path.mkdir(exist_ok=self.path.is_dir() and not any(self.path.iterdir()))
                    break
                except FileExistsError:
                    time.sleep(0.2)
                    self.path = self.path.with_name(datetime.now().strftime("%Y-%m-%d_%H-%M-%S"))
            self._unlock = lock_folder(self.path)
            (self.path / "checkpoints").mkdir()
            (self.path / "plots").mkdir()
        except OSError as error:
            of_disk = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO)
            raise MedvisionError(
                f"cannot make the run folder: {error.strerror}",
                where=str(self.path),
                hint="see to the disk" if of_disk else "start in a folder you may write to",
                exit_code=3 if of_disk else 2,
            ) from error
        self._created = True
        os.environ[PROCESS_VARIABLE] = str(self.path.absolute())

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Write the resolved config as plain YAML."""
        text = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
        write_atomically(self.path / "config.yaml", text)

    def write_environment(self, hardware: Mapping[str, Any]) -> None:
        """Write what the run ran with: source, packages, hardware and command line."""
        environment = {"git": git_state(), **_program(), "hardware": dict(hardware)}
        write_json(self.path / "environment.json", environment)

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write ``summary.json``."""
        write_json(self.path / "summary.json", summary)

    def read_summary(self) -> dict[str, Any]:
        """What ``summary.json`` says now."""
        return json.loads((self.path / "summary.json").read_text())

    def write_status(self, status: str) -> None:
        """Change the status in ``summary.json`` and nothing else.

        On a full disk it stays what it was; what ended the run is said all the same.
        """
        if (self.path / "summary.json").exists():
            with suppress(OSError):
                now = self.read_summary()
                if now["status"] != status:
                    self.write_summary({**now, "status": status})

    def note_part(self, hardware: Mapping[str, Any]) -> list[str]:
        """Add what this part of the run runs with to its environment.

        Returns:
            What differs from the beginning and may change numbers, in words.
        """
        path = self.path / "environment.json"
        began = json.loads(path.read_text()) if path.exists() else {}
        now = {**_program(), "hardware": dict(hardware)}
        write_json(path, {**began, "resumed": [*began.get("resumed", []), now]})
        return [
            f"{key} {began[part][key]} then, {now[part].get(key)} now"
            for part, keys in COUNTS.items()
            for key in keys
            if key in began.get(part, {}) and began[part][key] != now[part].get(key)
        ]


def _program() -> dict[str, Any]:
    """Which command runs now, since when, and with which packages."""
    versions: dict[str, str | None] = {"medvision": medvision.__version__}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "python": sys.version.split()[0],
        "packages": versions,
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
    }


def is_further_process() -> bool:
    """Whether another process of the same run has made the folder."""
    return not place_of(os.environ).is_first


def git_state() -> dict[str, Any]:
    """Commit of the source, and whether it was changed since; None outside a checkout."""
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
