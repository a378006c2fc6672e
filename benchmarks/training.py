"""Measure training and prediction with the reference networks, beside common alternatives.

    python benchmarks/training.py [KVASIR] [--base 16 64] [--runs 5] [--append]
    python benchmarks/training.py [BRAIN] --classify [--runs 5] [--append]

Every candidate trains for some steps on the files of a data set, in a separate process, and reports
its images per second without the first two steps, the wait for data counted; then the U-Nets turn
a folder of images into mask files. Peers run as people write them and in their own fast mode.
medvision runs as `train.py` and `medvision predict` do, with every default of the experiment but
batch norm, which the reference has not. Nothing is decoded in advance, nor kept from other runs.
"""

import argparse
import csv
import functools
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness import (
    HERE,
    ROOT,
    append_results,
    command_line,
    median_table,
    peer_python,
    run_json,
    take_turns,
)
from phantoms import write_brains, write_polyps

KERAS = ("keras", "tensorflow-cpu==2.21.0")
STEPS = {16: 10, 64: 4}
"""Training steps of a measurement, by base channels; the first two do not count."""

SHORT = ("Keras", "medvision")

GPU_STEPS = 90

PREDICTIONS = {16: 64, 64: 16}
CLASSIFIERS = {
    "alexnet": ("brain_mri_alexnet", "alexnet", "alexnet"),
    "efficientnet_b0": ("brain_mri_efficientnet_b0", "efficientnet_b0", "efficientnet_b0"),
    "efficientnet_lite0": ("brain_mri_lite0", None, "tf_efficientnet_lite0"),
}
"""Experiment, Keras' name (it has no Lite0) and timm's name of each network."""

Measure = Callable[[], dict[str, float]]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path, nargs="?", help="Kvasir-SEG, or brain MRI; phantoms")
    parser.add_argument("--base", type=int, nargs="+", choices=[16, 64], default=[16, 64])
    parser.add_argument("--classify", nargs="*", choices=CLASSIFIERS, help="networks; all")
    parser.add_argument("--size", type=int, help="pixels; 256, or 224 to classify")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--few", action="store_true", help="without some slow peers")
    parser.add_argument("--gpu", action="store_true", help="on a GPU, without Keras; more steps")
    parser.add_argument("--append", action="store_true", help="add the tables to RESULTS.md")
    parser.add_argument("--alone", nargs=2, metavar=("RUN", "IMAGES"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.alone:
        print(json.dumps(_predict(*map(Path, given.alone))))
        return
    if given.data is not None and not given.data.is_dir():
        parser.error(f"no such folder ({given.data}); give the root of the data set")
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["MEDVISION_CACHE_DIR"] = str(Path(scratch, "cache"))
        drawn = write_polyps if given.classify is None else write_brains
        data = drawn(Path(scratch, "phantoms")) if given.data is None else given.data.resolve()
        place = Place(data, Path(scratch), gpu=given.gpu)
        if given.classify is None:
            for base in given.base:
                _segment(place, base, given)
        else:
            for network in given.classify or CLASSIFIERS:
                _classify(place, network, given)


class Place:
    """The data, its split as the peers read it, and where runs may write."""

    def __init__(self, data: Path, scratch: Path, *, gpu: bool) -> None:
        self.data, self.scratch, self.gpu = data, scratch, gpu
        self.splits = scratch / "splits.csv"
        given = data / "splits.csv"
        if given.is_file():
            shutil.copyfile(given, self.splits)
        else:
            self._list_classes()

    def _list_classes(self) -> None:
        """Images of the published training folder."""
        with self.splits.open("w", newline="") as stream:
            table = csv.writer(stream)
            table.writerow(["split", "path", "target"])
            for folder in sorted((self.data / "Training").iterdir()):
                for path in sorted(folder.iterdir()):
                    table.writerow(["train", path.relative_to(self.data), folder.name])

    def images(self, count: int) -> Path:
        """Make a folder with this number of the images."""
        folder = self.scratch / f"images_{count}"
        if not folder.is_dir():
            folder.mkdir()
            for path in sorted((self.data / "images").iterdir())[:count]:
                shutil.copyfile(path, folder / path.name)
        return folder


def _segment(place: Place, base: int, given: argparse.Namespace) -> None:
    size, steps = given.size or 256, GPU_STEPS if given.gpu else STEPS[base]
    images = place.images(PREDICTIONS[base])
    common: list[Any] = ["--base", base, "--size", size, "--steps", steps]
    common += ["--predict", images, "--out", place.scratch / "masks"]
    overrides = ["experiment=polyp_unet", f"model.base_channels={base}", "model.batch_norm=false"]
    overrides += ["data.batch_size=8", f"data.image_size={size}"]
    candidates: dict[str, Measure] = {
        "Keras, as the reference is written": _keras(place, common),
        "Keras, mixed_bfloat16 and cache": _keras(
            place, [*common, "--policy", "mixed_bfloat16", "--cache"]
        ),
        "PyTorch, a bare loop": _torch(place, common),
        "PyTorch, bf16, channels-last, fused": _torch(place, [*common, "--fast"]),
        "Lightning, its defaults": _torch(place, [*common, "--loop", "lightning"]),
        "medvision": functools.partial(_medvision, place, overrides, steps, images),
    }
    if given.few:
        candidates = {k: way for k, way in candidates.items() if k.split(",")[0] in SHORT}
    print(f"U-Net with {base} base channels, {size} px, batch 8, {steps} steps")
    figures = ["train_images_per_s", "predict_images_per_s", "peak_memory_mb"]
    _show(candidates, given, f"U-Net, {base} base channels, {size} px, batch 8", figures)


def _classify(place: Place, network: str, given: argparse.Namespace) -> None:
    size, steps, batch = given.size or 224, GPU_STEPS if given.gpu else 8, 16
    experiment, keras, timm = CLASSIFIERS[network]
    common: list[Any] = ["--size", size, "--batch", batch, "--steps", steps]
    overrides = [f"experiment={experiment}", f"data.batch_size={batch}", f"data.image_size={size}"]
    overrides += ["model.weights=none", "callbacks=default", "task.backbone_lr_factor=1.0"]
    overrides += ["data.train_transforms={}", "data.in_channels=3"]
    if network == "efficientnet_b0":
        overrides += ["model.name=efficientnet_b0", "callbacks.finetuning=null"]
    candidates: dict[str, Measure] = {}
    if keras is not None:
        named = [*common, "--model", keras]
        candidates["Keras"] = _keras(place, named)
        candidates["Keras, mixed_bfloat16 and cache"] = _keras(
            place, [*named, "--policy", "mixed_bfloat16", "--cache"]
        )
    named = [*common, "--model", timm]
    candidates["Lightning, its defaults"] = _torch(place, [*named, "--loop", "lightning"])
    candidates["Lightning, bf16-mixed"] = _torch(place, [*named, "--loop", "lightning", "--fast"])
    candidates["medvision"] = functools.partial(_medvision, place, overrides, steps, None)
    if given.few:
        del candidates["Lightning, bf16-mixed"]
    print(f"{network}, {size} px, batch {batch}, {steps} steps")
    figures = ["train_images_per_s", "peak_memory_mb"]
    _show(candidates, given, f"{network}, {size} px, batch {batch}", figures)


def _show(
    candidates: dict[str, Measure], given: argparse.Namespace, title: str, figures: list[str]
) -> None:
    if given.gpu:
        candidates = {k: way for k, way in candidates.items() if not k.startswith("Keras")}
    results = take_turns(candidates, runs=given.runs)
    firsts = list(candidates)[:2]
    lines = []
    for figure in figures:
        better = "lower" if figure == "peak_memory_mb" else "higher"
        lines += [*median_table(results, base=firsts, figures=[figure], better=better), ""]
    print("\n".join(lines))
    if given.append:
        append_results(title, lines[:-1], command=command_line())


def _keras(place: Place, options: list[Any]) -> Measure:
    script = HERE / "peers/keras_train.py"
    command = [script, "--data", place.data, "--splits", place.splits, *options]
    quiet = {"CUDA_VISIBLE_DEVICES": ""}
    return lambda: _figures(run_json([peer_python(*KERAS), *command], env=quiet))


def _torch(place: Place, options: list[Any]) -> Measure:
    script = HERE / "peers/torch_train.py"
    command = [script, "--data", place.data, "--splits", place.splits, *options]
    command += ["--device", "cuda"] if place.gpu else []
    return lambda: _figures(run_json([sys.executable, *command], cwd=place.scratch))


def _medvision(
    place: Place, overrides: list[str], steps: int, images: Path | None
) -> dict[str, float]:
    """One run of `train.py`, and `medvision predict` with what it learnt."""
    options = [*overrides, f"data.root={place.data}", "audit=skip"]
    options += [f"trainer={'gpu' if place.gpu else 'cpu'}"]
    found, run = medvision_run(place.scratch, options, steps)
    if images is not None:
        found |= run_json([sys.executable, __file__, "--alone", run, images])
    shutil.rmtree(run.parents[2])
    return found


def medvision_run(scratch: Path, overrides: list[str], steps: int) -> tuple[dict[str, float], Path]:
    """Timing of `train.py` after some steps, and its run folder."""
    folder = Path(tempfile.mkdtemp(dir=scratch))
    limits = [f"trainer.limit_train_batches={steps}", "trainer.max_epochs=1"]
    limits += ["trainer.limit_val_batches=1", "trainer.limit_test_batches=1"]
    read_summary = '"$@" >&2 && tr -d "\\n" < "$(ls runs/*/*/summary.json)"'
    command = [sys.executable, ROOT / "train.py", *overrides, *limits]
    timing = run_json(["sh", "-c", read_summary, "sh", *command], cwd=folder)["timing"]
    figures = {name: timing[name] for name in ("train_images_per_s", "peak_memory_mb")}
    return figures, next(folder.glob("runs/*/2*"))


def _predict(run: Path, images: Path) -> dict[str, float]:
    """Images per second of `medvision predict`, from the first file read to the table written.

    Without overlays, as the peers write none, and with them, as it does by itself.
    """
    from medvision.hardware import keep_freed_memory
    from medvision.inference import load_model, predict_files

    keep_freed_memory()
    model = load_model(run)
    rates = []
    for overlays in (False, False, True):  # the first one warms up
        with tempfile.TemporaryDirectory() as scratch:
            done = predict_files(model, [images], out=Path(scratch, "out"), overlays=overlays)
        rates.append(done.num_done / done.seconds)
    return {"predict_images_per_s": rates[1], "with_overlays_per_s": rates[2]}


def _figures(reported: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in reported.items() if name != "parameters"}


if __name__ == "__main__":
    main()
