"""Train the reference tables and write them down.

    python benchmarks/reference.py --brain DIR --chest DIR --kvasir DIR
                                   [--runs DIR] [--code DIR] [--only ROW ...] [--missing]
                                   [--list | --write-only]

Rows 1 and 2 train three networks on brain MRI, without and with Gaussian noise. Row 3 trains the
variant with the higher validation accuracy of each network with two stricter splits. Row 4 is the
simple CNN on chest X-rays, row 5 the U-Net on polyps. `ENTRIES` has the details.

Each training is one process of train.py. The order is fixed, one runs at a time, finished runs are
skipped, and an interrupted run is resumed, so this program can be stopped and started at any time.
After each run the files that the results rest on are copied to docs/reference/RUN, and
docs/reference.json and docs/reference.md are written again from these copies. `--write-only` does
only that and needs neither data nor run folders.
"""

import argparse
import csv
import fcntl
import json
import os
import re
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import yaml
from sklearn.metrics import roc_curve

from medvision.metrics.ranking import class_ranks
from medvision.reports.plots.classification import Points, macro_mean
from medvision.reports.plots.comparison import Drawn, draw_rocs, draw_validation
from medvision.reports.plots.style import STYLE, save

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
DIGITS = 5

METRIC_LABELS = {"accuracy": "accuracy", "dice": "Dice"}

DATA_NAMES = {"brain": "BRAIN", "chest": "CHEST", "kvasir": "KVASIR"}
"""Name that stands for a data folder in commands and in committed files."""

ROW_TITLES = {
    1: "Brain MRI, merged protocol, without noise",
    2: "Brain MRI, merged protocol, Gaussian noise of 20/255 in training",
    3: "Brain MRI, stricter protocols, the better variant of each network by validation accuracy",
    4: "Chest X-rays, official test folder",
    5: "Polyps, given split",
}


_LITE0_NOTE = (
    "The published transfer network is EfficientNet-B0. The packaged weights are those of"
    " EfficientNet-Lite0. The backbone is frozen for 3 epochs and then trains at a tenth of the"
    " learning rate."
)
ROW_NOTES = {
    1: ("Adam 1e-3, batches of 32, 40 epochs.", _LITE0_NOTE),
    2: (
        "As row 1, with noise in training only. EfficientNet-Lite0 gets it in half of the images,"
        " because its batch norm otherwise fits noisy images only.",
        _LITE0_NOTE,
    ),
    3: (
        "The variant, with or without noise, is the one of rows 1 and 2 with the higher validation"
        " accuracy for seed 0. Test scores are not used.",
        _LITE0_NOTE,
    ),
    4: (
        "Adam 1e-4, batches of 8, 20 epochs. A fifth of the training folder is used for validation."
        " The published images have 600 px.",
    ),
    5: (
        "Adam 1e-4, binary cross-entropy, batches of 2. Training ends after 10 epochs without a"
        " better validation Dice.",
    ),
}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line of a table: a recipe and the seeds that it is trained with.

    Attributes:
        row: Number of the table.
        name: Name within the table; part of the run names.
        title: Text shown in the table.
        data: Data set, a key of ``DATA_NAMES``.
        protocol: Text shown for how the images are split.
        experiment: Experiment file; None if it is chosen between the runs in ``variants``.
        variants: Names of the runs to choose from by validation.
        arguments: Overrides of the command line.
        seeds: Seeds, in order.
        metric: Main score, without the stage.
        published: Published value of the main score; None if there is none.
    """

    row: int
    name: str
    title: str
    data: str
    protocol: str
    experiment: str | None = None
    variants: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0,)
    metric: str = "accuracy"
    published: float | None = None

    def run_name(self, seed: int) -> str:
        """Name of the run folder of one seed."""
        return f"{self.row}_{self.name}_{seed}"


@dataclass(frozen=True, kw_only=True)
class Network:
    """One of the networks of the brain MRI tables."""

    name: str
    title: str
    experiment: str
    published: float
    arguments: tuple[str, ...] = ()


NETWORKS = (
    Network(name="cnn", title="Simple CNN, 150 px", experiment="brain_mri_cnn", published=0.922),
    Network(
        name="lite0",
        title="EfficientNet-Lite0 transfer, 150 px",
        experiment="brain_mri_efficientnet_b0",
        arguments=("data.image_size=150",),
        published=0.991,
    ),
    Network(
        name="alexnet", title="AlexNet, 224 px", experiment="brain_mri_alexnet", published=0.957
    ),
)
"""In the order of training. The packaged weights are those of EfficientNet-Lite0, not of B0."""


def _brain_entries() -> Iterator[Entry]:
    for row, suffix, seeds in ((1, "", (0, 1, 2)), (2, "_noise", (0,))):
        for network in NETWORKS:
            yield Entry(
                row=row,
                name=network.name + suffix,
                title=network.title,
                data="brain",
                protocol="merged",
                experiment=network.experiment + suffix,
                arguments=("data.protocol=merged", *network.arguments),
                seeds=seeds,
                published=network.published,
            )
    for protocol in ("grouped", "official"):
        for network in NETWORKS:
            yield Entry(
                row=3,
                name=f"{network.name}_{protocol}",
                title=network.title,
                data="brain",
                protocol=protocol,
                variants=(f"1_{network.name}_0", f"2_{network.name}_noise_0"),
                arguments=(f"data.protocol={protocol}", *network.arguments),
                published=network.published,
            )


def _chest_entries() -> Iterator[Entry]:
    for name, suffix, published in (("original", "", 0.758), ("augmented", "_augmented", 0.9375)):
        yield Entry(
            row=4,
            name=name,
            title=f"Simple CNN, 160 px, {name}",
            data="chest",
            protocol="official",
            experiment=f"chest_xray_cnn{suffix}",
            arguments=("data.image_size=160", "data.val_fraction=0.2"),
            seeds=(0, 1, 2),
            published=published,
        )


ENTRIES: tuple[Entry, ...] = (
    *_brain_entries(),
    *_chest_entries(),
    Entry(
        row=5,
        name="unet",
        title="U-Net, 16 base channels, 256 px",
        data="kvasir",
        protocol="given",
        experiment="polyp_unet",
        arguments=(
            "model.base_channels=16",
            "data.image_size=256",
            "callbacks=early_stopping",
            "trainer.max_epochs=200",  # an upper limit: early stopping ends the training
        ),
        metric="dice",
    ),
)


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training: an entry with one of its seeds."""

    entry: Entry
    seed: int

    @property
    def name(self) -> str:
        """Name of the run folder and of the folder with its results."""
        return self.entry.run_name(self.seed)


@dataclass(kw_only=True)
class Settings:
    """Settings of the command line.

    Attributes:
        data: Folder of each data set that was given.
        runs: Folder of the run folders.
        code: Checkout whose train.py is used.
        docs: Folder of the results.
        workers: Processes that read images.
    """

    data: Mapping[str, Path] = field(default_factory=dict)
    runs: Path = ROOT / "runs" / "reference"
    code: Path = ROOT
    docs: Path = DOCS
    workers: int = 1

    def results(self, name: str) -> Path:
        """Folder of the results of a run."""
        return self.docs / "reference" / name


def main() -> int:
    """Train what is open, and write the tables after each run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name, shown in DATA_NAMES.items():
        parser.add_argument(f"--{name}", type=Path, metavar=shown, help="folder of the data set")
    defaults = Settings()
    parser.add_argument("--runs", type=Path, default=defaults.runs, help="folder of run folders")
    parser.add_argument("--code", type=Path, default=ROOT, help="checkout whose train.py is used")
    parser.add_argument("--docs", type=Path, default=DOCS, help="folder of the results")
    parser.add_argument("--workers", type=int, default=1, help="processes that read images")
    parser.add_argument("--only", type=int, nargs="+", choices=sorted(ROW_TITLES), metavar="ROW")
    parser.add_argument("--missing", action="store_true", help="skip runs with results in docs")
    parser.add_argument("--list", action="store_true", help="show the runs and their state")
    parser.add_argument("--write-only", action="store_true", help="write the tables, train nothing")
    given = parser.parse_args()
    folders = {name: getattr(given, name) for name in DATA_NAMES}
    settings = Settings(
        data={name: path.resolve() for name, path in folders.items() if path is not None},
        runs=given.runs.resolve(),
        code=given.code.resolve(),
        docs=given.docs.resolve(),
        workers=given.workers,
    )
    runs = planned_runs(given.only)
    if given.list:
        for run in runs:
            experiment = choose_experiment(run.entry, settings)
            shown = (
                "waits for validation scores" if experiment is None else command(run, experiment)
            )
            print(f"{run.name:22} {state(settings.runs / run.name):12} {shown}")
        return 0
    if given.write_only:
        write_tables(settings)
        return 0
    settings.runs.mkdir(parents=True, exist_ok=True)
    with alone(settings.runs) as lock:
        return train_all(runs, settings, missing_only=given.missing, lock=lock)


def planned_runs(rows: Iterable[int] | None = None) -> list[Run]:
    """List the runs in the order of training: by row, then seed, then entry."""
    wanted = sorted(set(ROW_TITLES if rows is None else rows))
    planned = []
    for row in wanted:
        entries = [entry for entry in ENTRIES if entry.row == row]
        seeds = dict.fromkeys(seed for entry in entries for seed in entry.seeds)
        planned += [
            Run(entry=entry, seed=seed)
            for seed in seeds
            for entry in entries
            if seed in entry.seeds
        ]
    return planned


# Training -----------------------------------------------------------------------------------------


@contextmanager
def alone(folder: Path) -> Iterator[int]:
    """Wait until no other process trains in a folder, and keep others out.

    The training process inherits the lock. If this program is killed and started again, it waits
    for the training that is still running.
    """
    handle = os.open(folder / ".reference.lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print_line(f"waiting for another process that trains in {folder}")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield handle
    finally:
        os.close(handle)


def train_all(
    runs: Sequence[Run], settings: Settings, *, missing_only: bool = False, lock: int | None = None
) -> int:
    """Train what is not finished, in order.

    Args:
        runs: Runs in order.
        settings: Settings of the command line.
        missing_only: Skip runs that have results, even if their run folder does not exist.
        lock: File descriptor that the training process keeps open.

    Returns:
        Exit code: 0 if every run is finished, 1 if one is not, 143 or 130 if stopped by a signal.
    """
    unfinished = 0
    for run in runs:
        folder = settings.runs / run.name
        has_results = (settings.results(run.name) / "summary.json").is_file()
        if state(folder) == "finished":
            unfinished += not (has_results or collected(folder, settings))
            continue
        if missing_only and has_results:
            continue
        experiment = choose_experiment(run.entry, settings)
        if run.entry.data not in settings.data or experiment is None:
            reason = "no validation scores to choose by" if experiment is None else "no data folder"
            print_line(f"{run.name}: skipped, {reason}")
            unfinished += 1
            continue
        words = training_words(run, experiment, settings)
        print_line(f"{run.name}: {shlex.join(words)}")
        code, stopped_by = train(
            words, log=settings.runs / f"{run.name}.log", settings=settings, lock=lock
        )
        print_line(f"{run.name}: ended with {code}, {state(folder)}")
        if state(folder) == "finished" and collected(folder, settings):
            write_tables(settings)
        else:
            unfinished += 1
        if stopped_by:
            return 128 + stopped_by
    write_tables(settings)
    return 1 if unfinished else 0


def train(
    words: Sequence[str], *, log: Path, settings: Settings, lock: int | None = None
) -> tuple[int, int]:
    """Run one training process and append its output to a file.

    SIGTERM is passed on to the training, which saves its state. The program waits for its end.

    Returns:
        Exit code of the training, and the number of the signal that requested a stop (0: none).
    """
    source = str(settings.code / "src")
    paths = [source, *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    stopped_by = 0
    with log.open("a", encoding="utf-8") as stream:
        process = subprocess.Popen(
            words,
            cwd=settings.runs,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            pass_fds=() if lock is None else (lock,),
        )

        def stop(number: int, _: Any) -> None:
            nonlocal stopped_by
            stopped_by = number
            if number == signal.SIGTERM:  # Ctrl-C reaches the training by itself
                process.terminate()

        before = {s: signal.signal(s, stop) for s in (signal.SIGTERM, signal.SIGINT)}
        try:
            return process.wait(), stopped_by
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def training_words(run: Run, experiment: str, settings: Settings) -> list[str]:
    """Command line that starts a run, or resumes it if its folder holds an interrupted one."""
    folder = settings.runs / run.name
    program = [sys.executable, str(settings.code / "train.py")]
    changeable = [
        f"data.root={settings.data[run.entry.data]}",
        f"data.num_workers={settings.workers}",
    ]
    if state(folder) == "new":
        if folder.exists():  # ended before it wrote its config
            shutil.rmtree(folder)
        return [*program, *arguments(run, experiment), *changeable, f"run_dir={folder}"]
    return [*program, f"resume={folder}", *changeable]


def arguments(run: Run, experiment: str) -> list[str]:
    """Overrides that define a run, without folders."""
    return [f"experiment={experiment}", *run.entry.arguments, f"seed={run.seed}"]


def command(run: Run, experiment: str) -> str:
    """Command line as shown to readers."""
    root = f"data.root={DATA_NAMES[run.entry.data]}"
    return " ".join(["python train.py", *arguments(run, experiment), root])


def state(folder: Path) -> str:
    """State of a run folder: ``new``, or the status in its summary.

    A folder is ``new`` as long as a file is missing that resuming needs.
    """
    needed = ("config.yaml", "splits.csv", "summary.json")
    if not all((folder / name).is_file() for name in needed):
        return "new"
    status: str = json.loads((folder / "summary.json").read_text())["status"]
    return status


def choose_experiment(entry: Entry, settings: Settings) -> str | None:
    """Experiment of an entry; of several variants the one with the best validation scores.

    Test scores are never read. The order is by accuracy, then AUROC, then as listed.

    Returns:
        The experiment, or None while a variant has no results.
    """
    if entry.experiment is not None:
        return entry.experiment
    best: tuple[tuple[float, float], str] | None = None
    for name in entry.variants:
        path = settings.results(name) / "summary.json"
        if not path.is_file():
            return None
        summary = json.loads(path.read_text())
        scores = (summary["metrics"]["val/accuracy"], summary["metrics"]["val/auroc"] or 0.0)
        if best is None or scores > best[0]:
            best = (scores, summary["experiment"])
    return None if best is None else best[1]


def print_line(text: str) -> None:
    """Print a line with the time."""
    print(f"{datetime.now().astimezone():%Y-%m-%d %H:%M:%S} {text}", flush=True)


# Results of a run ---------------------------------------------------------------------------------

KEPT = (
    "experiment",
    "seed",
    "task",
    "dataset",
    "model",
    "weights",
    "best_epoch",
    "epochs",
    "timing",
    "precision",
    "device",
    "threshold",
    "calibration",
    "twins",
    "lesion_sizes",
    "test_evaluations",
    "warnings",
    "metrics",
)
"""Keys of a run's summary.json that are copied."""


def collected(folder: Path, settings: Settings) -> bool:
    """Copy the results of a finished run; report a failure and return False."""
    try:
        collect(folder, settings.results(folder.name), settings)
    except (OSError, ValueError, KeyError) as error:
        print_line(f"{folder.name}: the results cannot be copied: {error!r}")
        return False
    return True


def collect(folder: Path, results: Path, settings: Settings) -> None:
    """Copy what the results of a finished run rest on, in a compact form and without local paths.

    The test scores, and those without near-duplicates, are of ``medvision evaluate RUN``, if it was
    called: a run of an older version may have been scored by a definition that was repaired since.

    Args:
        folder: Run folder.
        results: Folder to write; replaced if it exists.
        settings: Settings of the command line.

    Raises:
        ValueError: If a copy would name a folder of this machine.
    """
    temporary = results.with_name(f".{results.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    measured = folder / "evaluation" / "test"
    again = (measured / "summary.json").is_file()
    _copy_table(
        (measured if again else folder) / "predictions_test.csv", temporary / "predictions_test.csv"
    )
    _copy_table(folder / "predictions_val.csv", temporary / "predictions_val.csv")
    main_columns = re.compile(r"epoch|lr|(train|val)/\w+")
    _copy_table(folder / "metrics.csv", temporary / "metrics.csv", columns=main_columns)
    names = _folder_names(folder, settings)
    for name in ("config.yaml", "environment.json"):
        text = without_paths((folder / name).read_text(), names)
        (temporary / name).write_text(text)
    summary = json.loads((folder / "summary.json").read_text())
    kept = {key: summary[key] for key in KEPT if key in summary}
    if again:
        found = json.loads((measured / "summary.json").read_text())
        kept["metrics"] |= {k: v for k, v in found["metrics"].items() if k.startswith("test/")}
        if "twins" in found:
            kept["twins"] = found["twins"]
    kept["metrics"] = {k: v for k, v in kept["metrics"].items() if _is_kept_metric(k)}
    kept["leaks"] = summary.get("audit", {}).get("leaks", [])
    text = without_paths(_json(rounded(kept)), names)
    (temporary / "summary.json").write_text(text)
    shutil.rmtree(results, ignore_errors=True)
    temporary.rename(results)


def _folder_names(folder: Path, settings: Settings) -> dict[str, str]:
    """Name to show for each folder that the files of a run may hold."""
    config = yaml.safe_load((folder / "config.yaml").read_text())
    entry = next(run.entry for run in planned_runs() if run.name == folder.name)
    data_name = DATA_NAMES[entry.data]
    names = {config["run_dir"]: "RUN", str(folder): "RUN", str(settings.runs): "RUNS"}
    names |= {str(settings.code): ".", config["data"]["root"]: data_name}
    started = json.loads((folder / "environment.json").read_text())
    commands = [part.get("command", "") for part in (started, *started.get("resumed", ()))]
    words = (Path(word) for text in commands for word in shlex.split(text))
    programs = (word for word in words if word.name == "train.py")
    names |= {str(path.parent): "." for path in programs if path.is_absolute()}
    if entry.data in settings.data:
        names[str(settings.data[entry.data])] = data_name
    return names


def without_paths(text: str, names: Mapping[str, str]) -> str:
    """Replace the folders of this machine by names.

    Args:
        text: Text that may name folders.
        names: Name to show for each folder.

    Raises:
        ValueError: If a folder remains.
    """
    for path in sorted(names, key=len, reverse=True):
        text = text.replace(path, names[path])
    left = re.search(r"(?<![\w./:])/(?:work|home|root|tmp|mnt|data|usr|opt)\b\S*", text)
    if left:
        raise ValueError(f"expected no folder of this machine in the results, got {left[0]}")
    return text


def rounded(value: Any) -> Any:
    """Round every float in nested lists and dictionaries to ``DIGITS`` significant digits."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, list) else value


def _is_kept_metric(name: str) -> bool:
    """Return True if a metric is kept: totals of training, and no intervals of classes."""
    is_of_class = name.count("/") > 1
    return not is_of_class or not (name.startswith("train/") or name.endswith("_ci95"))


def _copy_table(source: Path, copy: Path, *, columns: re.Pattern[str] = re.compile(r".*")) -> None:
    rows = _read_table(source)
    names = [name for name in rows[0] if columns.fullmatch(name)]
    with copy.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(names)
        writer.writerows([_short(row[name]) for name in names] for row in rows)


def _read_table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def _short(cell: str) -> str:
    """Shorten a cell that holds a decimal number."""
    return f"{float(cell):.{DIGITS}g}" if re.fullmatch(r"-?\d+\.\d+(e[-+]?\d+)?", cell) else cell


def _json(value: Any) -> str:
    """Format as JSON with lists of numbers on one line."""
    text = json.dumps(value, indent=1, ensure_ascii=False)
    number = r"(?:-?[\d.]+(?:e[-+]?\d+)?|null)"
    one_line = re.compile(rf"\[\s*{number}(?:,\s*{number})*\s*\]")
    return one_line.sub(lambda found: re.sub(r"\s+", "", found[0]).replace(",", ", "), text) + "\n"


# Figures ------------------------------------------------------------------------------------------


def draw_figures(
    entries: Sequence[Mapping[str, Any]], settings: Settings
) -> dict[int, list[tuple[str, str]]]:
    """Draw the ROC and the validation curves of the finished runs of each row.

    Returns:
        Path within the folder of the results and description of each figure, by row.
    """
    figures: dict[int, list[tuple[str, str]]] = {}
    with mpl.rc_context(STYLE):
        for row in ROW_TITLES:
            own = [entry for entry in entries if entry["row"] == row]
            several = len({entry["protocol"] for entry in own}) > 1
            groups = [_drawn(entry, settings, with_protocol=several) for entry in own]
            groups = [group for group in groups if group.histories]
            if not groups:
                continue
            metric = own[0]["metric"]
            label = METRIC_LABELS[metric]
            drawn = {
                "curves": draw_validation(groups, metric=metric, label=label, mark=""),
                "roc": draw_rocs(groups, what="images", mark="") if groups[0].roc else None,
            }
            texts = {
                "curves": f"Validation {label} by epoch, row {row}",
                "roc": f"ROC of the test images, row {row}",
            }
            figures[row] = []
            for kind, figure in drawn.items():
                if figure is not None:
                    path = Path("reference") / f"row_{row}_{kind}.png"
                    save(figure, settings.docs / path, dpi=90)
                    figures[row].append((str(path), texts[kind]))
    return figures


def _drawn(entry: Mapping[str, Any], settings: Settings, *, with_protocol: bool) -> Drawn:
    """Curves of the finished runs of an entry; beside a protocol, names are short enough to fit."""
    runs = entry["runs"]
    folders = [settings.results(run["run"]) for run in runs]
    histories = [
        [
            {name: float(cell) if cell else None for name, cell in line.items()}
            for line in _read_table(folder / "metrics.csv")
        ]
        for folder in folders
    ]
    classified = runs and "confusion" in runs[0]
    name: str = entry["title"]
    if with_protocol:
        name = f"{entry['protocol']}: {name.partition(',')[0].removesuffix(' transfer')}"
    return Drawn(
        name=name,
        size=f"{len(runs)} {'seed' if len(runs) == 1 else 'seeds'}",
        has_spread=len(runs) > 1,
        auroc=_spread(entry["scores"]["test/auroc"]) if classified else "",
        histories=histories,
        roc=[_roc(folder / "predictions_test.csv") for folder in folders] if classified else [],
    )


def _roc(path: Path) -> Points:
    """ROC of a table of predictions: of the second of two classes, else the one-vs-rest mean."""
    rows = _read_table(path)
    targets = np.array([row["target"] for row in rows])
    names = [name for name in rows[0] if name.startswith("probability/")]
    probabilities = np.array([[float(row[name]) for name in names] for row in rows])
    ranks = class_ranks(probabilities)
    curves = [
        roc_curve(targets == name.removeprefix("probability/"), ranks[:, column])[:2]
        for column, name in enumerate(names)
    ]
    return macro_mean(curves) if len(curves) > 2 else curves[-1]


# Tables -------------------------------------------------------------------------------------------


def write_tables(settings: Settings) -> None:
    """Write reference.json and reference.md from the results of all runs."""
    entries = [summarize(entry, settings) for entry in ENTRIES]
    figures = draw_figures(entries, settings)
    texts = {"reference.json": _json(entries), "reference.md": page(entries, figures)}
    for name, text in texts.items():
        temporary = settings.docs / f".{name}.tmp"
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(settings.docs / name)


def summarize(entry: Entry, settings: Settings) -> dict[str, Any]:
    """Summarize one line of a table over its seeds.

    The interval is that of one run, its ends averaged over the seeds. It does not include the
    variation between seeds, which the deviation shows.
    """
    finished = [
        seed
        for seed in entry.seeds
        if (settings.results(entry.run_name(seed)) / "summary.json").is_file()
    ]
    runs = [_summarize_run(entry, seed, settings) for seed in finished]
    summary: dict[str, Any] = {
        "row": entry.row,
        "name": entry.name,
        "title": entry.title,
        "data": entry.data,
        "protocol": entry.protocol,
        "metric": entry.metric,
        "published": entry.published,
        "open_seeds": [seed for seed in entry.seeds if seed not in finished],
        "runs": runs,
    }
    if not runs:
        return summary
    keys = [f"{stage}/{entry.metric}" for stage in ("train", "val", "test")]
    keys += [key for key in ("val/auroc", "test/auroc", "test/iou") if key in runs[0]["scores"]]
    summary["scores"] = {key: _over_seeds([run["scores"][key] for run in runs]) for key in keys}
    test_images = {(run["num_test_images"], run["test_fingerprint"]) for run in runs}
    if len(test_images) != 1:
        raise ValueError(f"expected the same test images for all seeds of {entry.name}")
    summary["num_test_images"] = runs[0]["num_test_images"]
    ends = zip(*(run["ci95"] for run in runs), strict=True)
    summary["ci95"] = [statistics.mean(values) for values in ends]
    short: dict[str, Any] = rounded(summary)
    return short


def _summarize_run(entry: Entry, seed: int, settings: Settings) -> dict[str, Any]:
    folder = settings.results(entry.run_name(seed))
    found = json.loads((folder / "summary.json").read_text())
    metrics = found["metrics"]
    names = [entry.metric, "auroc", "iou"]
    keys = [f"{stage}/{name}" for stage in ("train", "val", "test") for name in names]
    run: dict[str, Any] = {
        "run": entry.run_name(seed),
        "seed": seed,
        "command": command(Run(entry=entry, seed=seed), found["experiment"]),
        "epochs": found["epochs"],
        "best_epoch": found["best_epoch"],
        "fit_h": found["timing"]["fit_s"] / 3600,
        "num_test_images": found["dataset"]["num_images"]["test"],
        "test_fingerprint": found["dataset"]["test_fingerprint"],
        "scores": {key: metrics[key] for key in keys if key in metrics},
        "ci95": metrics[f"test/{entry.metric}_ci95"],
        "auroc_ci95": metrics.get("test/auroc_ci95"),
    }
    without = found.get("twins", {}).get("without_twin")
    if without:
        run["without_near_duplicate"] = {
            "num_images": without["num_images"],
            entry.metric: without[entry.metric],
            "ci95": without[f"{entry.metric}_ci95"],
        }
    if found["task"] == "classification":
        run["confusion"] = _confusion(folder / "predictions_test.csv")
    return run


def _confusion(path: Path) -> dict[str, Any]:
    """Confusion matrix of a table of predictions: rows are true classes, columns predicted ones."""
    rows = _read_table(path)
    prefix = "probability/"
    classes = [name.removeprefix(prefix) for name in rows[0] if name.startswith(prefix)]
    classes = classes if len(classes) > 1 else sorted({row["target"] for row in rows})
    counts = np.zeros((len(classes), len(classes)), int)
    for row in rows:
        counts[classes.index(row["target"]), classes.index(row["predicted"])] += 1
    return {"classes": classes, "counts": counts.tolist()}


def _over_seeds(values: Sequence[float | None]) -> dict[str, float | None]:
    known = [value for value in values if value is not None]
    if len(known) < len(values):  # undefined for a seed
        return {"mean": None, "std": None}
    return {
        "mean": statistics.mean(known),
        "std": statistics.stdev(known) if len(known) > 1 else None,
    }


def page(
    entries: Sequence[Mapping[str, Any]], figures: Mapping[int, Sequence[tuple[str, str]]]
) -> str:
    """Format the tables as Markdown, with the figures of each row (path and description)."""
    lines = [
        "# Reference results",
        "",
        "Written by `make reference`. `python benchmarks/reference.py --write-only` writes this"
        " page again from `docs/reference`.",
        "",
        "- Scores are those of the epoch with the best validation score. Several seeds: mean ±"
        " standard deviation.",
        "- Training scores are measured during the epoch, with noise, augmentation and dropout.",
        "- Interval: 95 %, of one run, as in its summary.json: groups of test images (patients,"
        " near-duplicates) count as one, single images on the merged protocol. Several seeds: mean"
        " of both ends.",
        "- Test scores of a run that a later version has measured again (`medvision evaluate RUN`)"
        " are those of that version.",
        "- Without near-duplicate in train: as found by the version that measured the run.",
        "- Published: on the merged protocol for brain MRI, whatever the protocol of the row.",
        "- Time: hours of training and validation of one run, on a shared processor core, pauses"
        " included.",
    ]
    for row, title in ROW_TITLES.items():
        of_row = [entry for entry in entries if entry["row"] == row]
        lines += ["", f"## {row}. {title}", "", *ROW_NOTES[row], "", *_table(of_row)]
        lines += ["", "```", *_commands(of_row), "```"] if any(e["runs"] for e in of_row) else []
        for path, description in figures.get(row, ()):
            lines += ["", f"![{description}]({path})"]
        for entry in of_row:
            lines += _confusion_table(entry)
    return "\n".join(lines) + "\n"


def _table(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    metric = "Dice" if entries[0]["metric"] == "dice" else "accuracy"
    heads = ["network", "protocol", "seeds", f"train {metric}", f"val {metric}", f"test {metric}"]
    heads += ["interval", "test AUROC", "without near-duplicate in train", "published", "time (h)"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for entry in entries:
        published = "" if entry["published"] is None else f"{entry['published']:.4g}"
        runs = entry["runs"]
        seeds = ", ".join(str(run["seed"]) for run in runs)
        open_seeds = ", ".join(str(seed) for seed in entry["open_seeds"])
        seeds = ", ".join(filter(None, [seeds, f"open: {open_seeds}" if open_seeds else ""]))
        cells = [f"{entry['title']}{_variant(entry)}", entry["protocol"], seeds]
        if runs:
            scores, key = entry["scores"], entry["metric"]
            cells += [_spread(scores[f"{stage}/{key}"]) for stage in ("train", "val", "test")]
            cells.append("{:.3f}-{:.3f}".format(*entry["ci95"]))
            cells.append(_spread(scores["test/auroc"]) if "test/auroc" in scores else "")
            without = [r["without_near_duplicate"] for r in runs if "without_near_duplicate" in r]
            shown = f"{statistics.mean(w[key] for w in without):.3f}" if without else ""
            counts = " to ".join(str(n) for n in sorted({w["num_images"] for w in without}))
            cells.append(f"{shown} ({counts} images)" if without else "")
            cells += [published, f"{statistics.mean(run['fit_h'] for run in runs):.1f}"]
        else:
            cells += ["open"] + [""] * 5 + [published, ""]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _variant(entry: Mapping[str, Any]) -> str:
    """Text that names the variant that validation has chosen."""
    if entry["row"] != 3 or not entry["runs"]:
        return ""
    return ", with noise" if "_noise " in entry["runs"][0]["command"] else ", without noise"


def _commands(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    return [entry["runs"][0]["command"] for entry in entries if entry["runs"]]


def _confusion_table(entry: Mapping[str, Any]) -> list[str]:
    if not entry["runs"] or "confusion" not in entry["runs"][0]:
        return []
    run = entry["runs"][0]
    classes, counts = run["confusion"]["classes"], run["confusion"]["counts"]
    heading = f"{entry['title']}{_variant(entry)}, {entry['protocol']}, seed {run['seed']}"
    lines = ["", f"{heading}: test images by true class (rows) and predicted class (columns).", ""]
    lines += [f"| | {' | '.join(classes)} |", "|---" * (len(classes) + 1) + "|"]
    for name, row in zip(classes, counts, strict=True):
        lines.append(f"| {name} | {' | '.join(map(str, row))} |")
    return lines


def _spread(score: Mapping[str, float | None]) -> str:
    mean, deviation = score["mean"], score["std"]
    if mean is None:
        return "undefined"
    return f"{mean:.3f}" + (f" ± {deviation:.3f}" if deviation is not None else "")


if __name__ == "__main__":
    sys.exit(main())
