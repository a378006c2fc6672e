"""Compare runs that are stopped at random moments and resumed with an uninterrupted one.

`python benchmarks/interruption.py [--runs 20] [--seed 0] [--threads 1]` prints a line for each run:
how it was ended and where, and whether weights, optimizer, metrics.csv and scores are those of the
run that was not, bit for bit. Phantoms of 32 px, four recipes: segmentation and classification,
with and without loader processes, dropout, plateaus, early stopping. Ctrl-C and SIGTERM go to every
process of the run, as a terminal and a cluster send them; kill -9 to the main one alone.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]
SMALL = (
    "trainer=cpu",
    "logger=csv",
    "data.image_size=32",
    "data.num_images=60",
    "data.batch_size=4",
    "checkpoint.every_minutes=0.005",
)
NUM_EPOCHS = 12
RECIPES = {
    "polyp_unet": (
        "data.num_workers=0",
        "model.base_channels=4",
        f"trainer.max_epochs={NUM_EPOCHS}",
    ),
    "chest_xray_cnn": (
        "data.num_workers=2",
        "model.base_channels=2",
        f"trainer.max_epochs={NUM_EPOCHS}",
        "scheduler=plateau",
        "scheduler.patience=0",
    ),
    "chest_xray_cnn data.sampler=balanced": (
        "data.num_workers=2",
        "model.base_channels=2",
        "model.dropout=0.5",
        f"trainer.max_epochs={NUM_EPOCHS}",
        "trainer.accumulate_grad_batches=2",
    ),
    "brain_mri_cnn": (
        "data.num_workers=0",
        "model.base_channels=2",
        f"trainer.max_epochs={NUM_EPOCHS}",
        "scheduler=cosine",
        "callbacks=early_stopping",
        "callbacks.early_stopping.patience=3",
    ),
}
SIGNALS = {"Ctrl-C": signal.SIGINT, "SIGTERM": signal.SIGTERM, "kill -9": signal.SIGKILL}
CODES = {
    "Ctrl-C": (130,),
    "SIGTERM": (143, -signal.SIGTERM),  # the second while Python starts; a shell calls both 143
    "kill -9": (-signal.SIGKILL,),
}


def begin(name: str) -> tuple[str, ...]:
    """Arguments that start a recipe."""
    return (*f"experiment={name}".split(), *SMALL, *RECIPES[name])


def slug(name: str) -> str:
    """Name of its folder."""
    return name.split()[0] + str(list(RECIPES).index(name))


class Trainer:
    """Start the program as a user does, and end it."""

    def __init__(self, folder: Path, threads: int) -> None:
        self.folder = folder
        self.environment = {
            **os.environ,
            "OMP_NUM_THREADS": str(threads),
            "MEDVISION_STATE_DIR": str(folder / "state"),
        }

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a run in a session of its own."""
        return subprocess.Popen(
            [sys.executable, str(ROOT / "train.py"), *arguments],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def finish(self, *arguments: str) -> float:
        """Run to the end; return the seconds."""
        started_s = time.perf_counter()
        process = self.start(*arguments)
        _, errors = process.communicate()
        if process.returncode != 0:
            raise SystemExit(f"{' '.join(arguments)} ended with {process.returncode}: {errors}")
        return time.perf_counter() - started_s

    def end(self, how: str, chance: random.Random, run: Path, *arguments: str) -> tuple[int, str]:
        """Start the run, end it at a random moment; return its exit code and output.

        The moment is that of a random epoch's end and up to three epochs' time after it, since a
        machine that is busy takes longer to start than to train.
        """
        log, began = run / "metrics.csv", time.time()
        left = range(epochs_of(run), NUM_EPOCHS)
        rows = chance.choice(left) if left and chance.random() < 0.9 else None
        process = self.start(*arguments)
        if rows is None:  # while it starts
            time.sleep(chance.uniform(0, 10))
        while rows is not None and epochs_of(run) < rows and process.poll() is None:
            time.sleep(0.01)
        epoch_s = (log.stat().st_mtime - began) / NUM_EPOCHS if log.exists() else 0.3
        time.sleep(chance.uniform(0, 3 * min(max(epoch_s, 0.05), 0.5)))
        if process.poll() is None:
            if how == "kill -9":
                process.kill()
            else:
                os.killpg(process.pid, SIGNALS[how])
        _, errors = process.communicate(timeout=600)
        return process.returncode, errors


def epochs_of(run: Path) -> int:
    """Number of finished epochs of a run."""
    log = run / "metrics.csv"
    return max(0, len(log.read_text().splitlines()) - 1) if log.exists() else 0


def where(run: Path) -> str:
    """Epoch and batch of the last checkpoint of a run."""
    path = run / "checkpoints/last.ckpt"
    if not path.exists():
        return "before the first checkpoint"
    state = torch.load(path, map_location="cpu", weights_only=True)["continuation"]
    return "after the fit" if state["over"] else f"epoch {state['epoch']} + {state['batches']}"


def differences(run: Path, whole: Path) -> list[str]:
    """Differences between two runs."""
    found = []
    for name in ("best", "last"):
        a, b = (
            torch.load(p / f"checkpoints/{name}.ckpt", map_location="cpu", weights_only=True)
            for p in (run, whole)
        )
        if any(
            not torch.equal(a["state_dict"][key], b["state_dict"][key]) for key in a["state_dict"]
        ):
            found.append(f"weights of {name}.ckpt")
        if repr(a["optimizer_states"]) != repr(b["optimizer_states"]):
            found.append(f"optimizer of {name}.ckpt")
    if (run / "metrics.csv").read_bytes() != (whole / "metrics.csv").read_bytes():
        found.append("metrics.csv")
    a, b = (json.loads((p / "summary.json").read_text()) for p in (run, whole))
    found += [key for key in ("metrics", "best_epoch", "epochs", "status") if a[key] != b[key]]
    return found


def main() -> None:
    """Print a line for each run, and the number of equal runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    chance, results = random.Random(options.seed), Counter[str]()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        trainer = Trainer(folder, options.threads)
        for name in RECIPES:
            command = (*begin(name), f"run_dir={slug(name)}_whole")
            print(f"{name:38} not ended: {trainer.finish(*command):.1f} s", flush=True)
        for number in range(options.runs):
            name = list(RECIPES)[number % len(RECIPES)]
            run, ends = folder / f"run_{number}", []
            command = (*begin(name), f"run_dir={run.name}")
            for _ in range(chance.choice((1, 1, 2, 3))):
                how = chance.choice(list(SIGNALS))
                began = (run / "summary.json").exists()
                given = (f"resume={run.name}",) if began else command
                if not began:  # ended before it had written what it is
                    shutil.rmtree(run, ignore_errors=True)
                code, errors = trainer.end(how, chance, run, *given)
                if code == 0:
                    ends.append("it had finished")
                    break
                if code not in CODES[how]:
                    ends.append(f"WRONG CODE {code} after {how}: {errors.strip()[-300:]}")
                ends.append(f"{how} at {where(run)}")
            if not (run / "summary.json").exists():
                shutil.rmtree(run, ignore_errors=True)
                trainer.finish(*command)
            else:
                trainer.finish(f"resume={run.name}")
            differ = differences(run, folder / f"{slug(name)}_whole")
            wrong = any("WRONG" in end for end in ends)
            verdict = "DIFFERS: " + ", ".join(differ) if differ else "the same"
            results["not as promised" if differ or wrong else "the same"] += 1
            print(f"{number:3} {name:38} {'; '.join(ends)}: {verdict}", flush=True)
            shutil.rmtree(run, ignore_errors=True)
    print(", ".join(f"{count} {word}" for word, count in results.items()))


if __name__ == "__main__":
    main()
