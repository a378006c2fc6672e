"""Commands of this program, as the user would type them; depends on how it was started."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

HERE = Path(__file__).parent


def medvision_command() -> str:
    """Return the command for verbs: ``medvision``, or ``python -m medvision`` if started so."""
    started = Path(sys.argv[0])
    as_module = started.name == "__main__.py" and started.parent.resolve() == HERE
    return "python -m medvision" if as_module else "medvision"


def train_command() -> str:
    """Return the command that trains: ``python train.py`` or ``medvision train``.

    ``medvision`` names itself, and a checkout its ``train.py``. An installed package has none.
    """
    started, script = Path(sys.argv[0]), HERE.parents[1] / "train.py"
    if started.name == "train.py" and started.resolve() == script:
        return shlex.join(["python", sys.argv[0]])
    if started.stem == "medvision" or medvision_command() != "medvision":
        return f"{medvision_command()} train"
    return "python train.py" if script.is_file() else "medvision train"


def training(*arguments: object) -> str:
    """Return the command line that trains with these arguments, quoted for a shell."""
    return f"{train_command()} {shlex.join(map(str, arguments))}"


def data_keys(**values: object) -> str:
    """Return keys of ``data``, such as ``'data.masks=ground truth'``, quoted for a shell."""
    return shlex.join(f"data.{key}={value}" for key, value in values.items())


def resuming(run: Path | str) -> str:
    """Return the command line that resumes a run."""
    return f"{train_command()} resume={shlex.quote(str(run))}"
