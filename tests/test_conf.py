"""Every shipped configuration is composed and run: the files users run, not twins of them."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.utils import get_class, get_method, instantiate
from omegaconf import OmegaConf

from medvision.data import ImageData
from medvision.run.config.schema import check_config
from medvision.run.config.store import CONF, groups, help_text, options

EXPERIMENTS = options("experiment")
OPTIONS = [(group, name) for group in groups() if group != "experiment" for name in options(group)]
OF_HYDRA = [(path.parent.name, path.stem) for path in (CONF / "hydra").glob("*/*.yaml")]
EXTRAS = {("logger", "wandb"), ("logger", "mlflow"), ("trainer", "gpu"), ("trainer", "tpu")}


def composed(*overrides: str) -> dict[str, object]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", overrides=list(overrides))
    cfg.run_dir = "somewhere"
    return OmegaConf.to_container(cfg, resolve=True)


def test_the_collector_finds_every_file() -> None:
    files = {path for path in CONF.rglob("*.yaml") if path != CONF / "train.yaml"}
    found = {CONF / group / f"{name}.yaml" for group, name in OPTIONS}
    found |= {CONF / "experiment" / f"{name}.yaml" for name in EXPERIMENTS}
    found |= {CONF / "hydra" / group / f"{name}.yaml" for group, name in OF_HYDRA}
    assert found == files
    assert {"polyp_unet", "polyp_unet_lite0"} <= set(EXPERIMENTS)


@pytest.mark.parametrize(("group", "name"), OF_HYDRA)
def test_every_launcher_and_sweeper_names_a_class_that_is_there(group: str, name: str) -> None:
    given = [f"hydra/{group}={name}", "experiment=polyp_unet"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", overrides=given, return_hydra_config=True)
    assert isinstance(get_class(cfg.hydra[group]._target_), type)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_trains_one_epoch_on_phantoms(
    train: Callable[..., Path], summary_of: Callable[[Path], dict], experiment: str
) -> None:
    run = train(f"experiment={experiment}", "trainer.limit_train_batches=2", "data.num_images=12")
    summary = summary_of(run)
    assert summary["experiment"] == experiment
    assert summary["status"] == "finished"
    score = {"segmentation": "test/dice", "classification": "test/accuracy"}[summary["task"]]
    assert 0 <= summary["metrics"][score] <= 1
    assert summary["dataset"]["synthetic"]


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_opens_with_command_cost_and_expectation(experiment: str) -> None:
    lines = (CONF / "experiment" / f"{experiment}.yaml").read_text().splitlines()
    assert lines[0] == "# @package _global_"
    header = "\n".join(line for line in lines if line.startswith("#"))
    assert f"python train.py experiment={experiment}" in header
    assert "#   cost " in header
    assert "#   expect " in header


@pytest.mark.parametrize(("group", "name"), OPTIONS)
def test_every_option_composes_and_names_what_exists(group: str, name: str) -> None:
    node = composed("experiment=polyp_unet", f"{group}={name}")[group]
    assert isinstance(node, dict)
    for target in targets_of(node):
        if (group, name) in EXTRAS and "ogger" in target:
            continue
        if target[target.rindex(".") + 1].isupper():
            get_class(target)
        else:
            get_method(target)


def targets_of(node: object) -> list[str]:
    if not isinstance(node, dict):
        return []
    own = [node["_target_"]] if node.get("_target_") else []
    return own + [target for child in node.values() for target in targets_of(child)]


LOSSES, SCHEDULES = options("loss"), options("scheduler")


@pytest.mark.parametrize(
    "override",
    [
        *(f"loss={name}" for name in LOSSES),
        *(f"scheduler={name}" for name in SCHEDULES),
        "optimizer=adamw",
        "callbacks=early_stopping",
        "trainer=auto",
        "trainer=debug",
        "logger=tensorboard",
        "data=folder_segmentation",
        "data=kvasir_seg data.root=null",
        "model=smp_unet model.encoder=resnet18",
    ],
)
def test_every_option_runs_a_batch(train: Callable[..., Path], override: str) -> None:
    small = "" if "smp" in override else "model.base_channels=2"
    limits = ("trainer.limit_train_batches=1", "trainer.limit_val_batches=1", "data.num_images=12")
    if "smp" in override:  # polyp_unet sets keys of its own network
        limits = (*limits, "~model.base_channels", "~model.batch_norm")
    run = train("experiment=polyp_unet", *limits, *override.split(), *small.split())
    assert (run / "checkpoints" / "best.ckpt").exists()


@pytest.mark.parametrize(
    "override",
    [
        "model=alexnet",
        "model=timm_classifier",
        "model=efficientnet_b0 model.weights=packaged callbacks=finetuning",
        "loss=focal",
        "loss=bce loss.class_weights=balanced loss.label_smoothing=0.1",
        "data=folder_classification data.protocol=kfold data.sampler=balanced",
        "data=chest_xray data.protocol=grouped",
        "data=brain_mri data.protocol=merged",
    ],
)
def test_every_option_of_classification_runs_a_batch(
    train: Callable[..., Path], override: str
) -> None:
    limits = ("trainer.limit_train_batches=1", "trainer.limit_val_batches=1")
    small = () if "model" in override else ("model.base_channels=2",)
    run = train(
        "experiment=brain_mri_cnn", "data.num_images=40", *limits, *small, *override.split()
    )
    assert (run / "checkpoints" / "best.ckpt").exists()


@pytest.mark.parametrize("name", options("data"))
def test_every_data_set_draws_phantoms_where_no_root_is_given(name: str) -> None:
    small = ("image_size=32", "num_images=40", "batch_size=4", "num_workers=0", "root=null")
    node = composed("experiment=polyp_unet", f"data={name}", *(f"data.{key}" for key in small))
    data: ImageData = instantiate(node["data"], _convert_="all")
    data.prepare()
    assert data.synthetic
    batch = next(iter(data.train_dataloader()))
    assert batch["image"].shape == (4, data.in_channels, 32, 32)


def test_checked_values_pass_for_every_experiment() -> None:
    for experiment in EXPERIMENTS:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            check_config(compose("train", overrides=[f"experiment={experiment}"]))


def test_help_names_every_choice_and_experiment() -> None:
    text = help_text()
    for experiment in EXPERIMENTS:
        assert f"  {experiment} " in text
    for group, name in OPTIONS:
        assert f"{group}=" in text
        assert name in text


def test_files_hold_no_tabs_and_parse_as_yaml() -> None:
    for path in CONF.rglob("*.yaml"):
        assert "\t" not in path.read_text()
        yaml.safe_load(path.read_text())
