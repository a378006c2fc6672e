"""Export a model: choose images, write under a temporary name, check, rename."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from medvision.errors import MedvisionError, install_command
from medvision.files import (
    atomic_path,
    check_writable,
    file_errors,
    read_plain,
    read_regular,
    write_atomically,
)
from medvision.inference.load import METADATA_KEY, find_model, is_demo, unfinished_note
from medvision.inference.model_card import ModelCard
from medvision.reports.published_card import MARK, published_card
from medvision.reports.run_files import RunFiles
from medvision.task_definition import task_of

Format = Literal["onnx", "safetensors"]

PACKAGES = ("onnx", "onnxruntime", "onnxscript")
"""Packages required for ONNX."""


@dataclass(frozen=True, kw_only=True)
class Exported:
    """Result of an export, with its check.

    Attributes:
        path: The file.
        largest_difference: Largest absolute difference of logits between the file and PyTorch in
            float32.
        same_percent: Share of pixels (segmentation) or images with the same class, in per cent.
        num_checked: Number of images used for the check.
        checked_on: Description of these images.
    """

    path: Path
    largest_difference: float
    same_percent: float
    num_checked: int
    checked_on: str


def default_name(source: Path, format: Format) -> Path:  # noqa: A002  name of the option
    """Name of the exported file: beside the checkpoint, with the suffix of the format.

    Raises:
        MedvisionError: If there is no checkpoint, or the folder of the checkpoints is a link that
            leads out of the run folder.
    """
    model = find_model(source)
    if is_demo(source):
        raise MedvisionError(
            "the model of the package stays as it is",
            where=str(source),
            hint="name the file to write with --out",
        )
    run, place = source.expanduser().resolve(), model.parent.resolve()
    if run.is_dir() and not place.is_relative_to(run):
        raise MedvisionError(
            f"a symbolic link points outside the run folder, to {place}",
            where=str(model.parent),
            hint="name the file to write with --out",
        )
    return model.with_suffix(f".{format}")


def export_model(
    source: Path,
    *,
    format: Format,  # noqa: A002  name of the option
    out: Path,
    images: Sequence[Path] = (),
    report: Callable[[str], None],
) -> Exported:
    """Write a model as a file for other programs, and check the file.

    The file's logits are compared with those of PyTorch in float32 on real images, for a batch
    of one and for larger ones. An existing file at ``out`` is replaced only after the check.

    Args:
        source: A run folder (its best checkpoint), a ``.ckpt`` or a ``.safetensors`` file.
        format: ``onnx``, or ``safetensors`` with a JSON file of the same name beside it. Both get a
            model card of the same name in Markdown.
        out: File name with the suffix of the format; folders are created.
        images: Files and folders to check on. If empty, test images of the run are used, or
            phantoms if there are none.
        report: Function that shows a line to the user.

    Raises:
        MedvisionError: If an argument is invalid, a package is missing, or the file differs from
            the network by more than the tolerance (exit code 3); no file is then kept.
    """
    model, out = find_model(source), out.expanduser()
    _check_source(model, out)
    _check_out(out, format)
    if format == "onnx" and (missing := [name for name in PACKAGES if find_spec(name) is None]):
        raise MedvisionError(
            f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed",
            where="--format onnx",
            hint=f"run: {install_command('onnx')}",
        )
    # torch is imported after the arguments were checked
    from medvision.export import check, formats
    from medvision.inference import load_model, load_network

    network, card = load_network(model)
    if task_of(card.task).min_classes < 2:
        raise MedvisionError(
            f"expected a task with classes, got {card.task}",
            where=str(model),
            hint="read its tensors from the state_dict of the checkpoint",
        )
    inputs = check.choose_inputs(source, card, given=images)
    if (unfinished := unfinished_note(source)) is not None:
        report(f"note: {unfinished}")
    for note in inputs.notes:
        report(note)
    report(f"exporting {card.architecture}, {card.image_size} px, to {format}")
    with (
        file_errors("cannot write the file", out),
        atomic_path(out, keep_suffix=True) as file,
    ):
        if format == "onnx":
            formats.write_onnx(network, card, file)
            run = formats.run_onnx(file)
        else:
            formats.write_safetensors(network, card, file)
            run = formats.run_safetensors(file, network)
        exported = load_model(file)  # loaded like any other model
        if exported.card != card:
            raise MedvisionError(
                "the model card in the file differs from the one written", where=str(out)
            )
        seen = (exported.prepare(exported.read(image)) for image in inputs.images)
        found = check.compare(check.in_float32(network), run, seen, card, where=str(out))
        check.check_difference(found, exact=format == "safetensors", where=str(out))
    texts = {out.with_suffix(".md"): _published_card(model, card, out)}
    if format == "safetensors":
        texts[out.with_suffix(".json")] = formats.sidecar(card, out)
    for beside, text in texts.items():
        with file_errors("cannot write the file", beside):
            write_atomically(beside, text)
    report(
        f"checked on {inputs.words}: logits differ by at most {found.logits:.1e} (largest logit"
        f" {found.largest_logit:.3g}), {found.same_percent:.3f} % of"
        f" {'pixels' if task_of(card.task).per_pixel else 'images'} get the same class"
    )
    report(f"wrote {out} ({out.stat().st_size / 1e6:.1f} MB) and {out.with_suffix('.md').name}")
    return Exported(
        path=out,
        largest_difference=found.logits,
        same_percent=found.same_percent,
        num_checked=len(inputs.images),
        checked_on=inputs.words,
    )


def _published_card(model: Path, card: ModelCard, out: Path) -> str:
    """Model card in Markdown, with the scores of the run if the model lies in its run folder."""
    run = model.parent.parent
    known = model.parent.name == "checkpoints" and (run / "summary.json").is_file()
    return published_card(
        title=card.experiment or card.architecture,
        task=card.task,
        architecture=card.architecture,
        num_parameters=card.num_parameters,
        image_size=card.image_size,
        class_names=card.class_names,
        file=out.name,
        run=RunFiles.read(run) if known else None,
    )


def _check_source(model: Path, out: Path) -> None:
    if model.suffix == ".onnx":
        raise MedvisionError(
            "an ONNX file cannot be exported",
            where=str(model),
            hint="give its run folder or checkpoint",
        )
    if model.resolve() == out.resolve():
        raise MedvisionError(
            "the file would overwrite its source model",
            where=str(out),
            hint="give another file with --out",
        )


def _check_out(out: Path, format: Format) -> None:  # noqa: A002  name of the option
    """Check the file name before the time-consuming export."""
    if out.is_dir():
        raise MedvisionError(
            "expected a file, got a folder",
            where=f"--out {out}",
            hint=f"give a file in it, such as {out / 'model'}.{format}",
        )
    if out.suffix != f".{format}":
        raise MedvisionError(
            f"expected a file name ending in .{format}",
            where=f"--out {out}",
            hint=f"use {out.with_suffix(f'.{format}')}",
        )
    beside = out.with_suffix(".json")
    if format == "safetensors" and beside.exists() and not _is_ours(beside):
        raise MedvisionError(
            "its JSON file would overwrite an unrelated file",
            where=str(beside),
            hint="give another file with --out",
        )
    page = out.with_suffix(".md")
    if page.exists() and MARK.encode() not in read_regular(page):
        raise MedvisionError(
            "its model card would overwrite an unrelated file",
            where=str(page),
            hint="give another file with --out",
        )
    check_writable(out.parent, hint="give a file in a writable folder with --out")
    with file_errors("cannot write the file", out):
        out.parent.mkdir(parents=True, exist_ok=True)


def _is_ours(file: Path) -> bool:
    try:
        return METADATA_KEY in read_plain(file)
    except (OSError, ValueError):
        return False
