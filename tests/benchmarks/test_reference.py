"""The order, resuming and tables of benchmarks/reference.py, with a stand-in for train.py."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "reference.py"


def _load() -> Any:
    spec = importlib.util.spec_from_file_location("reference", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


reference = _load()

TRAIN = """
import json, pathlib, signal, sys, time
given = dict(word.split("=", 1) for word in sys.argv[1:])
with open("calls.jsonl", "a") as stream:
    stream.write(json.dumps(sys.argv[1:]) + "\\n")
folder = pathlib.Path(given.get("resume") or given["run_dir"])
folder.mkdir(exist_ok=True)
part = json.loads(pathlib.Path("finished.json").read_text())
def write(status):
    config = f"run_dir: {folder}\\ndata:\\n  root: {given['data.root']}\\n"
    environment = {"command": " ".join(["train.py", *sys.argv[1:]])}
    (folder / "config.yaml").write_text(config)
    (folder / "environment.json").write_text(json.dumps(environment))
    (folder / "splits.csv").write_text("path,split\\n")
    for name, text in part["files"].items():
        (folder / name).write_text(text)
    summary = {**part["summary"], "experiment": given.get("experiment", "resumed")}
    (folder / "summary.json").write_text(json.dumps({**summary, "status": status}))
def stop(*_):
    write("interrupted")
    sys.exit(143)
signal.signal(signal.SIGTERM, stop)
if pathlib.Path("slow").exists():
    write("running")
    time.sleep(60)
write("finished")
"""

PREDICTIONS = (
    "path,target,predicted,probability/a,probability/b\n"
    "test/a/1.png,a,a,0.87654321,0.12345679\n"
    "test/b/2.png,b,a,0.5000000001,0.4999999999\n"
)
METRICS = "epoch,train/loss,train/confusion/a/a,val/accuracy,lr\n0,0.123456789,1.0,0.5,0.001\n"


def _summary(
    *, val: float = 0.5, test: float = 0.5, half: float = 0.25, seed: int = 0, fingerprint: str = ""
) -> dict[str, Any]:
    return {
        "experiment": "brain_mri_cnn",
        "seed": seed,
        "task": "classification",
        "dataset": {"num_images": {"test": 2}, "test_fingerprint": fingerprint},
        "epochs": 1,
        "best_epoch": 0,
        "timing": {"fit_s": 7200.0},
        "warnings": [],
        "audit": {"leaks": []},
        "metrics": {
            "train/accuracy": 0.9,
            "train/confusion/a/a": 1.0,
            "val/accuracy": val,
            "val/auroc": 0.75,
            "test/accuracy": test,
            "test/accuracy_ci95": [test - half, test + half],
            "test/recall/a_ci95": [0.1, 0.9],
            "test/auroc": 0.8123456789,
        },
    }


@pytest.fixture
def settings(tmp_path: Path) -> Any:
    """Settings with a stand-in for train.py, and data folders that are never read."""
    code, runs, docs = (tmp_path / name for name in ("code", "runs", "docs"))
    for folder in (code, runs, docs):
        folder.mkdir()
    (code / "train.py").write_text(TRAIN)
    files = dict.fromkeys(("predictions_test.csv", "predictions_val.csv"), PREDICTIONS)
    finished = {"files": {**files, "metrics.csv": METRICS}, "summary": _summary()}
    (runs / "finished.json").write_text(json.dumps(finished))
    data = {name: tmp_path / "data" / name for name in reference.DATA_NAMES}
    return reference.Settings(data=data, runs=runs, code=code, docs=docs)


def _calls(settings: Any) -> list[list[str]]:
    path = settings.runs / "calls.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _leave(settings: Any, name: str, status: str) -> Path:
    """Write the run folder of a training with a given status."""
    folder: Path = settings.runs / name
    folder.mkdir()
    (folder / "config.yaml").write_text(f"run_dir: {folder}\ndata:\n  root: {folder.parent}\n")
    (folder / "environment.json").write_text("{}")
    (folder / "splits.csv").write_text("path,split\n")
    for table in ("predictions_test.csv", "predictions_val.csv"):
        (folder / table).write_text(PREDICTIONS)
    (folder / "metrics.csv").write_text(METRICS)
    (folder / "summary.json").write_text(json.dumps({**_summary(), "status": status}))
    return folder


def _result(settings: Any, name: str, summary: dict[str, Any], text: str = PREDICTIONS) -> None:
    folder = settings.results(name)
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "predictions_test.csv").write_text(text)
    (folder / "metrics.csv").write_text(METRICS)


def test_rows_come_in_order_and_seeds_before_entries() -> None:
    names = [run.name for run in reference.planned_runs()]
    assert names[:4] == ["1_cnn_0", "1_lite0_0", "1_alexnet_0", "1_cnn_1"]
    assert names[9:12] == ["2_cnn_noise_0", "2_lite0_noise_0", "2_alexnet_noise_0"]
    assert names[18:20] == ["4_original_0", "4_augmented_0"]
    assert names[-1] == "5_unet_0"
    assert len(names) == len(set(names)) == 25
    assert [run.name for run in reference.planned_runs([5, 2])] == [*names[9:12], "5_unet_0"]


@pytest.mark.parametrize("run", reference.planned_runs(), ids=lambda run: run.name)
def test_each_recipe_composes(run: Any) -> None:
    suffixes = [""] if run.entry.experiment else ["", "_noise"]
    for suffix in suffixes:
        network = next((n for n in reference.NETWORKS if n.name in run.entry.name), None)
        experiment = run.entry.experiment or f"{network.experiment}{suffix}"
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            cfg = compose("train", reference.arguments(run, experiment))
        assert cfg.seed == run.seed
        assert cfg.data.protocol == ("official" if run.entry.row > 3 else run.entry.protocol)
        assert cfg.optimizer.lr == (1e-3 if run.entry.row < 4 else 1e-4)


def test_finished_runs_are_skipped_and_their_results_are_copied(settings: Any) -> None:
    _leave(settings, "4_original_0", "finished")
    runs = reference.planned_runs([4])[:2]
    assert reference.train_all(runs, settings) == 0
    (call,) = _calls(settings)
    assert "experiment=chest_xray_cnn_augmented" in call
    assert f"run_dir={settings.runs / '4_augmented_0'}" in call
    for run in runs:
        assert (settings.results(run.name) / "summary.json").is_file()
    assert reference.train_all(runs, settings) == 0
    assert len(_calls(settings)) == 1


@pytest.mark.parametrize("status", ["running", "interrupted", "failed"])
def test_an_unfinished_run_is_resumed(settings: Any, status: str) -> None:
    folder = _leave(settings, "1_cnn_0", status)
    assert reference.train_all(reference.planned_runs([1])[:1], settings) == 0
    (call,) = _calls(settings)
    assert call[0] == f"resume={folder}"
    assert not any(word.startswith(("experiment=", "seed=", "run_dir=")) for word in call)


def test_a_folder_without_a_config_is_started_again(settings: Any) -> None:
    folder = settings.runs / "1_cnn_0"
    (folder / "plots").mkdir(parents=True)
    assert reference.train_all(reference.planned_runs([1])[:1], settings) == 0
    (call,) = _calls(settings)
    assert call[0] == "experiment=brain_mri_cnn"
    assert not (folder / "plots").exists()


def test_runs_with_results_are_skipped_on_request(settings: Any) -> None:
    _result(settings, "1_cnn_0", _summary())
    runs = reference.planned_runs([1])[:1]
    assert reference.train_all(runs, settings, missing_only=True) == 0
    assert _calls(settings) == []
    assert reference.train_all(runs, settings) == 0
    assert len(_calls(settings)) == 1


def test_the_variant_is_chosen_by_validation_never_by_test(settings: Any) -> None:
    (run,) = [run for run in reference.planned_runs([3]) if run.name == "3_cnn_grouped_0"]
    _result(settings, "1_cnn_0", _summary(val=0.8, test=0.99))
    assert reference.choose_experiment(run.entry, settings) is None
    assert reference.train_all([run], settings) == 1
    assert _calls(settings) == []
    noise = {**_summary(val=0.9, test=0.1), "experiment": "brain_mri_cnn_noise"}
    _result(settings, "2_cnn_noise_0", noise)
    assert reference.choose_experiment(run.entry, settings) == "brain_mri_cnn_noise"
    assert reference.train_all([run], settings) == 0
    assert _calls(settings)[0][:2] == ["experiment=brain_mri_cnn_noise", "data.protocol=grouped"]


def test_copies_are_compact_and_name_no_folder(settings: Any, tmp_path: Path) -> None:
    (run,) = reference.planned_runs([5])
    finished = json.loads((settings.runs / "finished.json").read_text())
    table = "path,dice\na.png,0.123456789\n"
    finished["files"] |= {"predictions_test.csv": table, "predictions_val.csv": table}
    finished["summary"] |= {"task": "segmentation"}
    scores = {f"{stage}/dice": 0.5 for stage in ("train", "val", "test")}
    finished["summary"]["metrics"] |= {**scores, "test/dice_ci95": [0.4, 0.6]}
    (settings.runs / "finished.json").write_text(json.dumps(finished))
    assert reference.train_all([run], settings) == 0
    folder = settings.results(run.name)
    assert (folder / "predictions_test.csv").read_text() == "path,dice\na.png,0.12346\n"
    assert (folder / "metrics.csv").read_text() == (
        "epoch,train/loss,val/accuracy,lr\n0,0.12346,0.5,0.001\n"
    )
    assert (folder / "config.yaml").read_text() == "run_dir: RUN\ndata:\n  root: KVASIR\n"
    command = json.loads((folder / "environment.json").read_text())["command"]
    assert command.endswith("data.root=KVASIR data.num_workers=1 run_dir=RUN")
    metrics = json.loads((folder / "summary.json").read_text())["metrics"]
    assert metrics["test/auroc"] == 0.81235
    assert metrics.keys().isdisjoint({"train/confusion/a/a", "test/recall/a_ci95"})
    files = [path for path in settings.docs.rglob("*") if path.is_file()]
    assert not any(str(tmp_path).encode() in path.read_bytes() for path in files)


def test_a_run_of_another_checkout_is_copied_without_its_folder(
    settings: Any, tmp_path: Path
) -> None:
    run = _leave(settings, "4_original_0", "finished")
    commands = [f"python {tmp_path / name / 'train.py'} seed=0" for name in ("older", "newer")]
    started = {"command": commands[0], "resumed": [{"command": commands[1]}]}
    (run / "environment.json").write_text(json.dumps(started))
    assert reference.collected(run, settings)
    text = (settings.results("4_original_0") / "environment.json").read_text()
    started = json.loads(text)
    assert [started["command"], started["resumed"][0]["command"]] == [
        "python ./train.py seed=0"
    ] * 2


def test_scores_of_a_later_evaluation_replace_those_of_the_training(settings: Any) -> None:
    run = _leave(settings, "4_original_0", "finished")
    measured = run / "evaluation" / "test"
    measured.mkdir(parents=True)
    (measured / "predictions_test.csv").write_text(PREDICTIONS.replace("0.87654321", "0.75"))
    twins = {"without_twin": {"num_images": 1, "accuracy": 0.25}}
    (measured / "summary.json").write_text(
        json.dumps({"metrics": {"test/auroc": 0.9, "val/accuracy": 0.1}, "twins": twins})
    )
    assert reference.collected(run, settings)
    folder = settings.results("4_original_0")
    copied = json.loads((folder / "summary.json").read_text())
    assert copied["twins"] == twins
    metrics = copied["metrics"]
    assert (metrics["test/auroc"], metrics["test/accuracy"], metrics["val/accuracy"]) == (
        0.9,
        0.5,
        0.5,
    )
    assert ",0.75," in (folder / "predictions_test.csv").read_text()
    assert ",0.75," not in (folder / "predictions_val.csv").read_text()


def test_a_folder_of_this_machine_is_refused() -> None:
    assert reference.without_paths("root: /data/x", {"/data/x": "BRAIN"}) == "root: BRAIN"
    with pytest.raises(ValueError, match="/home/me/x"):
        reference.without_paths("root: /home/me/x", {})


@pytest.mark.draws
def test_tables_give_mean_deviation_interval_and_open_seeds(settings: Any) -> None:
    right = PREDICTIONS.replace("b,a,", "b,b,")
    _result(settings, "4_original_0", _summary(test=0.5))
    _result(settings, "4_original_1", _summary(test=1.0, half=0.5, seed=1), right)
    reference.write_tables(settings)
    entries = json.loads((settings.docs / "reference.json").read_text())
    (entry,) = [entry for entry in entries if entry["name"] == "original"]
    assert entry["open_seeds"] == [2]
    assert entry["published"] == 0.758
    assert entry["scores"]["test/accuracy"] == {"mean": 0.75, "std": 0.35355}
    assert entry["ci95"] == [0.375, 1.125]  # ends of 0.25 to 0.75 and of 0.5 to 1.5, averaged
    assert entry["num_test_images"] == 2
    assert entry["runs"][0]["confusion"] == {"classes": ["a", "b"], "counts": [[1, 0], [1, 0]]}
    assert entry["runs"][0]["fit_h"] == 2.0
    text = (settings.docs / "reference.md").read_text()
    for kind in ("curves", "roc"):
        assert f"](reference/row_4_{kind}.png)" in text
        assert (settings.docs / "reference" / f"row_4_{kind}.png").stat().st_size > 1000
    assert "row_5" not in text  # no run is finished
    assert "| 0, 1, open: 2 | 0.900 ± 0.000 | 0.500 ± 0.000 | 0.750 ± 0.354 |" in text
    assert "| U-Net, 16 base channels, 256 px | given | open: 0 | open |" in text
    first = text, (settings.docs / "reference.json").read_text()
    reference.write_tables(settings)
    assert first == (text, (settings.docs / "reference.json").read_text())


def test_legends_begin_with_the_protocol_where_a_row_has_several(
    settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    names: dict[str, list[str]] = {}

    def draw(groups: Any, **words: Any) -> None:
        names.setdefault(groups[0].name, [group.name for group in groups])

    monkeypatch.setattr(reference, "draw_rocs", draw)
    monkeypatch.setattr(reference, "draw_validation", draw)
    for run in ("1_cnn_0", "1_alexnet_0", "3_cnn_grouped_0", "3_cnn_official_0"):
        _result(settings, run, _summary())
    reference.write_tables(settings)
    first, third = names.values()
    assert first == ["Simple CNN, 150 px", "AlexNet, 224 px"]
    assert third == ["grouped: Simple CNN", "official: Simple CNN"]


def test_the_roc_is_that_of_the_second_of_two_classes_or_the_mean_over_classes(
    tmp_path: Path,
) -> None:
    table = tmp_path / "two.csv"
    table.write_text(
        "target,probability/a,probability/b\na,0.9,0.1\nb,0.4,0.6\na,0.3,0.7\nb,0.2,0.8\n"
    )
    false, true = reference._roc(table)
    assert np.trapezoid(true, false) == 0.75  # three of four pairs in order
    table.write_text(
        "target,probability/a,probability/b,probability/c\n"
        "a,0.8,0.1,0.1\nb,0.3,0.4,0.3\nc,0.4,0.5,0.1\n"
    )
    false, true = reference._roc(table)
    assert np.trapezoid(true, false) == pytest.approx((1 + 0.5 + 0.25) / 3)


def test_seeds_with_other_test_images_are_refused(settings: Any) -> None:
    _result(settings, "4_original_0", _summary())
    _result(settings, "4_original_1", _summary(seed=1, fingerprint="other"))
    with pytest.raises(ValueError, match="same test images"):
        reference.write_tables(settings)


@pytest.mark.slow
def test_a_stop_signal_ends_the_training_and_a_second_start_resumes_it(settings: Any) -> None:
    slow = settings.runs / "slow"
    slow.touch()
    folders = ["--runs", settings.runs, "--code", settings.code, "--docs", settings.docs]
    words = [sys.executable, SCRIPT, "--brain", settings.runs, *folders, "--only", "1"]
    first = subprocess.Popen([str(word) for word in words], stdout=subprocess.DEVNULL)
    summary = settings.runs / "1_cnn_0" / "summary.json"
    try:
        deadline_s = time.monotonic() + 30
        while not summary.exists() and time.monotonic() < deadline_s:
            time.sleep(0.05)
        first.send_signal(signal.SIGTERM)
        assert first.wait(30) == 143
    finally:
        first.kill()
        first.wait()
    assert json.loads(summary.read_text())["status"] == "interrupted"
    slow.unlink()
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [str(word) for word in words], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    calls = _calls(settings)
    assert calls[1][0] == f"resume={settings.runs / '1_cnn_0'}"
    assert len(calls) == 10
