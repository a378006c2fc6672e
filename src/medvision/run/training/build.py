"""Build the objects that a config names, with errors in one line."""

import functools
import inspect
import logging
import math
import os
import pickle
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import Logger
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle
from torchmetrics import Metric
from typing_extensions import override

from medvision.callbacks import Progress
from medvision.console import counted
from medvision.data import ImageData
from medvision.errors import MedvisionError, first_line
from medvision.evaluation import Evaluation, Score
from medvision.files import check_stored, read_rows, write_table
from medvision.hardware import REHEARSAL, Plan, skip_slow_tpu_probe
from medvision.hardware.processes import num_cores
from medvision.live import live_line
from medvision.metrics import PerImage, mean_interval
from medvision.models import count_parameters, load_weights_strict
from medvision.registry import opening_nothing
from medvision.run.config.compatibility import fixed_threshold
from medvision.run.processes.errors import machine_error
from medvision.run.quick_imports import gc_pause
from medvision.run.storage.run_folder import is_further_process
from medvision.scores import names_at
from medvision.tasks import Task
from medvision.types import IGNORE_INDEX, Stage

MEDVISION_KEYS = ("precision", "memory_format", "accelerator", "deterministic")
"""Trainer keys that the hardware plan resolves."""


def build(node: Any, *, stored: str | None = None, **arguments: Any) -> Any:
    """Instantiate a config node, or return None if it has no ``_target_``.

    Args:
        node: Part of a config.
        stored: File from which the config was read; None for a config that the user wrote.
        **arguments: Further arguments of the class.

    Raises:
        MedvisionError: If the class is unknown or rejects its arguments.
    """
    if node is None or OmegaConf.select(node, "_target_") is None:
        return None
    try:
        opening: AbstractContextManager[None] = nullcontext()
        if stored is not None:
            opening = opening_nothing(OmegaConf.to_container(node), where=stored)
        with gc_pause(), opening:  # may import its class, with timm or smp
            return instantiate(node, _convert_="all", **arguments)
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, MedvisionError):
            raise cause from error
        if cause is not None and (fault := machine_error(cause)) is not None:
            raise fault from error
        where = getattr(error, "full_key", None) or str(node._target_)
        raise MedvisionError(
            f"{node._target_}: {first_line(cause or error)}",
            where=where,
            hint="see its keys with --cfg job",
        ) from error


def build_data(node: Any) -> ImageData:
    """Instantiate the data module, with at most one loader process per core.

    More of them only take turns, and PyTorch warns about it. They change no result.

    Raises:
        MedvisionError: If the class is no ``ImageData``.
    """
    data: ImageData = build(node)
    if not isinstance(data, ImageData):
        raise MedvisionError(
            f"expected a subclass of medvision.data.ImageData, got {type(data).__name__}",
            where="data",
            hint="inherit from medvision.data.SegmentationData or ClassificationData, or use"
            " medvision.tasks with Lightning's own Trainer",
        )
    data.num_workers = min(data.num_workers, num_cores())
    return data


def build_task(
    cfg: DictConfig,
    experiment: str,
    model: nn.Module,
    data: ImageData,
    plan: Plan,
    checkpoint: Path | None,
    *,
    metrics: Mapping[str, Metric],
    stored: str | None = None,
) -> Task:
    """LightningModule of the run, with the weights of ``checkpoint`` if given."""
    metadata = {
        "format": 1,
        "task": data.task,
        "model": _plain_model(cfg, model),
        "architecture": getattr(model, "architecture", type(model).__name__),
        "num_parameters": count_parameters(model),
        **_normalisation(model),
        "class_names": data.class_names,
        "image_size": data.image_size,
        "in_channels": data.in_channels,
        "eval_transforms": OmegaConf.to_container(cfg.data.eval_transforms, resolve=True),
        "threshold": fixed_threshold(cfg),
        "value_range": data.reading.value_range and list(data.reading.value_range),
        "precision": plan.precision,
        "experiment": experiment,
        "dataset": data.name,
        "synthetic": data.synthetic,
    }
    task: Task = build(
        cfg.task,
        model=model,
        loss=build(cfg.loss, stored=stored),
        optimizer=make_optimizer(cfg, plan),
        scheduler=build(cfg.scheduler),
        metadata=MappingProxyType(metadata),  # Hydra would build the classes that a dict names
        **metrics_for(cfg, metrics),
    )
    if checkpoint is not None:
        state = read_checkpoint(checkpoint, max_epochs=cfg.trainer.max_epochs)
        load_weights_strict(task, state["state_dict"], where=f"ckpt_path={checkpoint}")
    return task.to(memory_format=torch.channels_last) if plan.channels_last else task


def build_metrics(cfg: DictConfig, *, stored: str | None = None) -> dict[str, Metric]:
    """Metrics of the group ``metrics`` by name; ignored pixels are left out where a metric can.

    Raises:
        MedvisionError: If something is not a metric, or its name has a slash.
    """
    built: dict[str, Metric] = {}
    for name, node in (cfg.get("metrics") or {}).items():
        where = f"metrics.{name}"
        if node is None:
            continue
        if not isinstance(node, DictConfig) or "_target_" not in node:
            raise MedvisionError("no class is set", where=where, hint=f"set {where}._target_")
        metric = build(node, stored=stored)
        if not isinstance(metric, Metric) or "/" in str(name):
            raise MedvisionError(
                f"expected a torchmetrics.Metric, got {type(metric).__name__}"
                if "/" not in str(name)
                else "the name of a metric must not contain a slash",
                where=where,
                hint="see docs/custom_classes.md",
            )
        _ignore_unlabelled(metric)
        built[str(name)] = metric
    return built


def _ignore_unlabelled(metric: Metric) -> None:
    """Let a metric of torchmetrics ignore what the losses ignore, unless the user said what."""
    for one in metric.modules():
        if isinstance(one, Metric) and getattr(one, "ignore_index", 0) is None:
            one.ignore_index = IGNORE_INDEX


def metrics_for(cfg: DictConfig, metrics: Mapping[str, Metric]) -> dict[str, Any]:
    """Arguments with which a task takes further metrics; none without metrics."""
    if not metrics:
        return {}
    parameters = inspect.signature(get_class(str(cfg.task._target_))).parameters
    return {"metrics" if "metrics" in parameters else "own_metrics": dict(metrics)}


def make_optimizer(cfg: DictConfig, plan: Plan) -> Callable[[Any], Optimizer]:
    """Return the function from parameters to the optimizer, fused where the plan says so.

    Lightning's mixed precision refuses to clip the gradients of a fused optimizer.
    """
    optimizer = build(cfg.optimizer)
    clipped = cfg.trainer.get("gradient_clip_val") is not None and plan.precision.endswith("-mixed")
    if clipped and optimizer.keywords.get("fused"):
        raise MedvisionError(
            f"gradients of a fused optimizer cannot be clipped in {plan.precision}",
            where="optimizer.fused",
            hint="leave it out, or use trainer.precision=32",
        )
    takes_fused = "fused" in inspect.signature(optimizer.func).parameters
    if plan.fused_optimizer and takes_fused and not clipped:
        return functools.partial(optimizer, fused=True)
    return optimizer


def _plain_model(cfg: DictConfig, model: nn.Module) -> dict[str, Any]:
    """Name and arguments to rebuild the network for its saved tensors.

    Not stored under ``_target_``, which Hydra would instantiate.
    """
    arguments: Any = OmegaConf.to_container(cfg.model, resolve=True)
    name = arguments.pop("_target_")
    if not name.startswith("medvision.models."):
        return {"name": name, "arguments": arguments}
    if "weights" in arguments:
        arguments["weights"] = "none"
    if "name" in arguments:  # the network built may differ from the one requested
        arguments["name"] = getattr(model, "name", arguments["name"])
    return {"name": name, "arguments": arguments}


def _normalisation(model: nn.Module) -> dict[str, list[float]]:
    """Mean and standard deviation of each channel used by the network's normalisation.

    Every network has one: ``with_normalization`` adds mean 0 and standard deviation 1.
    """
    buffers = dict(model.named_buffers())
    return {key: buffers[f"normalize.{key}"].flatten().tolist() for key in ("mean", "std")}


def build_trainer(
    cfg: DictConfig,
    plan: Plan,
    *,
    callbacks: Sequence[Callback],
    logger: Logger | None,
    root: Path,
    alone: bool = False,
) -> Trainer:
    """Lightning's trainer for the config and the hardware plan; ``alone``: a single process."""
    if not plan.xla:
        skip_slow_tpu_probe()
    options = {key: value for key, value in cfg.trainer.items() if key not in MEDVISION_KEYS}
    if alone:
        options |= {"devices": 1, "num_nodes": 1, "strategy": "auto"}
    device: dict[str, Any] = {"accelerator": plan.accelerator, "precision": plan.precision}
    if plan.xla:
        from medvision.hardware import xla_trainer  # imports torch-xla

        device = xla_trainer.trainer_options(
            rehearsal=plan.accelerator == REHEARSAL,
            devices=options["devices"],
            precision=plan.precision,
        )
        options = {key: value for key, value in options.items() if key not in device}
    return build(
        OmegaConf.create(options),
        **device,
        deterministic=plan.deterministic,
        callbacks=[*callbacks, *([Progress()] if live_line.is_possible else [])],
        logger=logger or False,
        enable_progress_bar=False,
        default_root_dir=str(root),
        use_distributed_sampler=False,
    )


def measure(
    cfg: DictConfig, plan: Plan, task: Task, data: ImageData, evaluation: Evaluation, stage: Stage
) -> dict[str, Score]:
    """Measure the weights that the task holds on one split, and write its predictions."""
    data.fixed_shapes = plan.xla
    trainer = build_trainer(
        cfg,
        plan,
        callbacks=[evaluation.watch(stage)],
        logger=None,
        root=evaluation.folder,
        alone=True,
    )
    run_loop = {"val": trainer.validate, "test": trainer.test}[stage]
    run_loop(task, datamodule=data, verbose=False)
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    scores = evaluation.scores(stage, logged)
    own = task.own_metrics_of(stage)
    for full, value in logged.items():
        if full.partition("/")[2].partition("/")[0] in own:
            scores.setdefault(full, value if math.isfinite(value) else None)
    for name, metric in own.items():
        if isinstance(metric, PerImage) and metric.values:
            paths = [sample.path for sample in data.tables[stage][: len(metric.values)]]
            scores |= _of_images(
                f"{stage}/{name}", metric, data.groups_of([{"path": p} for p in paths])
            )
            evaluation.note_missing_intervals(stage, scores, only=name)
            table = evaluation.folder / f"predictions_{stage}.csv"
            _add_column(table, name, dict(zip(paths, metric.values, strict=True)))
    return scores


class RefitBatchNorm(Callback):
    """Replace the running statistics of batch norm by those of the validation images.

    They are the means over batches of one pass, whose outputs are those of training.

    Args:
        layers: Layers of batch norm.
    """

    def __init__(self, layers: Sequence[_BatchNorm]) -> None:
        self.layers = layers
        self.before = [layer.momentum for layer in layers]
        self.hooks: list[RemovableHandle] = []

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for layer in self.layers:
            layer.reset_running_stats()
            layer.momentum = None  # the mean over all batches
        self.hooks = [layer.register_forward_pre_hook(_train_if_it_can) for layer in self.layers]

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for hook in self.hooks:
            hook.remove()
        for layer, momentum in zip(self.layers, self.before, strict=True):
            layer.momentum = momentum
            layer.eval()


def _train_if_it_can(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Leave out batches with a single value of each channel, which have no variance."""
    layer.train(inputs[0].numel() > inputs[0].shape[1])


def validate_with_refit(
    cfg: DictConfig, plan: Plan, task: Task, data: ImageData, *, root: Path
) -> dict[str, float]:
    """Validation scores with batch-norm statistics of the validation images.

    Where these are far above the scores of the network as it is, the training images look different
    to batch norm, and the gap between training and validation is not overfitting. See Li et al.,
    Revisiting batch normalization for practical domain adaptation, 2016,
    https://arxiv.org/abs/1603.04779.

    Args:
        cfg: Checked config.
        plan: Hardware plan.
        task: Its weights and statistics are as before afterwards.
        data: Its validation images are used.
        root: Folder of the trainer.

    Returns:
        Those scores that findings look at, by ``val/name``; empty without batch norm.
    """
    layers = [
        module
        for module in task.modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    ]
    if not layers:
        return {}
    before = [{k: v.clone() for k, v in layer.named_buffers()} for layer in layers]
    logged: dict[str, float] = {}
    try:
        for callbacks in ([RefitBatchNorm(layers)], list[Callback]()):
            trainer = build_trainer(
                cfg, plan, callbacks=callbacks, logger=None, root=root, alone=True
            )
            trainer.validate(task, datamodule=data, verbose=False)
            logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    finally:
        for layer, buffers in zip(layers, before, strict=True):
            layer.load_state_dict(buffers, strict=False)
    names = [f"val/{name}" for name in names_at("checked", data.task)]
    return {name: logged[name] for name in names if math.isfinite(logged.get(name, math.nan))}


def _add_column(table: Path, name: str, values: Mapping[str, float]) -> None:
    """Add the value of a metric for each image to the predictions, in a column of its name."""
    if not table.exists():  # a task of the user without predictions
        return
    rows = read_rows(table)
    column = f"metrics.{name}" if rows and name in rows[0] else name
    write_table(table, [{**row, column: values.get(row["path"])} for row in rows])


def _of_images(name: str, metric: PerImage, groups: Sequence[str] | None) -> dict[str, Score]:
    """Interval of the mean over images, and the number of images without a value.

    The range of a metric is the one that torchmetrics draws it in, unless a value lies outside.
    """
    values = metric.values
    numbers = [value for value in values if math.isfinite(value)]
    lower, upper = (getattr(metric.metric, f"plot_{end}_bound", None) for end in ("lower", "upper"))
    ends = mean_interval(
        [value if math.isfinite(value) else math.nan for value in values],
        groups=groups,
        lower=lower if lower is not None and min(numbers, default=lower) >= lower else None,
        upper=upper if upper is not None and max(numbers, default=upper) <= upper else None,
    )
    undefined = sum(not math.isfinite(value) for value in values)
    defined = all(map(math.isfinite, ends))
    found: dict[str, Score] = {f"{name}_ci95": list(ends) if defined else None}
    return found | ({f"{name}_undefined": undefined} if undefined else {})


def read_checkpoint(path: Path, *, max_epochs: int) -> dict[str, Any]:
    """Load a Lightning checkpoint without executing code from it.

    Raises:
        MedvisionError: If it is not a checkpoint, or has no epoch left to train.
    """
    where = f"ckpt_path={path}"
    try:
        check_stored(path)
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise MedvisionError(
            "expected a checkpoint that can be read safely",
            where=where,
            hint="give a best.ckpt or last.ckpt of a medvision run",
        ) from error
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise MedvisionError(
            "not a Lightning checkpoint", where=where, hint="for weights alone use model.weights"
        )
    epochs = int(checkpoint.get("epoch", -1)) + 1
    if epochs >= max_epochs:
        raise MedvisionError(
            f"the checkpoint has {counted(epochs, 'epoch')} of training, but trainer.max_epochs is"
            f" {max_epochs}",
            where=where,
            hint=f"set trainer.max_epochs above {epochs}",
        )
    return checkpoint


def silence_libraries() -> None:
    """Silence Lightning messages without use for the user, and all in further processes."""
    if is_further_process():
        live_line.is_on = False
        logging.disable(logging.ERROR)
        warnings.simplefilter("ignore")
        return
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # MLflow reports every table of a new database, and Lightning that it starts an experiment.
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    logging.getLogger("pytorch_lightning.loggers.mlflow").setLevel(logging.ERROR)
    # Metrics are summed over processes before they are logged.
    warnings.filterwarnings("ignore", message=".*sync_dist=True.*")
    # One or two loader processes are enough if the cores train.
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    # Small data sets have fewer batches than log_every_n_steps; every epoch is logged anyway.
    warnings.filterwarnings("ignore", message=".*number of training batches.*logging interval.*")
    # Lightning's own use of a torch internal.
    warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")
    # The loader skips the finished part of the epoch, which Lightning cannot detect.
    warnings.filterwarnings("ignore", message=".*your dataloader is not resumable.*")
    # Unsafe checkpoints are reported in one line.
    warnings.filterwarnings("ignore", message="Detected pickle protocol")
    # ckpt_path has already been checked against the model.
    warnings.filterwarnings("ignore", message=".*Be aware that when using `ckpt_path`.*")
