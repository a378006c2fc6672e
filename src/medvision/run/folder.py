"""The run folder: where it lies, and the files that say what was run."""

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Self

import yaml

from medvision.files import write_atomically, write_json
from medvision.hardware.processes import place_of
from medvision.types import MedvisionError

PACKAGES = (
    "medvision",
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
PROCESS_VARIABLE = "MEDVISION_RUN_DIR"
"""Tells the other processes of a run where its first process has made the folder."""


class RunFolder:
    """One run's folder; nothing exists before ``create``.

    Args:
        path: Where it lies.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._created = False

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

    @property
    def exists(self) -> bool:
        """Whether this process has made the folder."""
        return self._created

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
            (self.path / "checkpoints").mkdir()
            (self.path / "plots").mkdir()
        except OSError as error:
            raise MedvisionError(
                f"cannot make the run folder: {error.strerror}",
                where=str(self.path),
                hint="start in a folder you may write to",
            ) from error
        self._created = True
        os.environ[PROCESS_VARIABLE] = str(self.path.absolute())

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Write the resolved config as plain YAML."""
        text = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
        write_atomically(self.path / "config.yaml", text)

    def write_environment(self, hardware: Mapping[str, Any]) -> None:
        """Write what the run ran with: source, packages, hardware and command line."""
        versions: dict[str, str | None] = {}
        for package in PACKAGES:
            try:
                versions[package] = metadata.version(package)
            except metadata.PackageNotFoundError:
                versions[package] = None
        environment = {
            "git": git_state(),
            "python": sys.version.split()[0],
            "packages": versions,
            "hardware": dict(hardware),
            "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
            "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        }
        write_json(self.path / "environment.json", environment)

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write ``summary.json``."""
        write_json(self.path / "summary.json", summary)

    def read_summary(self) -> dict[str, Any]:
        """What ``summary.json`` says now."""
        return json.loads((self.path / "summary.json").read_text())

    def write_status(self, status: str) -> None:
        """Change the status in ``summary.json`` and nothing else."""
        if (self.path / "summary.json").exists():
            self.write_summary({**self.read_summary(), "status": status})


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
