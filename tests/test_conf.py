"""Every shipped configuration is composed and run: the files of users, not copies."""

import json
import math
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.errors import ConfigCompositionException
from hydra.utils import get_class, get_method, instantiate
from omegaconf import OmegaConf
from torch import nn

from medvision.data import ImageData
from medvision.errors import MedvisionError
from medvision.run.config.schema import check_config, check_targets
from medvision.run.config.store import CONF, groups, help_text, options, run_name
from medvision.run.training.build import build
from medvision.task_definition import task_names, task_of
from medvision.tasks import Task
from shared_configs import compose_shared

EXPERIMENTS = options("experiment")
OPTIONS = [(group, name) for group in groups() if group != "experiment" for name in options(group)]
OF_HYDRA = [(path.parent.name, path.stem) for path in (CONF / "hydra").glob("*/*.yaml")]
FAMILIES = ("chest_xray_cnn_augmented", "brain_mri_alexnet")
"""Experiments that are trained in every suite besides the shared finished runs.

The others run in `make test-slow`; the tests of options train networks of timm and smp."""

BY_FAMILY = [
    name if name in FAMILIES else pytest.param(name, marks=pytest.mark.slow) for name in EXPERIMENTS
]
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
    found |= {CONF / "data" / "base" / "folder.yaml"}  # what every data set starts from
    found |= {CONF / "hydra" / group / f"{name}.yaml" for group, name in OF_HYDRA}
    assert found == files
    assert {"polyp_unet", "polyp_unet_lite0"} <= set(EXPERIMENTS)


@pytest.mark.parametrize(("group", "name"), OF_HYDRA)
def test_every_launcher_and_sweeper_names_an_existing_class(group: str, name: str) -> None:
    given = [f"hydra/{group}={name}", "experiment=polyp_unet"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", overrides=given, return_hydra_config=True)
    assert isinstance(get_class(cfg.hydra[group]._target_), type)


@pytest.mark.parametrize("experiment", BY_FAMILY)
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


def test_every_option_composes_and_names_existing_classes() -> None:
    found = []
    for number in range(max(len(options(group)) for group in {group for group, _ in OPTIONS})):
        chosen = {
            group: name for group, name in OPTIONS if name in options(group)[number : number + 1]
        }
        cfg = composed("experiment=polyp_unet", *(f"{g}={name}" for g, name in chosen.items()))
        for group, name in chosen.items():
            node = cfg[group]
            assert isinstance(node, dict), (group, name)
            for target in targets_of(node):
                if (group, name) in EXTRAS and "ogger" in target:
                    continue
                get = get_class if target[target.rindex(".") + 1].isupper() else get_method
                get(target)
            found.append((group, name))
    assert sorted(found) == sorted(OPTIONS)


def targets_of(node: object) -> list[str]:
    if not isinstance(node, dict):
        return []
    own = [node["_target_"]] if node.get("_target_") else []
    return own + [target for child in node.values() for target in targets_of(child)]


LOSSES, SCHEDULES = options("loss"), options("scheduler")


@pytest.mark.parametrize("kind", task_names())
def test_the_definition_of_a_task_lists_every_loss_that_fits(kind: str) -> None:
    fitting = []
    for name in LOSSES:
        cfg = OmegaConf.create(composed(f"experiment={kind}", f"loss={name}", "data.num_classes=2"))
        cfg.data.class_names = cfg.task.class_names = ["no", "yes"]
        cfg.task.pop("mixing", None)  # soft labels are for cross-entropy only
        task: Task = build(cfg.task, model=nn.Identity(), loss=build(cfg.loss), optimizer=None)
        try:
            losses = [float(task.loss(*example)) for example in task.loss_examples()]
        except Exception:  # losses for other targets raise various errors
            continue
        assert all(map(math.isfinite, losses)), name
        fitting.append(name)
    assert list(task_of(kind).losses) == fitting


@pytest.mark.parametrize(
    "override",
    [
        *(pytest.param(f"loss={name}", marks=pytest.mark.slow) for name in LOSSES),
        *(pytest.param(f"scheduler={name}", marks=pytest.mark.slow) for name in SCHEDULES),
        "loss=bce_dice scheduler=plateau callbacks=early_stopping trainer=debug",
        "loss=focal scheduler=cosine optimizer=adamw trainer=auto logger=tensorboard",
        pytest.param(
            "data=folder_segmentation model=smp_unet model.encoder=resnet18",
            marks=pytest.mark.slow,
        ),
        pytest.param("data=kvasir_seg data.root=null", marks=pytest.mark.slow),
    ],
)
def test_every_option_runs_a_batch(train: Callable[..., Path], override: str) -> None:
    small = "" if "smp" in override else "model.base_channels=2"
    limits = ("trainer.limit_train_batches=1", "trainer.limit_val_batches=1", "data.num_images=12")
    run = train("experiment=polyp_unet", *limits, *override.split(), *small.split())
    assert (run / "checkpoints" / "best.ckpt").exists()


@pytest.mark.parametrize(
    "override",
    [
        pytest.param("model=alexnet", marks=pytest.mark.slow),
        pytest.param("model=timm_classifier", marks=pytest.mark.slow),
        "model=efficientnet_b0 model.weights=packaged callbacks=finetuning",
        "loss=bce loss.class_weights=balanced loss.label_smoothing=0.1 data.protocol=merged",
        pytest.param(
            "loss=focal data=folder_classification data.protocol=kfold data.sampler=balanced",
            marks=pytest.mark.slow,
        ),
        pytest.param("data=chest_xray data.protocol=grouped", marks=pytest.mark.slow),
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
def test_every_data_set_draws_phantoms_without_a_root(name: str) -> None:
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


def test_configs_that_tests_share_are_those_of_hydra(monkeypatch: pytest.MonkeyPatch) -> None:
    values = ["data.root=/some/folder", "seed=3", "checkpoint.mode=null", "data.class_names=[a,b]"]
    given = ["experiment=brain_mri_alexnet", "seed=2", "logger=csv", *values]

    def result(overrides: list[str]) -> object:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            try:
                cfg = compose("train", overrides=overrides, return_hydra_config=True)
            except ConfigCompositionException as error:
                return str(error), str(error.__cause__)
        return OmegaConf.to_container(cfg), OmegaConf.is_struct(cfg), OmegaConf.is_readonly(cfg)

    commands = [
        given,
        [*given, "data.rot=x"],
        [*given, "rot=x"],
        ["experiment=polyp_unte", *values],
    ]
    of_hydra = [result(command) for command in commands]
    monkeypatch.setattr(ConfigLoaderImpl, "_load_configuration_impl", compose_shared)
    assert [result(command) for command in commands] == of_hydra
    assert result(given) == of_hydra[0]  # unchanged by the values of earlier commands


@cache
def network_of(node: str) -> nn.Module:
    """Build the network of a node in JSON; many experiments share one."""
    return build(OmegaConf.create(json.loads(node)))


def models_to_run() -> list[Any]:
    """Each model with one experiment of each task, and with all of them if tests may be slow."""
    both = ("segmentation", "classification")
    few = [pytest.param(model, both, id=model) for model in options("model")]
    slow = pytest.mark.slow
    return few + [
        pytest.param(model, EXPERIMENTS, id=f"{model}, all", marks=slow)
        for model in options("model")
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("model", "experiments"), models_to_run())
def test_every_experiment_runs_with_every_model_of_its_task(
    model: str, experiments: Sequence[str]
) -> None:
    """The shape of the logits shows the task of a model. Weights are not downloaded."""
    small = ("data.image_size=64", "data.num_classes=3", "data.class_names=[a,b,c]")
    run = set()
    for experiment in experiments:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = compose("train", overrides=[f"experiment={experiment}", f"model={model}", *small])
        check_config(cfg)
        if cfg.model.get("weights") == "imagenet":
            cfg.model.weights = "none"
        network = network_of(json.dumps(OmegaConf.to_container(cfg.model, resolve=True)))
        images = torch.randint(0, 256, (2, cfg.data.in_channels, 64, 64), dtype=torch.uint8)
        of_pixels = network(images).ndim == 4
        if of_pixels != (cfg.task._target_ == "medvision.tasks.SegmentationTask"):
            continue
        parts = {key: build(cfg[key]) for key in ("loss", "optimizer", "scheduler")}
        if cfg.task.get("backbone_lr_factor", 1.0) != 1.0 and model in (
            "unet",
            "unet_small",
            "monai",
        ):
            with pytest.raises(MedvisionError, match=r"has no backbone .* leave it at 1\.0"):
                build(cfg.task, model=network, **parts)
            cfg.task.backbone_lr_factor = 1.0
        task: Task = build(cfg.task, model=network, **parts)
        target = torch.ones((2, 64, 64) if of_pixels else 2, dtype=torch.uint8)
        assert torch.isfinite(task.loss(task(images), target))
        assert isinstance(task._make_optimizer(), torch.optim.Optimizer)
        run.add(experiment)
    assert len(run & {"segmentation", "classification"}) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "experiment",
    [
        name
        if name in ("polyp_unet", "chest_xray_cnn")
        else pytest.param(name, marks=pytest.mark.slow)
        for name in EXPERIMENTS
    ],
)
def test_every_experiment_takes_every_choice(experiment: str) -> None:
    changed = ("optimizer", "scheduler", "callbacks", "loss", "logger", "trainer")
    for number in range(max(len(options(group)) for group in changed)):
        chosen = [f"{group}={options(group)[number % len(options(group))]}" for group in changed]
        with initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = compose("train", overrides=[f"experiment={experiment}", *chosen])
        check_targets(cfg)


@pytest.mark.parametrize(
    ("experiment", "root", "name"),
    [
        ("segmentation", None, "segmentation"),
        ("segmentation", "/data/Kvasir SEG (v2)/", "segmentation-Kvasir-SEG-v2"),
        ("classification", "s3://bucket/brain/?token=abc", "classification-brain"),
        ("classification", 2024, "classification-2024"),
        ("segmentation", "/", "segmentation-data"),
        ("segmentation", "/data/\u65e5\u672c", "segmentation-data"),
        ("polyp_unet", "/data/kvasir", "polyp_unet"),
    ],
)
def test_runs_on_any_data_are_named_after_its_folder(
    experiment: str, root: object, name: str
) -> None:
    assert run_name(experiment, root) == name


def test_runs_on_a_user_folder_are_named_after_it(
    train: Callable[..., Path],
    make_folder: Callable[..., Path],
    summary_of: Callable[[Path], dict],
) -> None:
    small = ("model=unet", "model.base_channels=2")
    run = train("experiment=segmentation", *small, f"data.root={make_folder(name='my set')}")
    assert run.parent.name == "segmentation-my-set"
    assert summary_of(run)["experiment"] == "segmentation"


def test_help_names_every_choice_and_experiment() -> None:
    text = help_text()
    for experiment in EXPERIMENTS:
        assert f"  {experiment} " in text
    for group, name in OPTIONS:
        assert f"{group}=" in text
        assert name in text


def test_help_lists_what_a_folder_of_the_command_adds(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\n# My own set.\n")
    (tmp_path / "loss").mkdir()
    (tmp_path / "loss" / "own.yaml").write_text("_target_: own.Loss\n")
    for given in (["--config-dir", str(tmp_path)], [f"--config-dir={tmp_path}"]):
        lines = help_text([*given, "--help"]).splitlines()
        assert lines[lines.index(f"Experiments of {tmp_path}") + 1] == "  mine  My own set."
        assert lines[lines.index(f"Choices of {tmp_path} (key=option)") + 1] == "  loss=        own"
        assert "Experiments" in lines
    assert f"No configuration in {tmp_path / 'none'}" in help_text(["-cd", str(tmp_path / "none")])


def test_files_contain_no_tabs_and_parse_as_yaml() -> None:
    for path in CONF.rglob("*.yaml"):
        assert "\t" not in path.read_text()
        yaml.safe_load(path.read_text())
