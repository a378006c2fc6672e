"""Measure the time to an answer and to the first training step, beside the libraries alone.

    python benchmarks/startup.py [--runs 5] [--parts light train] [--core N] [--append]

`light` are answers that need no training: helps, the list of data sets, mistakes in a command.
They are compared with `python -c "import hydra"`, and none may load torch. `train` are experiments
on phantoms, as they are written: seconds from the start of the process to the end of the first
training step, compared with `python -c "import torch, pytorch_lightning, timm"`. Every figure is of
a fresh process, all of them in turn; files were read before.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from harness import Results, append_results, command_line, median_table, take_turns

ROOT = Path(__file__).resolve().parents[1]
TRAIN = (sys.executable, str(ROOT / "train.py"))
MEDVISION = (str(Path(sys.executable).with_name("medvision")),)
SEEN = ("experiment=polyp_unet",)
HYDRA = "import hydra"
LIBRARIES = "import torch, pytorch_lightning, timm"
EXPERIMENTS = ("polyp_unet", "brain_mri_cnn", "brain_mri_lite0", "polyp_unet_lite0")

LIGHT: dict[str, tuple[Sequence[str], int]] = {
    "train.py --help": ((*TRAIN, "--help"), 0),
    "no such experiment": ((*TRAIN, "experiment=polyp_unte"), 2),
    "no such key": ((*TRAIN, *SEEN, "nope=1"), 2),
    "no such option of a group": ((*TRAIN, *SEEN, "optimizer=admw"), 2),
    "no such class": ((*TRAIN, *SEEN, "optimizer._target_=torch.optim.Admw"), 2),
    "wrong type of a value": ((*TRAIN, *SEEN, "data.batch_size=x"), 2),
    "value out of its range": ((*TRAIN, *SEEN, "data.val_fraction=1.5"), 2),
    "no such folder": ((*TRAIN, *SEEN, "data.root=/nowhere"), 2),
    "medvision train --help": ((*MEDVISION, "train", "--help"), 0),
    "medvision train, no such key": ((*MEDVISION, "train", *SEEN, "nope=1"), 2),
    "medvision --help": ((*MEDVISION, "--help"), 0),
    "medvision predict --help": ((*MEDVISION, "predict", "--help"), 0),
    "medvision evaluate --help": ((*MEDVISION, "evaluate", "--help"), 0),
    "medvision export --help": ((*MEDVISION, "export", "--help"), 0),
    "medvision compare --help": ((*MEDVISION, "compare", "--help"), 0),
    "medvision audit --help": ((*MEDVISION, "audit", "--help"), 0),
    "medvision data list": ((*MEDVISION, "data", "list"), 0),
}
"""Commands, and their exit codes."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument(
        "--parts", nargs="+", choices=("light", "train"), default=["light", "train"]
    )
    parser.add_argument("--core", type=int, help="run on this core alone, with one thread")
    parser.add_argument("--append", action="store_true", help="add the tables to RESULTS.md")
    given = parser.parse_args()
    if given.core is not None:
        os.sched_setaffinity(0, {given.core})
        os.environ["OMP_NUM_THREADS"] = "1"
    lines: list[str] = []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        for part in given.parts:
            results = (_light if part == "light" else _train)(Path(scratch), given.runs)
            base = f'python -c "{HYDRA if part == "light" else LIBRARIES}"'
            lines += ["", *median_table(results, base=base, figures=["seconds"], better="lower")]
    print("\n".join(lines))
    if given.append:
        append_results("Start", lines[1:], command=command_line())


def _light(scratch: Path, runs: int) -> Results:
    base = {f'python -c "{HYDRA}"': partial(_answer, (sys.executable, "-c", HYDRA), 0, scratch)}
    answers = {
        name: partial(_answer, command, code, scratch) for name, (command, code) in LIGHT.items()
    }
    return take_turns(base | answers, runs=runs)


def _train(scratch: Path, runs: int) -> Results:
    command = (sys.executable, "-c", LIBRARIES)
    base: dict[str, Callable[[], Mapping[str, float]]] = {
        f'python -c "{LIBRARIES}"': partial(_answer, command, 0, scratch)
    }
    trainings = {f"experiment={name}": partial(_step, name, scratch) for name in EXPERIMENTS}
    return take_turns(base | trainings, runs=runs)


def _answer(command: Sequence[str], code: int, scratch: Path) -> Mapping[str, float]:
    """Seconds until a program has ended, as it should."""
    began_s = time.perf_counter()
    done = subprocess.run(command, cwd=scratch, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - began_s
    if done.returncode != code:
        raise SystemExit(f"error: {' '.join(command)} ended with {done.returncode}\n{done.stderr}")
    return {"seconds": seconds}


def _step(experiment: str, scratch: Path) -> Mapping[str, float]:
    """Seconds until a training has made its first step; it goes no further."""
    with tempfile.TemporaryDirectory(dir=scratch, ignore_cleanup_errors=True) as folder:
        result = Path(folder, "first_step.json")
        clock = f"+callbacks.clock={{_target_:startup.first_step,path:{result}}}"
        command = (*TRAIN, f"experiment={experiment}", clock)
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
        began_s = time.perf_counter()  # of the machine, not of the process
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        if not result.is_file():
            raise SystemExit(f"error: {' '.join(command)} made no step\n{done.stderr}")
        return {"seconds": json.loads(result.read_text()) - began_s}


def first_step(path: str) -> Any:
    """A callback that notes when the first step has ended, and ends the program.

    Args:
        path: Gets ``time.perf_counter()``, as JSON.
    """
    from pytorch_lightning.callbacks import LambdaCallback

    def end(*_: Any) -> None:
        Path(path).write_text(json.dumps(time.perf_counter()))
        os._exit(0)

    return LambdaCallback(on_train_batch_end=end)


if __name__ == "__main__":
    main()
