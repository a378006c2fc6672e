"""Export a model as a page that runs in a browser, without a server."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
import shutil
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medvision.errors import MedvisionError
from medvision.export.write import export_model
from medvision.files import check_writable, file_errors, own_folder, read_regular
from medvision.inference.load import load_network, summary_of
from medvision.inference.model_card import ModelCard
from medvision.inference.results import ClassificationResult, SegmentationResult
from medvision.reports.run_facts import UNNAMED, split_in_words
from medvision.scores import Score, is_interval, is_number, scores_of
from medvision.task_definition import task_of
from medvision.types import RESEARCH_ONLY

WEB = Path(__file__).parents[1] / "web"
"""Folder of the page's own files."""

RUNTIME = "onnxruntime-web"
RUNTIME_VERSION = "1.30.0"
RUNTIME_FILES = {
    "ort.wasm.min.js": "faece07e84faa9001f5104bbe4e5c70861d06cb2376a0dea1fa0ad33a67adc81",
    "ort-wasm-simd-threaded.mjs": (
        "e13f7f94fc51b4ca72b12faeb1ee95f4ace6dfbc8939bc718aabdc0a27c4299b"
    ),
    "ort-wasm-simd-threaded.wasm": (
        "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2"
    ),
}
"""Files of the npm package that run a network, with their SHA-256: 14 MB, too large to ship."""

RUNTIME_URL = f"https://cdn.jsdelivr.net/npm/{RUNTIME}@{RUNTIME_VERSION}/dist/"
"""Where the files are fetched, the address that ONNX Runtime's documentation gives."""

OTHER_WAY = (
    f"on a machine with network run `npm pack {RUNTIME}@{RUNTIME_VERSION}`, and give the .tgz file"
    " with --ort"
)
LONGEST_WAIT_S = 60.0
PAGE_FILES = ("index.html", "page.css", "page.js", "pixels.js", "viewer.css", "viewer.js")
MODEL = "model.onnx"
MOST_NAMES_IN_TITLE = 2
README = """\
medvision: a trained model as a web page

Open index.html in a browser, or copy this folder to any static web host. The model runs on the
device of the visitor; images are not sent anywhere. The folder `local` is only needed where
index.html is opened from the disk, without a host.

{notice}

The files in `ort` are ONNX Runtime Web {version}, copyright (c) Microsoft Corporation, MIT
licence: Permission is hereby granted, free of charge, to any person obtaining a copy of this
software and associated documentation files (the "Software"), to deal in the Software without
restriction, including without limitation the rights to use, copy, modify, merge, publish,
distribute, sublicense, and/or sell copies of the Software, and to permit persons to whom the
Software is furnished to do so, subject to the following conditions: The above copyright notice and
this permission notice shall be included in all copies or substantial portions of the Software. THE
SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT
LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT.
IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN
CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """Description of a model for people.

    Attributes:
        title: Name of the task and its classes.
        facts: Names and values.
        measured_on: Images of the scores; empty without scores.
        scores: Title, value and definition of each score.
        warnings: Warnings of the training, without paths of this machine.
    """

    title: str
    facts: Sequence[tuple[str, str]]
    measured_on: str
    scores: Sequence[Mapping[str, str]]
    warnings: Sequence[str]

    @classmethod
    def of(cls, card: ModelCard, summary: Mapping[str, Any]) -> ModelFacts:
        """Describe a model.

        Args:
            card: Model card.
            summary: ``summary.json`` of its run; empty if unknown.
        """
        dataset = summary.get("dataset") or {}
        counts = dataset.get("num_images") or {}
        name = "" if card.dataset in UNNAMED else card.dataset
        data = name or "unknown images"
        if card.synthetic:
            data += " (phantoms, drawn by a computer)"
        elif counts.get("train"):
            data = ", ".join(filter(None, (name, f"{counts['train']:,} training images")))
        two = card.num_classes == 2
        facts = [
            ("Task", f"{card.task}: {', '.join(card.class_names)}"),
            ("Network", f"{card.architecture}, {card.num_parameters:,} parameters"),
            ("Input", f"{card.image_size} x {card.image_size} pixels, {_colour(card)}"),
            *([("Threshold", f"{card.threshold:g}")] if two else []),
            ("Trained on", data),
        ]
        if dataset.get("protocol"):
            facts.append(("Split", split_in_words(dataset)))
        metrics = summary.get("metrics") or {}
        stage = "test" if any(name.startswith("test/") for name in metrics) else "val"
        scores = [
            {
                "title": row.heading,
                "value": _value(row, metrics, stage),
                "definition": row.definition,
            }
            for row in scores_of(card.task)
            if "terminal" in row.places and row.name != "loss" and f"{stage}/{row.name}" in metrics
        ]
        if not scores:
            facts.append(("Measured", "unknown: the model was exported without its run"))
        kind = {"test": "test", "val": "validation"}[stage]
        return cls(
            title=_title(card),
            facts=facts,
            measured_on=f"{counts.get(stage, 'unknown')} {kind} images" + f" of {name}" * bool(name)
            if scores
            else "",
            scores=scores,
            warnings=[without_paths(str(one)) for one in summary.get("warnings") or ()],
        )


def _title(card: ModelCard) -> str:
    names = card.class_names[1:] if task_of(card.task).per_pixel else card.class_names
    few = len(names) <= MOST_NAMES_IN_TITLE
    return f"{card.task.capitalize()}: {', '.join(names) if few else f'{len(names)} classes'}"


def _colour(card: ModelCard) -> str:
    return "RGB" if card.in_channels == 3 else "grey"


def _value(row: Score, metrics: Mapping[str, Any], stage: str) -> str:
    value, ends = metrics[f"{stage}/{row.name}"], metrics.get(f"{stage}/{row.name}_ci95")
    text = row.text(value if is_number(value) else None)
    return f"{text} (95 % interval {row.interval_text(ends)})" if is_interval(ends) else text


_PATH = re.compile(r"(?:(?<=file://)|(?<![\w<+/.-]))/(?:[^\s/<>\"'&;,:()]+/)*[^\s/<>\"'&;,:()]+")


def without_paths(text: str) -> str:
    """Replace absolute paths of this machine with their last part.

    A path is one whose first folder exists here: other text with slashes stays.
    """

    def last_part(found: re.Match[str]) -> str:
        parts = Path(found.group()).parts
        return parts[-1] if len(parts) > 2 and Path("/", parts[1]).is_dir() else found.group()

    return _PATH.sub(last_part, text)


def export_page(
    source: Path,
    *,
    out: Path,
    runtime: Path | None = None,
    images: Sequence[Path] = (),
    report: Callable[[str], None],
) -> None:
    """Write a folder with a page that predicts images in the browser.

    Args:
        source: Run folder, checkpoint or safetensors file.
        out: Folder for the page, new or empty; it appears when it is complete.
        runtime: Folder or ``.tgz`` file of the npm package onnxruntime-web; None fetches its files,
            unless an earlier export has stored them.
        images: Images for the check of the ONNX file; empty uses test images of the run.
        report: Function that shows a line to the user.

    Raises:
        MedvisionError: If an argument is invalid, the runtime cannot be fetched or differs from
            the expected one, or the model cannot be exported.
    """
    out = out.expanduser()
    _check_out(out)
    _, card = load_network(source)
    _check_supported(card, where=str(source))
    files = runtime_files(runtime)
    temporary = out.with_name(f".{out.name}.tmp")
    with file_errors("cannot write the page", out):
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            (temporary / "ort").mkdir(parents=True)
            export_model(
                source,
                format="onnx",
                out=temporary / MODEL,
                images=images,
                report=_without_path(report),
            )
            for name in PAGE_FILES:
                shutil.copyfile(WEB / name, temporary / name)
            for name, content in files.items():
                (temporary / "ort" / name).write_bytes(content)
            values = _model_values(card, summary_of(source))
            (temporary / "model.js").write_text(
                f"// The model of this page.\nconst medvisionModel = {_script_json(values)};\n",
                encoding="utf-8",
            )
            readme = README.format(notice=RESEARCH_ONLY, version=RUNTIME_VERSION)
            (temporary / "README.txt").write_text(readme, encoding="utf-8")
            _write_local(temporary)
            if out.exists():
                out.rmdir()  # empty
            temporary.rename(out)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    report(f"wrote {out} ({size / 1e6:.1f} MB): open {out / 'index.html'} in a browser")


def runtime_files(runtime: Path | None) -> dict[str, bytes]:
    """Read or fetch the files of ONNX Runtime Web, and check that they are the expected ones.

    Args:
        runtime: As for ``export_page``.

    Raises:
        MedvisionError: If a file is missing, differs, or cannot be fetched.
    """
    if runtime is not None:
        return _given_runtime(runtime.expanduser())
    return {name: _fetched(name, digest) for name, digest in RUNTIME_FILES.items()}


def _given_runtime(runtime: Path) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    hint = f"give the folder or .tgz file of the npm package {RUNTIME}@{RUNTIME_VERSION}"
    with file_errors("cannot read the runtime", runtime, hint=hint, exit_code=2):
        for name in RUNTIME_FILES:
            if runtime.is_dir():
                places = (runtime, runtime / "dist", runtime / "package" / "dist")
                file = next((place / name for place in places if (place / name).is_file()), None)
                content = None if file is None else read_regular(file)
            else:
                content = _member(runtime, f"package/dist/{name}", hint=hint)
            if content is None:
                raise MedvisionError(f"{name} is missing", where=str(runtime), hint=hint)
            found[name] = content
    for name, content in found.items():
        if hashlib.sha256(content).hexdigest() != RUNTIME_FILES[name]:
            raise MedvisionError(
                f"{name} is not that of {RUNTIME} {RUNTIME_VERSION}", where=str(runtime), hint=hint
            )
    return found


def _member(archive: Path, name: str, *, hint: str) -> bytes | None:
    """Read one file of a .tgz archive into memory; None if it is missing."""
    try:
        with tarfile.open(archive, "r:gz") as opened:
            stream = opened.extractfile(name)
            return None if stream is None else stream.read()
    except KeyError:
        return None
    except (tarfile.TarError, EOFError, gzip.BadGzipFile) as error:
        raise MedvisionError(
            "cannot be read as a .tgz archive", where=str(archive), hint=hint
        ) from error


def _fetched(name: str, digest: str) -> bytes:
    """Return a file from the cache, or fetch and store it."""
    import pooch

    try:
        folder = own_folder("cache") / f"{RUNTIME}-{RUNTIME_VERSION}"
        fetch = pooch.HTTPDownloader(timeout=LONGEST_WAIT_S)
        pooch.get_logger().setLevel("ERROR")
        path = pooch.retrieve(
            RUNTIME_URL + name, known_hash=digest, fname=name, path=folder, downloader=fetch
        )
        return Path(path).read_bytes()
    except Exception as error:  # the network raises a dozen types, and pooch its own
        raise MedvisionError(
            f"cannot fetch {RUNTIME} {RUNTIME_VERSION} ({type(error).__name__})",
            where=RUNTIME_URL + name,
            hint=OTHER_WAY,
            exit_code=3,
        ) from error


def _check_out(out: Path) -> None:
    with file_errors("cannot create the folder", out, hint="give a writable folder", exit_code=2):
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise MedvisionError(
                "exists and is not empty", where=f"--out {out}", hint="give a new folder"
            )
    check_writable(out.parent)


def _check_supported(card: ModelCard, *, where: str) -> None:
    result = task_of(card.task).load("result")
    if not issubclass(result, SegmentationResult | ClassificationResult):
        raise MedvisionError(
            f"the page shows segmentations and classifications, got {card.task}",
            where=where,
            hint="use medvision predict",
        )
    if card.eval_transforms:
        names = ", ".join(card.eval_transforms)
        raise MedvisionError(
            f"the page cannot compute the transforms that the model needs: {names}",
            where="eval_transforms",
            hint="use medvision serve, or train without data.eval_transforms",
        )


def _model_values(card: ModelCard, summary: Mapping[str, Any]) -> dict[str, Any]:
    facts = ModelFacts.of(card, summary)
    return {
        "title": facts.title,
        "per_pixel": task_of(card.task).per_pixel,
        "class_names": card.class_names,
        "image_size": card.image_size,
        "in_channels": card.in_channels,
        "threshold": card.threshold,
        "value_range": card.value_range,
        "synthetic": card.synthetic,
        "facts": facts.facts,
        "measured_on": facts.measured_on,
        "scores": facts.scores,
        "warnings": facts.warnings,
        "example": _example(card),
    }


def _example(card: ModelCard) -> str | None:
    """Phantom for a model of phantoms; other images belong to somebody."""
    if not card.synthetic:
        return None
    from medvision.export.check import draw_phantom
    from medvision.reports.plots.overlays import encode_png

    picture = draw_phantom(card, EXAMPLE_INDEX, size_px=2 * card.image_size)
    return base64.b64encode(encode_png(picture, level=9)).decode()


EXAMPLE_INDEX = 5_000
"""Index of the phantom in the example, beyond those of training sets."""


def _script_json(values: Any) -> str:
    """JSON that may stand in a script: no text ends the script or a line of it."""
    text = json.dumps(values, ensure_ascii=True, indent=1)
    return text.replace("<", "\\u003c")


def _write_local(folder: Path) -> None:
    """Write scripts that contain the binary files, for pages that are opened from the disk.

    A browser runs scripts from the disk, and fetches nothing there.
    """
    (folder / "local").mkdir()
    for path in (MODEL, *(f"ort/{name}" for name in list(RUNTIME_FILES)[1:])):
        packed = gzip.compress((folder / path).read_bytes(), mtime=0)
        content = base64.b64encode(packed).decode()
        script = f'(globalThis.medvisionLocal ??= {{}})["{path}"] = "{content}";\n'
        (folder / "local" / f"{Path(path).name}.js").write_text(script, encoding="ascii")


def _without_path(report: Callable[[str], None]) -> Callable[[str], None]:
    """Leave out the line on the temporary file."""
    return lambda line: None if line.startswith("wrote ") else report(line)
