"""The ``medvision`` command: argument parsing only, each verb one call."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import medvision

if TYPE_CHECKING:  # `medvision train` waits for no parser but Hydra's
    from medvision.cli.program import app

__all__ = ["app", "main"]


def main() -> None:
    """Run the command: ``medvision train`` is ``python train.py``, the other verbs are typer's."""
    if sys.argv[1:] == ["--version"]:
        sys.stdout.write(f"medvision {medvision.__version__}\n")
        return
    if sys.argv[1:2] == ["train"]:
        from medvision.run import main as train

        sys.exit(train(sys.argv[2:]))
    from medvision.cli.program import main as run_verb

    run_verb()


def __getattr__(name: str) -> Any:
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from medvision.cli.program import app

    return app
