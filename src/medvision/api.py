"""The functions that ``import medvision`` offers: the commands, for scripts and notebooks.

Results are returned, and written to the same files as by the commands; what the commands print is
printed. Every function raises `MedvisionError`, with one line that says what to do, for a mistake
in its arguments, files or data.
"""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from medvision.errors import MedvisionError, Stopped

if TYPE_CHECKING:  # slow to import
    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from medvision.audit.check import Audit
    from medvision.comparison.compare import Comparison
    from medvision.inference.model import Model

PathLike = Path | str
Packages = str | Sequence[str] | None


def load_model(path: PathLike, *, model: nn.Module | None = None, trust: Packages = None) -> Model:
    """Load a trained model for prediction; nothing in the file is executed.

    Args:
        path: A run folder (its best checkpoint), or a ``.ckpt``, ``.safetensors`` or ``.onnx``
            file. A checkpoint may come from Lightning's own trainer, if the task was trained on
            square images in uint8 or in [0, 1].
        model: Network that the weights belong to, for a class that medvision does not know; filled
            in place. None builds the network that the file names.
        trust: Packages whose classes the file may name, as ``--trust`` of the commands.

    Returns:
        A model: ``predict(image)`` takes a file, a Pillow image, or uint8 (H, W), (H, W, 1) or
        (H, W, 3) in [0, 255], of any size. The result of a segmentation has ``mask``, class indices
        uint8 (H, W), and ``probability``, float32 (H, W) of the foreground in [0, 1]; that of a
        classification ``predicted``, the name of the class, and ``probability`` by name.

    Raises:
        MedvisionError: If the file cannot be read, is not a model, or names a class that is neither
            known nor trusted.

    Example:
        >>> model = medvision.load_model("runs/polyp_unet/2026-11-21_21-47-17")
        >>> model.predict("images/a.jpg").mask.shape
        (352, 352)
    """
    _trust(trust)
    from medvision.inference.model import load_model as load

    return load(path, model=model)


def train(
    experiment: str,
    *overrides: str,
    config_dir: PathLike | None = None,
    trust: Packages = None,
) -> Path:
    """Train and test a model, as ``medvision train experiment=NAME KEY=VALUE...`` does.

    Args:
        experiment: Name of the experiment, such as ``polyp_unet``.
        *overrides: Keys and values as on the command line, such as ``"data.root=my data"``.
        config_dir: Folder with further experiments and options, as ``--config-dir``.
        trust: Packages that are imported first and whose classes the config may name.

    Returns:
        The run folder, with ``summary.json``, ``report.html`` and ``checkpoints/best.ckpt``.

    Raises:
        MedvisionError: If a key, a value or the data is wrong, or the training fails; its
            ``exit_code`` is that of the command.
        KeyboardInterrupt: After Ctrl-C; the state of the run is saved, and ``resume=`` continues.

    Example:
        >>> run = medvision.train("polyp_unet", "data.root=kvasir_seg", "trainer.max_epochs=5")
        >>> medvision.evaluate(run)["metrics"]["test/dice"]
    """
    packages = _trust(trust)
    from medvision.run.main import run_command
    from medvision.run.processes.signals import handle_signals
    from medvision.run.storage.test_seal import searches

    other = next((option for option in overrides if not isinstance(option, str)), None)
    if other is not None:
        raise MedvisionError(
            f"expected overrides as texts, got {type(other).__name__}",
            where="train",
            hint='write each as on the command line: train("classification", "data.root=my data")',
        )
    given = [f"experiment={experiment}", *overrides]
    if any(option.startswith("-") for option in overrides) or searches(given):
        raise MedvisionError(
            "expected the overrides of one run",
            where="train",
            hint="start several runs in a loop, and a search with medvision train",
        )
    if packages:
        given.append(f"trust=[{','.join(packages)}]")
    if config_dir is not None:
        given[:0] = ["--config-dir", str(config_dir)]
    runs: list[Path] = []
    with _unchanged_process(), warnings.catch_warnings():
        try:
            with handle_signals():
                run_command(given, made=runs)
        except Stopped as stopped:
            if stopped.signum == signal.SIGINT:
                raise KeyboardInterrupt from None
            raise SystemExit(stopped.exit_code) from None
    (run,) = runs
    return run


def evaluate(
    run: PathLike,
    *,
    data: PathLike | None = None,
    split: Literal["test", "val", "all"] | None = None,
    out: PathLike | None = None,
    conventions: bool = False,
    accelerator: str | None = None,
    keys: Mapping[str, Any] | None = None,
    trust: Packages = None,
) -> dict[str, Any]:
    """Measure a finished run on its own test images or on another data set.

    Writes predictions, plots and a report, and prints the scores. Every evaluation on test images
    is counted in ``runs/test_ledger.csv``.

    Args:
        run: Run folder.
        data: Folder or address of another data set of the same kind; None for the run's own.
        split: Split to measure; None for ``test``, or ``all`` if ``data`` has no test split.
        out: Folder for the results; None for ``RUN/evaluation/<split or name of data>``.
        conventions: If True, also score the predictions by the conventions of other tools.
        accelerator: ``cpu``, ``gpu`` or ``tpu``; None for that of the run.
        keys: Keys of ``data`` that say how another data set is read, such as
            ``{"mask_suffix": "_mask"}``.
        trust: Packages whose classes the run may name.

    Returns:
        Content of ``summary.json`` in that folder. ``["metrics"]`` maps ``test/dice`` to a number
        (None where undefined) and ``test/dice_ci95`` to [low, high].

    Raises:
        MedvisionError: If the run, the data or the folder cannot be used.
    """
    _trust(trust)
    from medvision.run.evaluation.evaluate import evaluate_run

    with warnings.catch_warnings():
        return evaluate_run(
            Path(run),
            root=data,
            split=split,
            out=None if out is None else Path(out),
            conventions=conventions,
            accelerator=accelerator,
            keys=keys,
        )


def compare(
    runs: Sequence[PathLike], *, out: PathLike = "comparison", trust: Packages = None
) -> Comparison:
    """Compare finished runs on the same test images; runs that differ in the seed form a group.

    Args:
        runs: Run folders, at least two; differences are relative to the group of the first.
        out: Folder for ``comparison.html``, ``.json`` and ``.csv``.
        trust: Packages that define the task of the runs.

    Returns:
        The groups with mean and spread, and the pairs of groups with paired 95 % intervals and
        p-values; ``to_dict()`` gives plain values.

    Raises:
        MedvisionError: If a folder is no finished run, or the runs cannot be compared.
    """
    _trust(trust)
    from medvision.comparison.compare import compare as compare_runs

    return compare_runs([Path(run) for run in runs], out=Path(out))


def audit_dataset(
    root: PathLike,
    *,
    against: PathLike | None = None,
    group_pattern: str | None = None,
    mask_suffix: str = "",
    num_classes: int = 2,
    keys: Mapping[str, Any] | None = None,
    out: PathLike | None = None,
) -> Audit:
    """Check a data set for duplicates, leaks, contradicting labels and shortcuts.

    Nothing is written into ``root``.

    Args:
        root: Class folders, or a folder with ``images`` and ``masks``.
        against: Test set to compare with ``root``, its training set.
        group_pattern: Regular expression whose first group is the patient in a path.
        mask_suffix: Suffix of the mask names, such as ``_mask``.
        num_classes: Classes in the masks, including the background.
        keys: Keys of ``data`` that say how the folder is read, such as ``{"annotator": "1stHO"}``.
        out: Folder for ``audit.json`` and ``audit.html``; None writes nothing.

    Returns:
        The findings, the most severe first, with ``verdict``, ``exit_code`` (1 for a leak or a
        conflict) and ``to_dict()``, the content of ``audit.json``.

    Raises:
        MedvisionError: If a folder has neither layout, or no file in it can be used.
    """
    import time

    from medvision.audit.check import audit
    from medvision.audit.dataset import scan
    from medvision.audit.report import check_out, write_audit
    from medvision.data.discovery.keys import folder_keys

    started = time.perf_counter()
    roots = [Path(path).expanduser() for path in (root, against) if path is not None]
    if out is not None:
        check_out(Path(out), roots)
    with _arguments_in_errors():
        data = scan(
            Path(root),
            against=None if against is None else Path(against),
            group_pattern=group_pattern,
            keys=folder_keys({"mask_suffix": mask_suffix, **(keys or {})}),
            num_classes=num_classes,
            group_by=(keys or {}).get("group_by"),
        )
    found = audit(data, started=started)
    if out is not None:
        write_audit(found, Path(out))
    return found


def read_image(
    path: PathLike,
    *,
    channels: Literal[1, 3] | None = None,
    value_range: tuple[float, float] | None = None,
) -> NDArray[np.uint8]:
    """Read an image as training does.

    EXIF orientation is applied, and transparent pixels are composited over black.

    Args:
        path: A JPEG, PNG, BMP, TIFF or DICOM file.
        channels: 1 for grey by luma, 3 for red, green, blue; None for those of the file.
        value_range: Values shown as black and white, for files of more than 8 bits; None for the
            smallest and the largest value of the image, or the window of a DICOM file.

    Returns:
        uint8 (H, W, C) in [0, 255].

    Raises:
        MedvisionError: If the file cannot be read completely.
    """
    from medvision.data.readers.images import read_image as read

    with _arguments_in_errors():
        return read(Path(path).expanduser(), channels=channels, value_range=value_range)


def read_mask(
    path: PathLike,
    *,
    num_classes: int = 2,
    color_map: Sequence[tuple[int, int, int]] | None = None,
) -> NDArray[np.uint8]:
    """Read a mask as training does.

    Args:
        path: A JPEG, PNG, BMP or TIFF file. Of two classes, the values 0 and 1 are class indices
            and others are thresholded at half of the range; of more, the values or palette indices
            are class indices.
        num_classes: Number of classes K, including the background.
        color_map: Red, green and blue of each class, for coloured masks.

    Returns:
        Class indices, uint8 (H, W) in [0, K).

    Raises:
        MedvisionError: If the file cannot be read completely, or has values outside the classes.
    """
    from medvision.data.readers.images import read_mask as read

    with _arguments_in_errors():
        return read(Path(path).expanduser(), num_classes=num_classes, color_map=color_map)


def _trust(packages: Packages) -> list[str]:
    """Let files name classes of these packages; return their names."""
    from medvision.registry import trust

    names = [packages] if isinstance(packages, str) else list(packages or [])
    trust(names)
    return names


@contextmanager
def _unchanged_process() -> Iterator[None]:
    """Restore the command line and the environment of the caller's program."""
    argv, environment = list(sys.argv), dict(os.environ)
    try:
        yield
    finally:
        sys.argv = argv
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ.update({k: v for k, v in environment.items() if os.environ.get(k) != v})


ARGUMENTS = {
    "data.group_pattern": "group_pattern",
    "data.mask_suffix": "mask_suffix",
    "data.class_names": "num_classes",
    "data.color_map": "color_map",
    "data.value_range": "value_range",
    "data.root": "root",
}
"""Config keys that errors of shared code name, and the argument for each."""


@contextmanager
def _arguments_in_errors() -> Iterator[None]:
    """Name arguments instead of config keys in errors."""
    try:
        yield
    except MedvisionError as error:
        for key, argument in ARGUMENTS.items():
            error.what = error.what.replace(key, argument)
            error.where = error.where and error.where.replace(key, argument)
            error.hint = error.hint and error.hint.replace(key, argument)
        raise
