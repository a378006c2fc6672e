"""A further task is one package and one yaml file; everything else works unchanged."""

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

ROOT = Path(__file__).parents[2]

PACKAGE = '''
"""Several numbers of each image, learned by regression."""

from functools import partial

import numpy as np
import torch
from torch import nn
from torchmetrics import Metric

from medvision.callbacks import Outputs
from medvision.data import ImageData
from medvision.evaluation import Evaluation
from medvision.files import write_table
from medvision.metrics import mean_interval
from medvision.reports.page import Table
from medvision.reports.task_report import Section, TaskReport
from medvision.scores import OF_A_RUN, OF_SEVERAL_RUNS, Score
from medvision.task_definition import TaskDefinition, define_task
from medvision.tasks import Task

SCORES = (
    Score(
        name="mae",
        title="mean absolute error",
        unit="years",
        definition="Distance of the predicted ages from the true ones, averaged over the bones.",
        better="lower",
        bounded=False,
        places=(*OF_A_RUN, *OF_SEVERAL_RUNS, "tile", "checked"),
        per_image=True,
    ),
)

define_task(
    TaskDefinition(
        kind="bone_age",
        evaluation="bone_age:BoneAgeEvaluation",
        scores="bone_age:SCORES",
        report="bone_age:BoneAgeReport",
    )
)


class BoneAgeData(ImageData):
    task = "bone_age"

    def __init__(self, *, bones, **common):
        super().__init__(**common)
        self.bones = list(bones)

    def targets_of(self, samples):
        return np.array([text.split() for text in samples.targets], np.float32)


class MeanError(Metric):
    def __init__(self, bones):
        super().__init__()
        self.bones = bones
        self.add_state("total", torch.zeros(len(bones)), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, output, target):
        known = ~target.isnan()
        self.total += torch.where(known, (output - target).abs(), 0).sum(dim=0)
        self.count += known.all(dim=1).sum()

    def compute(self):
        error = self.total / self.count
        return {"mae": error.mean()} | {f"mae/{b}": e for b, e in zip(self.bones, error)}


class BoneAgeTask(Task):
    kind = "bone_age"

    def __init__(self, *, bones, **common):
        super().__init__(metrics=partial(MeanError, list(bones)), **common)


class KnownHuber(nn.Module):
    def forward(self, output, target):
        known = ~target.isnan()
        return nn.functional.huber_loss(output[known], target[known])


class BoneAgeEvaluation(Evaluation):
    def __init__(self, *, folder, data):
        super().__init__(folder=folder)
        self.data, self.watched = data, {}

    @classmethod
    def of_run(cls, *, folder, data, options, finished=None):
        return cls(folder=folder, data=data)

    def watch(self, stage):
        return self.watched.setdefault(stage, Outputs())

    def scores(self, stage, logged):
        seen, samples = self.watched[stage], self.data.tables[stage]
        error = np.abs(seen.logits - seen.target).mean(axis=1)
        rows = [
            {
                "path": samples[row].path,
                "target": samples[row].target,
                "predicted": " ".join(f"{age:.6g}" for age in ages),
                "mae": float(own),
            }
            for row, ages, own in zip(seen.index, seen.logits, error)
        ]
        write_table(self.folder / f"predictions_{stage}.csv", rows)
        ends = mean_interval(error, groups=self.data.groups_of(rows), upper=20)  # years
        return {**logged, f"{stage}/mae_ci95": list(ends)}

    def details(self):
        seen = self.watched.get("test")  # the split of a search stays sealed
        return {} if seen is None else {"bias": (seen.logits - seen.target).mean(axis=0).tolist()}

    def plot(self, history):
        from medvision.reports.plots.style import write_curves

        if history:
            synthetic = self.data.synthetic
            write_curves(self.folder, task="bone_age", history=history, synthetic=synthetic)


class BoneAgeReport(TaskReport):
    def sections(self, run):
        biases = zip(run.config["data"]["bones"], run.summary.get("bias", ()))
        rows = [[bone, f"{bias:+.2f}"] for bone, bias in biases]
        table = Table(caption="Predicted less true age", head=["Bone", "Years"], rows=rows)
        return [Section(title="Bias of the ages", tables=[table])]
'''

CONFIG = """
# @package _global_
defaults:
  - override /data: base/folder
  - override /model: simple_cnn
  - override /task: null
  - override /loss: null
trust: bone_age
data:
  _target_: bone_age.BoneAgeData
  name: hands
  in_channels: 1
  bones: [carpal, distal, radius]
model:
  num_classes: 3
task:
  _target_: bone_age.BoneAgeTask
  bones: ${data.bones}
loss:
  _target_: bone_age.KnownHuber
checkpoint:
  monitor: val/mae
"""

NUM_IMAGES = 48
SMALL = (
    "experiment=bone_age",
    "data.root=hands",
    "data.image_size=32",
    "data.batch_size=8",
    "data.num_workers=0",
    "data.val_fraction=0.25",
    "data.test_fraction=0.25",
    "model.base_channels=4",
    "trainer=cpu",
    "trainer.max_epochs=2",
    "logger=csv",
)

Run = Callable[..., subprocess.CompletedProcess[str]]


def draw_hands(root: Path) -> None:
    """Draw images whose brightness is the age, with three values; the second equals the first."""
    (root / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    ages = rng.uniform(1, 18, (NUM_IMAGES, 3)).round(1)
    rows = []
    for number, (top, left, right) in enumerate(ages):
        image = rng.normal(100, 8, (40, 40))
        image[:20] += 4 * top
        image[20:, :20] += 4 * left
        image[20:, 20:] += 4 * right
        name = f"images/{number:03d}.png"
        if number == 1:
            shutil.copyfile(root / rows[0][0], root / name)
        else:
            cv2.imwrite(str(root / name), image.clip(0, 255).astype(np.uint8))
        rows.append((name, f"{top} {left} {right}"))
    with (root / "splits.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([("path", "target"), *rows])


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Run a program in a folder that holds the package, the yaml file and the images."""
    folder = tmp_path_factory.mktemp("third")
    (folder / "conf" / "experiment").mkdir(parents=True)
    (folder / "conf" / "experiment" / "bone_age.yaml").write_text(CONFIG)
    (folder / "bone_age.py").write_text(PACKAGE)
    draw_hands(folder / "hands")
    own = {
        "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(folder)]),
        "MEDVISION_STATE_DIR": str(folder / "state"),
        "MEDVISION_CACHE_DIR": str(folder / "cache"),
        "COLUMNS": "200",
    }

    def run(*words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        program = [str(ROOT / "train.py")]
        if words[0] == "medvision":
            program, words = ["-c", "from medvision.cli import main; main()"], words[1:]
        done = subprocess.run(
            [sys.executable, *program, *words],
            cwd=folder,
            env={**os.environ, **own},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stderr
        return done

    run.folder = folder  # type: ignore[attr-defined]
    return run


@pytest.fixture(scope="module")
def trained(command: Run) -> tuple[Path, str]:
    """Folder of two runs that differ in their seed, and what the command printed."""
    screen = command("-m", "--config-dir=conf", "seed=0,1", "optimizer.lr=3e-2", *SMALL).stdout
    (base,) = (command.folder / "runs" / "multirun").iterdir()  # type: ignore[attr-defined]
    return base, screen


def folders(base: Path, *numbers: int) -> Sequence[str]:
    return [str(base / f"{number}_bone_age") for number in numbers]


def summary_of(run: str | Path) -> dict:
    return json.loads((Path(run) / "summary.json").read_text())


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.slow
def test_training_writes_a_whole_run_folder(trained: tuple[Path, str]) -> None:
    base, _ = trained
    run = Path(folders(base, 1)[0])
    summary = summary_of(run)
    assert (summary["status"], summary["task"]) == ("finished", "bone_age")
    assert "threshold" not in summary
    low, high = summary["metrics"]["test/mae_ci95"]
    assert 0 < low < summary["metrics"]["test/mae"] < high < 18
    assert len(summary["bias"]) == 3
    history = rows_of(run / "metrics.csv")
    assert list(history[0])[:5] == ["epoch", "train/loss", "val/loss", "train/mae", "val/mae"]
    assert summary["best_epoch"] == min((0, 1), key=lambda epoch: float(history[epoch]["val/mae"]))
    tested = rows_of(run / "predictions_test.csv")
    assert np.mean([float(row["mae"]) for row in tested]) == pytest.approx(
        summary["metrics"]["test/mae"], rel=1e-5
    )
    splits = rows_of(run / "splits.csv")
    assert len(splits) == NUM_IMAGES
    assert {row["path"]: row["target"] for row in splits}.items() >= {
        (row["path"], row["target"]) for row in tested
    }
    assert (run / "config.yaml").is_file()


@pytest.mark.slow
def test_the_report_has_its_score_its_curve_and_its_section(trained: tuple[Path, str]) -> None:
    run = Path(folders(trained[0], 1)[0])
    page = (run / "report.html").read_text()
    reported = summary_of(run)["metrics"]["test/mae"]
    assert f"reaches a mean absolute error of {reported:.1f} years" in page
    assert "Distance of the predicted ages from the true ones" in page
    section = page[page.index('<section id="own-bias-of-the-ages"') :]
    assert "carpal" in section[: section.index("</section>")]
    assert (run / "plots" / "mae.png").is_file()
    assert "Positive class" not in page


@pytest.mark.slow
def test_the_audit_names_checks_that_do_not_apply_and_runs_the_others(
    command: Run, trained: tuple[Path, str]
) -> None:
    warnings = summary_of(folders(trained[0], 0)[0])["warnings"]
    assert any("the targets are neither classes nor masks" in warning for warning in warnings)
    assert any("1 pair of identical images has contradicting targets" in w for w in warnings)
    screen = command("medvision", "audit", "hands", code=1).stdout
    assert f"hands: numbers, {NUM_IMAGES} images" in screen
    assert "contradicting targets" in screen


@pytest.mark.slow
def test_several_runs_share_tables_in_the_score_of_the_task(trained: tuple[Path, str]) -> None:
    base, screen = trained
    assert "bone_age: mean ± standard deviation over the runs" in screen
    assert "each run's test mae" in screen
    (row,) = rows_of(base / "multirun_summary.csv")
    scores = [summary_of(run)["metrics"]["test/mae"] for run in folders(base, 0, 1)]
    assert float(row["test/mae_mean"]) == pytest.approx(np.mean(scores))
    assert [row["seed"] for row in rows_of(base / "multirun_runs.csv")] == ["0", "1"]


@pytest.mark.slow
def test_evaluate_needs_trust_and_gives_the_same_scores(
    command: Run, trained: tuple[Path, str]
) -> None:
    (run,) = folders(trained[0], 0)
    reported = command("medvision", "evaluate", run, code=2).stderr
    assert (
        "unknown task 'bone_age' in summary.json, name its package with --trust PACKAGE" in reported
    )
    assert reported.startswith("error: ")
    assert reported.count("\n") == 1
    assert "reproduced: " in command("medvision", "evaluate", run, "--trust", "bone_age").stdout


@pytest.mark.slow
def test_an_interrupted_run_is_continued_with_trust(
    command: Run, trained: tuple[Path, str], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(folders(trained[0], 0)[0], run)
    before = summary_of(run)
    (run / "checkpoints" / "last.ckpt").unlink()  # the one after the first epoch stays
    stopped = {**before, "status": "interrupted", "metrics": {}}
    (run / "summary.json").write_text(json.dumps(stopped))
    reported = command(f"resume={run}", code=2).stderr
    assert "if you know the package bone_age and trust it, add trust=bone_age" in reported
    assert "after 1 epoch" in command(f"resume={run}", "trust=bone_age").stdout
    assert summary_of(run)["metrics"] == before["metrics"]


@pytest.mark.slow
def test_compare_prefers_the_lower_error(command: Run, trained: tuple[Path, str]) -> None:
    command("--config-dir=conf", "optimizer.lr=1e-6", "run_dir=poor", *SMALL)
    runs = ["poor", *folders(trained[0], 0, 1)]
    reported = command("medvision", "compare", *runs, code=2).stderr
    assert reported == (
        "error: unknown task 'bone_age' (task); name the package that defines it with"
        " --trust PACKAGE\n"
    )
    command("medvision", "compare", *runs, "--trust", "bone_age")
    written = command.folder / "comparison"  # type: ignore[attr-defined]
    (pair,) = json.loads((written / "comparison.json").read_text())["pairs"]
    found = pair["metrics"]["mae"]
    assert found["b"] < found["a"]
    assert found["difference"] < 0
    assert found["probability_b_better"] > 0.9
    assert pair["winner"] == 2
    assert pair["claim"].index("optimizer.lr=0.03") < pair["claim"].index("optimizer.lr=1e-06")
    assert (written / "comparison.html").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("mode", [(), ("-m", "seed=0,1")])
def test_a_package_that_cannot_be_imported_ends_in_one_line(
    command: Run, mode: Sequence[str]
) -> None:
    reported = command("--config-dir=conf", *mode, *SMALL, "trust=bone_ages", code=2).stderr
    assert set(reported.splitlines()) == {
        "error: bone_ages cannot be imported: No module named 'bone_ages' (trust);"
        " name an installed package, or one on PYTHONPATH"
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("predict", "{run}", "hands", "--out", "out"), "the task bone_age defines no result"),
        (
            ("export", "{run}", "--format=onnx"),
            "expected a task with classes, got bone_age",
        ),
    ],
)
def test_a_command_that_the_task_does_not_support_ends_in_one_line(
    command: Run, trained: tuple[Path, str], words: Sequence[str], why: str
) -> None:
    (run,) = folders(trained[0], 0)
    given = [word.format(run=run) for word in words]
    reported = command("medvision", *given, "--trust", "bone_age", code=2).stderr
    assert reported.startswith(f"error: {why}")
    assert reported.count("\n") == 1
    assert not (command.folder / "out").exists()  # type: ignore[attr-defined]
