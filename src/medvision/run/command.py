"""The command that starts one run again: what its further processes are started with."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_original_cwd
from omegaconf import OmegaConf

from medvision.run.messages import quote_text

PROGRAM = ("-c", "import sys; from medvision.run import main; sys.exit(main(sys.argv[1:]))")
"""Starts the same program where no command line did, as in a notebook or a test."""

FLAGS = ("config_dir", "config_name", "config_path")
OF_SEVERAL_RUNS = (
    "hydra.mode",
    "hydra/sweeper",
    "hydra.sweeper",
    "hydra.sweep",
    "hydra/launcher",
    "hydra.launcher",
)
"""What Hydra is told about several runs: the processes of one of them do not need it."""


def command_of_run() -> tuple[list[str], Path]:
    """What starts the run of now again, alone, and in which folder.

    ``python -m``, ``medvision train`` and options of Python itself come back as they were given;
    of a command for several runs the overrides of this one.
    """
    given = sys.argv[1:]
    if not HydraConfig.initialized():  # resume=RUN
        return [*_program(given), *given], Path.cwd()
    cfg = HydraConfig.get()
    options = get_args_parser().parse_args(given)
    flags = [
        f"--{name.replace('_', '-')}={getattr(options, name)}"
        for name in FLAGS
        if getattr(options, name)
    ]
    given_to: Any = OmegaConf.to_container(cfg.overrides, resolve=False)  # ${seed} stays itself
    kept = [override for override in given_to["hydra"] if not _is_of_several_runs(override)]
    command = [*_program(given), *flags, *given_to["task"], *kept]
    return command, Path(get_original_cwd())


def _program(given: Sequence[str]) -> list[str]:
    """The command line of this process up to its arguments, which are ``given``, quoted."""
    front = len(sys.orig_argv) - len(given)
    if [quote_text(argument) for argument in sys.orig_argv[front:]] == list(given):
        return [sys.executable, *sys.orig_argv[1:front]]
    return [sys.executable, *PROGRAM]


def _is_of_several_runs(override: str) -> bool:
    key = override.lstrip("+~").partition("=")[0]
    return any(key == name or key.startswith((f"{name}.", f"{name}@")) for name in OF_SEVERAL_RUNS)
