"""The same search and the same plain multirun on launchers that start further processes."""

import csv
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLUGINS = {"ray_local": "hydra_ray_launcher", "submitit_local": "hydra_submitit_launcher"}
RAY = ("+hydra.launcher.ray.init.num_cpus=2",)


def train(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
    return subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )


@pytest.fixture
def small(small: tuple[str, ...]) -> tuple[str, ...]:
    """Small runs that read with loader processes."""
    return tuple(override for override in small if not override.startswith("data.num_workers"))


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(params=["joblib", "ray_local", "submitit_local"])
def launcher(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """Overrides that choose a launcher."""
    name = str(request.param)
    plugin = f"hydra_plugins.{PLUGINS.get(name, 'hydra_joblib_launcher')}"
    if importlib.util.find_spec(plugin) is None:
        pytest.skip(f"{plugin} is not installed")
    return (f"hydra/launcher={name}", *(RAY if name == "ray_local" else ()))


@pytest.mark.slow
def test_a_search_of_two_jobs_at_a_time_ends_all_its_trials(
    tmp_path: Path, small: tuple[str, ...], launcher: tuple[str, ...]
) -> None:
    command = ("sweep=random", "sweep.name=a", "sweep.num_trials=4", "sweep.jobs=2")
    keys = ("optimizer.lr=tag(log,interval(1e-5,1e-2))", "model.base_channels=2")
    done = train(tmp_path, *command, *keys, *small, "experiment=polyp_unet", *launcher)
    assert done.returncode == 0, done.stderr
    found = rows(tmp_path / "runs" / "sweep" / "a" / "trials.csv")
    assert [row["state"] for row in found] == ["complete"] * 4
    for number in range(4):
        summary = tmp_path / "runs" / "sweep" / "a" / str(number) / "summary.json"
        assert json.loads(summary.read_text())["sealed"]


@pytest.mark.slow
def test_runs_of_a_plain_multirun_share_its_tables(
    tmp_path: Path, small: tuple[str, ...], launcher: tuple[str, ...]
) -> None:
    given = ("-m", "experiment=polyp_unet", "seed=0,1", "model.base_channels=2", *small)
    done = train(tmp_path, *given, *launcher)
    assert done.returncode == 0, done.stderr
    (base,) = (tmp_path / "runs" / "multirun").iterdir()
    (group,) = rows(base / "multirun_summary.csv")
    assert (group["runs"], group["failed"], group["seeds"]) == ("2", "0", "0 1")
    assert sorted(path.name for path in base.iterdir()) == [
        "0_polyp_unet",
        "1_polyp_unet",
        "multirun_runs.csv",
        "multirun_summary.csv",
    ]


@pytest.mark.slow
def test_an_error_of_a_run_in_another_process_is_reported_here(
    tmp_path: Path, small: tuple[str, ...], launcher: tuple[str, ...]
) -> None:
    given = ("-m", "experiment=polyp_unet", "seed=0,1", *small, "data.root=nowhere")
    done = train(tmp_path, *given, *launcher)
    assert done.returncode == 2
    assert done.stderr.count("error: nowhere does not exist (data.root); give the folder") == 2
    assert not (tmp_path / "runs").exists()
