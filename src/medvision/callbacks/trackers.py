"""TensorBoard, Weights & Biases and MLflow: what each gets besides the values of the epochs.

Scalars, hyper-parameters and the name of the run go to every logger. Pictures, report and
checkpoint are data of patients: they stay on this machine, unless the user asks for the upload.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_fabric.loggers.logger import rank_zero_experiment
from lightning_utilities.core.rank_zero import rank_zero_only
from pytorch_lightning.loggers import Logger, TensorBoardLogger
from typing_extensions import override

from medvision.errors import MedvisionError, first_line
from medvision.files import check_writable, file_errors


class LateTensorBoard(TensorBoardLogger):
    """Lightning's TensorBoard logger, with a writer created at the first write.

    Lightning creates the writer before the fit, which takes a second or more of imports. Arguments
    and files are those of ``pytorch_lightning.loggers.TensorBoardLogger``.
    """

    @property
    @override
    @rank_zero_experiment
    def experiment(self) -> Any:
        """Writer, or a placeholder that is replaced at the first use."""
        return _Writer(self) if self._experiment is None else self._experiment

    def writer(self) -> Any:
        """Writer, created if there is none."""
        return TensorBoardLogger.experiment.__get__(self)

    @override
    @rank_zero_only
    def save(self) -> None:
        """Flush the writer, if anything was written."""
        if self._experiment is not None:
            super().save()


class _Writer:
    """``SummaryWriter`` that is created on first access."""

    def __init__(self, logger: LateTensorBoard) -> None:
        self._logger = logger

    def __getattr__(self, name: str) -> Any:
        return getattr(self._logger.writer(), name)


def name_of_run(target: str, label: str) -> dict[str, str]:
    """Argument that names a run after its folder; none for a logger that lies in the run folder.

    Args:
        target: Class of the logger.
        label: Last parts of the run folder, such as ``polyp_unet/2026-11-29_14-00-00``.
    """
    keys = {"WandbLogger": "name", "MLFlowLogger": "run_name"}
    key = keys.get(target.rpartition(".")[2])
    return {} if key is None else {key: label}


def _is_a(logger: Logger, name: str) -> bool:
    """Tell the class of a logger by its name, without importing its library."""
    return any(kind.__name__ == name for kind in type(logger).__mro__)


def is_local(logger: Logger) -> bool:
    """Return True if what the logger gets stays on this machine."""
    if _is_a(logger, "TensorBoardLogger"):
        return "://" not in str(logger.save_dir)
    if _is_a(logger, "MLFlowLogger"):
        address = str(getattr(logger, "_tracking_uri", "") or "")
        scheme = address.partition(":")[0] if ":" in address else "file"
        return scheme in ("file", "sqlite") and not address.startswith("databricks")
    return False


ANSWER_S = 10
"""Longest wait for the answer of a server, before anything is trained."""


def check_start(logger: Logger, run: Path) -> None:
    """Check, before a run has a folder, that its logger can start.

    Its folder is created, unless that is the one of the run, and its server must answer.

    Args:
        logger: Logger of Lightning, for TensorBoard, Weights & Biases, MLflow or csv files.
        run: Run folder, which may not exist yet.

    Raises:
        MedvisionError: If the logger cannot start.
    """
    place = _folder_of(logger)
    if place is not None and run.absolute() not in (place.absolute(), *place.absolute().parents):
        hint = "give a writable folder, or leave the logger out with logger=csv"
        with file_errors("cannot create the folder of the logger", place, hint=hint, exit_code=2):
            place.mkdir(parents=True, exist_ok=True)
        check_writable(place, hint=hint)
    try:
        if _is_a(logger, "MLFlowLogger"):
            _ask_mlflow(logger)
        elif _is_a(logger, "WandbLogger"):
            _ask_wandb(logger)
    except Exception as error:  # of any library below
        name = "MLflow" if _is_a(logger, "MLFlowLogger") else "Weights & Biases"
        raise MedvisionError(
            f"{name} cannot start: {first_line(error)}",
            where="logger",
            hint="check its keys and its server, or leave it out with logger=csv",
        ) from error


def _folder_of(logger: Any) -> Path | None:
    """Return the folder that a logger writes to, if it is on this machine."""
    if _is_a(logger, "MLFlowLogger"):
        scheme, colon, rest = str(logger._tracking_uri).partition(":")
        if scheme == "sqlite":
            return Path(rest.removeprefix("///")).parent
        if colon and scheme != "file":
            return None
        return Path(rest.removeprefix("//") if colon else scheme)
    place = getattr(logger, "save_dir", None)
    return None if place is None or "://" in str(place) else Path(place)


def _ask_mlflow(logger: Any) -> None:
    """Ask for the experiment, with few tries: MLflow itself repeats a question for minutes."""
    limits = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": str(ANSWER_S)}
    before = {name: os.environ.get(name) for name in limits}
    os.environ |= {name: value for name, value in limits.items() if before[name] is None}
    try:
        logger._mlflow_client.get_experiment_by_name(logger._experiment_name)
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)


def _ask_wandb(logger: Any) -> None:
    """Log in, unless the run stays on this machine."""
    import wandb

    if not logger._offline and os.environ.get("WANDB_MODE") not in ("offline", "disabled"):
        wandb.login(verify=True, timeout=ANSWER_S)


def picture_loggers(loggers: Iterable[Logger], *, upload: bool) -> list[Logger]:
    """Loggers that can hold pictures, and may."""
    known = ("TensorBoardLogger", "WandbLogger", "MLFlowLogger")
    return [
        logger
        for logger in loggers
        if any(_is_a(logger, name) for name in known) and (upload or is_local(logger))
    ]


def write_picture(logger: Logger, name: str, png: bytes, *, epoch: int) -> None:
    """Write a PNG to a logger that can hold pictures.

    Args:
        logger: One of ``picture_loggers``.
        name: Group and name, such as ``val_pictures/roc``.
        png: The file, which TensorBoard stores as it is.
        epoch: Epoch, from 1.
    """
    if _is_a(logger, "TensorBoardLogger"):
        _tensorboard_picture(logger, name, png, epoch)
        return
    from PIL import Image

    picture = Image.open(io.BytesIO(png)).convert("RGB")
    if _is_a(logger, "WandbLogger"):
        logger.log_image(key=name, images=[picture])  # type: ignore[attr-defined]
    else:
        kept: Any = logger
        file = f"{name}/epoch_{epoch:04d}.png"
        kept.experiment.log_image(kept.run_id, picture, artifact_file=file)


def _tensorboard_picture(logger: Any, name: str, png: bytes, epoch: int) -> None:
    from PIL import Image
    from tensorboard.compat.proto.summary_pb2 import Summary

    width, height = Image.open(io.BytesIO(png)).size
    image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=png)
    summary = Summary(value=[Summary.Value(tag=name, image=image)])
    logger.experiment._get_file_writer().add_summary(summary, epoch)


def grouped(stage: str, values: Mapping[str, float]) -> dict[str, float]:
    """Names of the scores of single classes in a tracker: a group of their own.

    Confusion matrices are left out: they are pictures there, and numbers in ``metrics.csv``.

    Args:
        stage: ``train``, ``val`` or ``test``.
        values: By name without the stage, such as ``recall/glioma``.
    """
    return {
        f"{stage}_by_class/{name}": value
        for name, value in values.items()
        if not name.startswith("confusion/")
    }


TRACKED = (
    *("experiment", "seed", "model", "loss", "optimizer", "scheduler", "task", "trainer"),
    *("data.image_size", "data.batch_size", "data.protocol", "data.fold", "data.sampler"),
)
"""Parts of a config that are hyper-parameters of a run."""


def hyper_parameters(config: Mapping[str, Any]) -> dict[str, Any]:
    """Plain values of a config by dotted key, without those that only name files or classes."""
    found: dict[str, Any] = {}

    def add(key: str, node: Any) -> None:
        if isinstance(node, Mapping):
            for name, below in node.items():
                add(f"{key}.{name}", below)
        elif isinstance(node, str | int | float | bool):
            is_class = key.endswith("._target_")
            found[key.removesuffix("._target_")] = (
                str(node).rpartition(".")[2] if is_class else node
            )

    for part in TRACKED:
        first, _, last = part.partition(".")
        add(part, (config.get(first) or {}).get(last) if last else config.get(part))
    return found


def write_results(
    logger: Logger,
    folder: Path,
    *,
    summary: Mapping[str, Any],
    config: Mapping[str, Any],
    upload: bool,
) -> None:
    """Write what is known after a run: test scores, and report, plots and checkpoint if they may.

    Args:
        logger: Logger of the fit.
        folder: Run folder.
        summary: Content of ``summary.json``.
        config: Content of ``config.yaml``.
        upload: If True, files may leave this machine.
    """
    scores = _test_scores(summary["metrics"])
    if _is_a(logger, "TensorBoardLogger") and scores:
        chosen = hyper_parameters(config)
        logger.log_hyperparams(chosen, scores)  # also the page HPARAMS
    elif scores:
        logger.log_metrics(scores)
    if picture_loggers([logger], upload=upload):
        epoch = int(summary["best_epoch"] or 0) + 1
        plots = sorted((folder / "plots").glob("*.png"))
        if _is_a(logger, "TensorBoardLogger"):
            for path in plots:
                if path.stem in _OF_TEST:
                    png = path.read_bytes()
                    write_picture(logger, f"test_pictures/{path.stem}", png, epoch=epoch)
        else:
            files = [folder / "report.html", folder / "checkpoints" / "best.ckpt", *plots]
            _write_files(logger, folder, [path for path in files if path.is_file()])
    logger.finalize("success")


_OF_TEST = ("roc", "precision_recall", "confusion", "calibration", "test_images")
"""Plots of test images; the others are curves over epochs, which a tracker draws itself."""


def _test_scores(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Defined test scores, those of single classes in a group of their own."""
    known = {
        name.removeprefix("test/"): float(value)
        for name, value in metrics.items()
        if name.startswith("test/") and isinstance(value, int | float)
    }
    names = sorted((name for name in known if "/" not in name), key=lambda name: name == "loss")
    main = {f"test/{name}": known[name] for name in names}
    return main | grouped("test", {n: v for n, v in known.items() if "/" in n})


def _write_files(logger: Any, folder: Path, files: Sequence[Path]) -> None:
    if _is_a(logger, "WandbLogger"):
        for path in files:
            logger.experiment.save(str(path), base_path=str(folder), policy="now")
        return
    for path in files:
        below = path.parent.relative_to(folder)
        place = None if below == Path() else str(below)
        logger.experiment.log_artifact(logger.run_id, str(path), place)
