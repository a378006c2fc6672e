"""Measure the score on test images over the minutes of training, beside common alternatives.

    python benchmarks/quality.py TASK [DATA] [--minutes 4 12] [--seeds 0 1 2] [--only NAME ...]
                                 [--cores 0] [--python PEERS] [--keras-python KERAS]
    python benchmarks/quality.py TASK --write-only [--append]

Every candidate trains on the same files with the same split, cores (one thread for each), seeds
and initial weights, in a process of its own. Time runs from the command to the end of the fit: the
import of the libraries, the reading of the files and validation count, the scoring afterwards does
not. First each candidate trains briefly (medvision: the shipped experiment; peers: one epoch),
which shows how long an epoch takes; then with the number of epochs that comes nearest to the
planned minutes, so that every schedule ends with its training. All predictions of validation and
test images are scored by one function: Dice per image at the size of the mask file, or accuracy
and AUROC. Nothing is chosen by these scores.

Peers run as their documentation shows it, see the scripts in benchmarks/peers. medvision is
`train.py experiment=...` with no overrides but data, seed and epochs, and an empty cache.

Each training appends a line to a JSON lines file. What is found there is not trained again, so a
stopped measurement can be started again. `--write-only` draws the figure and prints the table.
"""

import argparse
import csv
import json
import os
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness import HERE, ROOT, append_results, command_line, machine, peer_python, run_json
from phantoms import write_brains, write_polyps

PEERS = (
    "torch==2.9.1",
    "torchvision==0.24.1",
    "segmentation-models-pytorch==0.6.0",
    "albumentations==2.0.8",
    "lightning==2.6.6",
    "fastai==2.8.12",
    "timm==1.0.31",
)
KERAS = ("tensorflow-cpu==2.21.0",)
POINTS = HERE / "quality.jsonl"

Point = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One way to train.

    Attributes:
        title: Shown in figure and table.
        script: File in benchmarks/peers; None for medvision.
        arguments: Of the script.
        extra: Only measured if ``--only`` names it.
    """

    title: str
    script: str | None = None
    arguments: tuple[str, ...] = ()
    extra: bool = False


@dataclass(frozen=True, kw_only=True)
class Task:
    """Data set and experiment.

    Attributes:
        title: Shown above figure and table.
        segments: True for masks, False for classes.
        experiment: Shipped experiment.
        overrides: Further keys of the experiment.
        size: Pixels, for the peers.
        score: Main score, of both splits.
        candidates: Names of the candidates, in order.
    """

    title: str
    segments: bool
    experiment: str
    size: int
    score: str
    candidates: tuple[str, ...]
    overrides: tuple[str, ...] = ()


_BFLOAT16 = ("--base", "16", "--policy", "mixed_bfloat16", "--cache")
CANDIDATES = {
    "medvision": Candidate(title="medvision"),
    "smp_fpn": Candidate(
        title="Lightning and smp, FPN",
        script="quality_lightning.py",
        arguments=("--way", "smp_fpn"),
    ),
    "smp": Candidate(
        title="Lightning and smp, U-Net", script="quality_lightning.py", arguments=("--way", "smp")
    ),
    "smp_augmented": Candidate(
        title="Lightning and smp, U-Net, augmented",
        script="quality_lightning.py",
        arguments=("--way", "smp_augmented"),
        extra=True,
    ),
    "timm": Candidate(
        title="Lightning and timm", script="quality_lightning.py", arguments=("--way", "tuned")
    ),
    "timm_frozen": Candidate(
        title="Lightning and timm, frozen features",
        script="quality_lightning.py",
        arguments=("--way", "frozen"),
        extra=True,
    ),
    "fastai": Candidate(
        title="fastai, fine_tune", script="quality_fastai.py", arguments=("--way", "fine_tune")
    ),
    "fastai_one_cycle": Candidate(
        title="fastai, fit_one_cycle",
        script="quality_fastai.py",
        arguments=("--way", "one_cycle"),
        extra=True,
    ),
    "keras": Candidate(
        title="Keras, as the reference is written",
        script="keras_train.py",
        arguments=("--base", "16"),
    ),
    "keras_bfloat16": Candidate(
        title="Keras, mixed_bfloat16 and cache", script="keras_train.py", arguments=_BFLOAT16
    ),
}

_OF_CLASSIFICATION = ("medvision", "timm", "timm_frozen", "fastai", "fastai_one_cycle")
TASKS = {
    "polyps": Task(
        title="Polyps, packaged weights",
        segments=True,
        experiment="polyp_quick",
        size=256,
        score="dice",
        candidates=("medvision", "smp_fpn", "smp", "smp_augmented", "fastai", "fastai_one_cycle"),
    ),
    "polyps_scratch": Task(
        title="Polyps, U-Net from scratch",
        segments=True,
        experiment="polyp_unet_quick",
        size=256,
        score="dice",
        candidates=("medvision", "keras", "keras_bfloat16"),
    ),
    "brain": Task(
        title="Brain MRI, merged protocol, packaged weights",
        segments=False,
        experiment="brain_mri_quick",
        overrides=("data.protocol=merged",),
        size=160,
        score="accuracy",
        candidates=_OF_CLASSIFICATION,
    ),
    "chest": Task(
        title="Chest X-rays, packaged weights",
        segments=False,
        experiment="chest_xray_quick",
        size=160,
        score="auroc",
        candidates=_OF_CLASSIFICATION,
    ),
}
SCORE_TITLES = {"dice": "Dice", "accuracy": "accuracy", "auroc": "AUROC"}


def main() -> None:
    """Train what is missing, draw the figure and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("data", type=Path, nargs="?", help="root of the data set; phantoms")
    parser.add_argument("--minutes", type=float, nargs="+", default=[4.0, 12.0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=CANDIDATES, metavar="NAME")
    parser.add_argument("--experiment", help="of medvision; the quick one of the task")
    parser.add_argument("--cores", type=int, nargs="+", default=[0], help="their numbers")
    parser.add_argument(
        "--clock",
        choices=["wall", "cpu"],
        default="wall",
        help="cpu: seconds of the core, where it has other work; needs a single core",
    )
    parser.add_argument("--python", type=Path, help="with the peers installed; made if missing")
    parser.add_argument("--keras-python", type=Path, help="with Keras installed; made if missing")
    parser.add_argument("--points", type=Path, default=POINTS, help="JSON lines file")
    parser.add_argument("--phantoms", type=int, default=400, help="how many are drawn without DATA")
    parser.add_argument("--write-only", action="store_true", help="train nothing")
    parser.add_argument("--append", action="store_true", help="add the table to RESULTS.md")
    given = parser.parse_args()
    if given.data is not None and not given.data.is_dir():
        parser.error(f"no such folder ({given.data}); give the root of the data set")
    if given.clock == "cpu" and len(given.cores) > 1:
        parser.error("--clock cpu with several cores would hide waiting; give one core")
    if given.task == "chest" and given.data is None and not given.write_only:
        parser.error("there are no phantoms of this task; give the root of the data set")
    names = given.only or [name for name in _names(given.task) if not CANDIDATES[name].extra]
    unknown = sorted(set(names) - set(_names(given.task)))
    if unknown:
        parser.error(f"{', '.join(unknown)}: not a candidate of {given.task}")
    if not given.write_only:
        os.sched_setaffinity(0, given.cores)  # child processes inherit it
        with tempfile.TemporaryDirectory() as scratch:
            measure_all(names, given, Path(scratch))
    write([point for point in read_points(given.points) if _is_shown(point, given)], given)


def _is_shown(point: Point, given: argparse.Namespace) -> bool:
    experiment = given.experiment or TASKS[given.task].experiment
    same = point["task"] == given.task and point["cores"] == len(given.cores)
    return same and point.get("experiment", experiment) == experiment


def _names(task: str) -> tuple[str, ...]:
    return TASKS[task].candidates


# Measuring ----------------------------------------------------------------------------------------


def measure_all(names: Sequence[str], given: argparse.Namespace, scratch: Path) -> None:
    """Train every candidate with every seed, briefly and for the planned minutes."""
    data = given.data.resolve() if given.data else _phantoms(given, scratch)
    place = Place(data, scratch, given)
    for seed in given.seeds:
        for name in names:
            first = place.measured(name, seed, None)
            for minutes in sorted(given.minutes):
                epochs = planned_epochs(first, minutes, clock=given.clock)
                if epochs != first["epochs"]:
                    place.measured(name, seed, minutes, epochs)


def planned_epochs(first: Mapping[str, Any], minutes: float, *, clock: str = "wall") -> int:
    """Number of epochs whose training ends nearest to the planned minutes, at least one.

    Args:
        first: Point of the brief training.
        minutes: From the command to the end of the fit.
        clock: ``cpu`` if minutes are of the core.
    """
    share = first["share"] if clock == "cpu" else 1.0
    start_s = first["seconds"] - first["epochs"] * first["epoch_s"]
    return max(1, round((60 * minutes / share - start_s) / first["epoch_s"]))


class Place:
    """Data, split, initial weights, and where to write."""

    def __init__(self, data: Path, scratch: Path, given: argparse.Namespace) -> None:
        self.data, self.scratch, self.given = data, scratch, given
        self.task = TASKS[given.task]
        self.experiment = given.experiment or self.task.experiment
        self.splits = scratch / "splits.csv"
        self.weights = scratch / "weights.safetensors"
        self.overrides = [f"experiment={self.experiment}", f"data.root={data}"]
        self.overrides += self.task.overrides
        self._prepare()
        self.rows = [row for row in _read_table(self.splits) if row["split"] in ("val", "test")]
        self.images = scratch / "images"
        if self.task.segments:
            self._link_images()

    def _prepare(self) -> None:
        """Write the split of the experiment, which does not depend on the seed, and the weights."""
        from hydra import compose, initialize_config_dir
        from safetensors.torch import save_file

        from medvision.data.discovery.splits_csv import write_splits
        from medvision.models.weights import PACKAGED_NETWORK, packaged
        from medvision.run.training.build import build_data

        os.environ["MEDVISION_CACHE_DIR"] = str(self.scratch / "cache_of_the_split")
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            config = compose("train", overrides=self.overrides)
        data = build_data(config.data)
        data.prepare()
        write_splits(self.splits, data.table_of_splits())
        tensors = dict(packaged(PACKAGED_NETWORK, hint="").tensors)
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, self.weights)

    def _link_images(self) -> None:
        """Make a folder of the validation and test images alone, with the names of the masks."""
        self.images.mkdir()
        for row in self.rows:
            path = self.data / row["path"]
            (self.images / path.name).symlink_to(path)  # fails if two have the same name

    def measured(self, name: str, seed: int, minutes: float | None, epochs: int = 1) -> Point:
        """Point of a training, from the file or by training.

        Args:
            name: Candidate.
            seed: Of everything random.
            minutes: Planned; None for the brief training.
            epochs: Of a training with planned minutes.
        """
        key = {
            "task": self.given.task,
            "candidate": name,
            "seed": seed,
            "minutes": minutes,
            "cores": len(self.given.cores),
        }
        if name == "medvision":
            key["experiment"] = self.experiment
        for point in read_points(self.given.points):
            if point.items() >= key.items():
                return point
        out = self.scratch / "out"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        load, used_s = os.getloadavg()[0], _children_cpu_s()
        began = time.time()
        if name == "medvision":
            found = self._train_medvision(out, seed, None if minutes is None else epochs)
        else:
            found = self._train_peer(CANDIDATES[name], out, seed, epochs)
        total_s = time.time() - began
        cpu_s = _children_cpu_s() - used_s
        point = {
            **key,
            "epochs": found["epochs"],
            "seconds": found["fit_ended"] - began,
            "epoch_s": found["epoch_s"],
            "total_s": total_s,
            "share": min(1.0, cpu_s / (total_s * len(self.given.cores))),
            "load_before": load,
            "scores": self._scores(name, out),
            "machine": machine(),
            "date": datetime.now(tz=UTC).strftime("%Y-%m-%d %H:%M"),
        }
        with self.given.points.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(point) + "\n")
        main = point["scores"]["test"][self.task.score]
        print(
            f"{name}, seed {seed}: {point['epochs']} epochs in {point['seconds'] / 60:.1f} min"
            f" ({point['share']:.0%} of the cores), test {self.task.score} {main:.4f}",
            flush=True,
        )
        return point

    def _environment(self, out: Path) -> dict[str, str]:
        cores = str(len(self.given.cores))
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), cores)
        return {**threads, "MEDVISION_CACHE_DIR": str(out / "cache"), "MPLBACKEND": "Agg"}

    def _train_medvision(self, out: Path, seed: int, epochs: int | None) -> dict[str, Any]:
        """Run `train.py`; its test scores and report come after the end of the fit."""
        run = out / "run"
        words = [*self.overrides, f"seed={seed}", f"run_dir={run}"]
        words += [] if epochs is None else [f"trainer.max_epochs={epochs}"]
        read_summary = '"$@" >&2 && tr -d "\\n" < run/summary.json'
        command = ["sh", "-c", read_summary, "sh", sys.executable, ROOT / "train.py", *words]
        source = os.pathsep.join([str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = {**self._environment(out), "PYTHONPATH": source}
        summary = run_json(command, cwd=out, env=environment)
        written = (run / "metrics.csv", run / "checkpoints/last.ckpt")
        return {
            "fit_ended": max(path.stat().st_mtime for path in written),
            "epochs": summary["epochs"],
            "epoch_s": summary["timing"]["fit_s"] / summary["epochs"],
        }

    def _train_peer(
        self, candidate: Candidate, out: Path, seed: int, epochs: int
    ) -> dict[str, Any]:
        assert candidate.script is not None
        common = ["--data", self.data, "--splits", self.splits, "--seed", seed, "--epochs", epochs]
        common += ["--size", self.task.size, *candidate.arguments]
        if candidate.script == "keras_train.py":
            python = self.given.keras_python or peer_python("keras", *KERAS)
            common += ["--threads", len(self.given.cores), "--times"]
            common += ["--predict", self.images, "--out", out / "masks"]
        else:
            python = self.given.python or peer_python("quality", *PEERS)
            kind = "segmentation" if self.task.segments else "classification"
            common += ["--task", kind, "--weights", self.weights, "--out", out]
        environment = {**self._environment(out), "PYTHONPATH": "", "CUDA_VISIBLE_DEVICES": ""}
        command = [python, HERE / "peers" / candidate.script, *common]
        found = run_json(command, cwd=out, env=environment)
        # a first epoch alone includes what is slow once
        return {
            "fit_ended": found["fit_ended"],
            "epochs": epochs,
            "epoch_s": statistics.mean(found["epoch_s"]),
        }

    def _scores(self, name: str, out: Path) -> dict[str, dict[str, float]]:
        """Scores of the validation and test images."""
        if self.task.segments:
            if name == "medvision":
                from medvision.inference import load_model, predict_files

                predict_files(
                    load_model(out / "run"),
                    sorted(self.images.iterdir()),
                    out=out / "predicted",
                    overlays=False,
                )
            masks = out / ("predicted/masks" if name == "medvision" else "masks")
            return {
                split: segmentation_scores(self.data, rows, masks)
                for split, rows in self._by_split()
            }
        tables = [out / "predictions.csv"]
        if name == "medvision":
            tables = [out / f"run/predictions_{split}.csv" for split in ("val", "test")]
        predicted = {row["path"]: row for table in tables for row in _read_table(table)}
        return {split: classification_scores(rows, predicted) for split, rows in self._by_split()}

    def _by_split(self) -> Iterator[tuple[str, list[dict[str, str]]]]:
        for split in ("val", "test"):
            yield split, [row for row in self.rows if row["split"] == split]


def _phantoms(given: argparse.Namespace, scratch: Path) -> Path:
    draw = write_polyps if TASKS[given.task].segments else write_brains
    return draw(scratch / "phantoms", given.phantoms, 256)


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


# Scores -------------------------------------------------------------------------------------------


def segmentation_scores(
    data: Path, rows: Sequence[Mapping[str, str]], masks: Path
) -> dict[str, float]:
    """Mean Dice over images, at the size of the mask files.

    Args:
        data: Root of the data set.
        rows: Images (``path``) with the mask of each (``target``), in which more than 127 is
            foreground.
        masks: Folder of predicted masks, ``<stem of the image>.png``, 0 or 255.
    """
    import numpy as np
    import torch
    from PIL import Image

    from medvision.metrics.overlap import dice_score

    sizes = []
    for row in rows:
        paths = (masks / f"{Path(row['path']).stem}.png", data / row["target"])
        predicted, labelled = (np.asarray(Image.open(p).convert("L")) > 127 for p in paths)
        if predicted.shape != labelled.shape:
            raise ValueError(
                f"expected a mask of {labelled.shape} for {row['path']}, got {predicted.shape}"
            )
        sizes.append([(predicted & labelled).sum(), predicted.sum(), labelled.sum()])
    overlap, predicted_px, labelled_px = torch.tensor(np.array(sizes)).T
    return {"dice": dice_score(overlap, predicted_px, labelled_px).double().mean().item()}


def classification_scores(
    rows: Sequence[Mapping[str, str]], predicted: Mapping[str, Mapping[str, str]]
) -> dict[str, float]:
    """Accuracy, and AUROC of the second of two classes or the one-vs-rest mean of more.

    Args:
        rows: Images (``path``) with the class of each (``target``).
        predicted: Row of predictions by path: ``predicted``, ``probability/<class>``.
    """
    import numpy as np
    from sklearn.metrics import roc_auc_score

    targets = np.array([row["target"] for row in rows])
    found = [predicted[row["path"]] for row in rows]
    classes = sorted(set(targets))
    probabilities = np.array(
        [[float(row[f"probability/{name}"]) for name in classes] for row in found]
    )
    each = [roc_auc_score(targets == n, probabilities[:, i]) for i, n in enumerate(classes)]
    return {
        "accuracy": float(np.mean(targets == [row["predicted"] for row in found])),
        "auroc": float(each[-1] if len(classes) == 2 else np.mean(each)),
    }


# Writing ------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Group:
    """Trainings of one candidate for the same planned minutes."""

    candidate: str
    minutes: float | None
    points: Sequence[Point]

    def minutes_taken(self, clock: str) -> list[float]:
        """Minutes of each, from the command to the end of the fit."""
        return [p["seconds"] / 60 * (p["share"] if clock == "cpu" else 1.0) for p in self.points]

    def scores(self, split: str, score: str) -> list[float]:
        """Score of each."""
        return [point["scores"][split][score] for point in self.points]


def groups_of(points: Sequence[Point], candidates: Sequence[str]) -> list[Group]:
    """Group trainings by candidate, in order, and by time."""
    groups = []
    for name in candidates:
        own = [point for point in points if point["candidate"] == name]
        planned = {point["minutes"] for point in own}
        for minutes in sorted(planned, key=lambda value: value or 0.0):
            same = [point for point in own if point["minutes"] == minutes]
            groups.append(Group(candidate=name, minutes=minutes, points=same))
    return groups


def write(points: Sequence[Point], given: argparse.Namespace) -> None:
    """Draw the figure beside the points and print the table."""
    task = TASKS[given.task]
    groups = groups_of(points, task.candidates)
    if not groups:
        cores = "1 core" if len(given.cores) == 1 else f"{len(given.cores)} cores"
        sys.exit(f"error: no points of {given.task} on {cores} ({given.points}); measure first")
    name = f"{given.points.stem}_{given.task}_{len(given.cores)}.png"
    figure = given.points.with_name(name)
    draw(groups, task, figure, clock=given.clock)
    lines = [*table(groups, task, clock=given.clock), "", f"![{task.title}]({figure.name})"]
    print("\n".join(lines))
    if given.append:
        append_results(f"Score over minutes: {task.title}", lines, command=command_line())


def table(groups: Sequence[Group], task: Task, *, clock: str = "wall") -> list[str]:
    """Markdown: median (lowest-highest) over the seeds of time and scores."""
    title = SCORE_TITLES[task.score]
    other = [] if task.segments else [name for name in ("accuracy", "auroc") if name != task.score]
    heads = ["", "planned min", "epochs", "seeds", "cores", "min", f"test {title}"]
    heads += [f"test {SCORE_TITLES[name]}" for name in other] + [f"validation {title}"]
    heads += ["share of the cores"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for group in groups:
        brief = "as shipped" if group.candidate == "medvision" else "one epoch"
        planned = brief if group.minutes is None else f"{group.minutes:g}"
        cells = [CANDIDATES[group.candidate].title, planned]
        for name in ("epochs", "seed", "cores"):
            values = dict.fromkeys(point[name] for point in group.points)
            cells.append(", ".join(map(str, sorted(values))))
        cells.append(_spread(group.minutes_taken(clock), 1))
        cells += [_spread(group.scores("test", name), 3) for name in (task.score, *other)]
        cells.append(_spread(group.scores("val", task.score), 3))
        cells.append(f"{statistics.median(point['share'] for point in group.points):.0%}")
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _spread(values: Sequence[float], digits: int) -> str:
    low, middle, high = min(values), statistics.median(values), max(values)
    if len(values) == 1:
        return f"{middle:.{digits}f}"
    return f"{middle:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


def draw(groups: Sequence[Group], task: Task, path: Path, *, clock: str = "wall") -> None:
    """Draw the test score over minutes: median of the seeds, bars from lowest to highest."""
    import matplotlib as mpl

    from medvision.reports.plots.style import STYLE, line_look, new_axes, save

    with mpl.rc_context(STYLE):
        figure, axes = new_axes(7, 4.5)
        for number, name in enumerate(dict.fromkeys(group.candidate for group in groups)):
            own = [group for group in groups if group.candidate == name]
            minutes = [statistics.median(group.minutes_taken(clock)) for group in own]
            scores = [group.scores("test", task.score) for group in own]
            medians = [statistics.median(values) for values in scores]
            bars = [
                [middle - min(v) for middle, v in zip(medians, scores, strict=True)],
                [max(v) - middle for middle, v in zip(medians, scores, strict=True)],
            ]
            title = CANDIDATES[name].title
            look = line_look(number)
            axes.errorbar(minutes, medians, bars, label=title, marker="o", capsize=3, **look)
        counted = "minutes of the core" if clock == "cpu" else "minutes"
        cores = groups[0].points[0]["cores"]
        on = "1 core" if cores == 1 else f"{cores} cores"
        label = f"{counted} from the command to the end of training, {on}"
        axes.set(xlabel=label, ylabel=f"test {SCORE_TITLES[task.score]}", title=task.title)
        axes.set_xlim(left=0)
        axes.legend()
        save(figure, path, dpi=110)


# Files --------------------------------------------------------------------------------------------


def read_points(path: Path) -> list[Point]:
    """Points of a JSON lines file; none if it does not exist."""
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _read_table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


if __name__ == "__main__":
    main()
