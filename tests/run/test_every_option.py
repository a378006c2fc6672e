"""Every option of every command, on runs trained in bfloat16."""

import hashlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from PIL import Image

from medvision.app import server
from medvision.cli.program import _code, app
from medvision.export import web
from medvision.run import main

pytestmark = pytest.mark.slow

TINY = (
    "trainer=cpu",
    "trainer.precision=bf16-mixed",
    "logger=csv",
    "data.image_size=32",
    "data.num_images=24",
    "data.batch_size=4",
    "data.num_workers=0",
    "trainer.max_epochs=1",
    "model.base_channels=2",
)
RUNS = {"classes": "chest_xray_cnn", "masks": "polyp_unet"}
BASE: dict[str, list[str]] = {
    "predict": ["{run}", "{images}", "--out", "{out}"],
    "evaluate": ["{run}", "--out", "{out}"],
    "export": ["{run}", "--format", "onnx", "--out", "{out}.onnx"],
    "serve": ["{run}", "--port", "0"],
    "compare": ["{run}", "{other}", "--out", "{out}"],
    "audit": ["{set}", "--out", "{out}"],
    "data inspect": ["{set}"],
    "data shard": ["{set}", "{out}"],
    "data phantoms": ["{phantoms}", "--root", "{out}", "--num-images", "6"],
    "data list": [],
}
"""Shortest arguments of each command."""

OPTIONS: dict[str, dict[str, list[str]]] = {
    "predict": {
        "--out": [],
        "--probabilities": ["--probabilities"],
        "--overlays": ["--no-overlays"],
        "--tta": ["--tta"],
        "--explain": ["--explain"],
        "--format": ["--format", "coco"],
        "--batch-size": ["--batch-size", "3"],
        "--overwrite": ["--overwrite"],
        "--trust": ["--trust", "torchmetrics"],
    },
    "evaluate": {
        "--data": ["--data", "{set}"],
        "--split": ["--split", "val"],
        "--out": [],
        "--conventions": ["--conventions"],
        "--accelerator": ["--accelerator", "cpu"],
        "--splits": ["--data", "{set}", "--splits", "{table}"],
        "--trust": ["--trust", "torchmetrics"],
    },
    "export": {
        "--format": ["--format", "safetensors", "--out", "{out}.safetensors"],
        "--out": [],
        "--images": ["--images", "{images}"],
        "--ort": ["--format", "web", "--out", "{out}", "--ort", "{runtime}"],
        "--trust": ["--trust", "torchmetrics"],
    },
    "serve": {
        "--address": ["--address", "::1"],
        "--port": [],
        "--save": ["--save", "{out}"],
        "--largest-mb": ["--largest-mb", "3"],
        "--trust": ["--trust", "torchmetrics"],
    },
    "compare": {"--out": [], "--trust": ["--trust", "torchmetrics"]},
    "audit": {
        "--against": ["--against", "{other_set}"],
        "--out": [],
        "--group-pattern": ["--group-pattern", r"(p\d)_"],
        "--mask-suffix": ["--mask-suffix", ""],
        "--num-classes": ["--num-classes", "2"],
        "--splits": ["--splits", "{table}"],
    },
    "data inspect": {"--splits": ["--splits", "{table}"]},
    "data shard": {
        "--task": ["--task", "{task}"],
        "--shard-mb": ["--shard-mb", "1"],
        "--group-pattern": ["--group-pattern", r"(p\d)_"],
        "--mask-suffix": ["--mask-suffix", ""],
        "--splits": ["--splits", "{table}"],
        "--num-classes": ["--num-classes", "2"],
        "--color": ["--color", "0,0,0", "--color", "255,255,255"],
        "--value-range": ["--value-range", "0", "255"],
        "--on-error": ["--on-error", "skip"],
    },
    "data phantoms": {
        "--root": [],
        "--num-images": ["--num-images", "3"],
        "--size-px": ["--size-px", "40"],
        "--seed": ["--seed", "5"],
    },
    "data list": {},
}
"""Arguments that use each option."""

OF_CLASSES = {"predict --explain"}
OF_MASKS = {"predict --probabilities", "predict --format", "data shard --color"}
"""Options that only one kind of data or run has."""

NOT_RUN = {"train": "is Hydra's", "data download": "needs the network"}


def commands() -> Iterator[tuple[str, list[str]]]:
    """Name and options of every command."""

    def below(command: Any, names: tuple[str, ...]) -> Iterator[tuple[str, list[str]]]:
        for name, part in getattr(command, "commands", {}).items():
            yield from below(part, (*names, name))
        if not hasattr(command, "commands"):
            found = [option.opts[-1] for option in command.params if option.opts[0][0] == "-"]
            yield " ".join(names), [name for name in found if name != "--help"]

    yield from below(typer.main.get_command(app), ())


def test_the_tables_above_name_every_command_and_option() -> None:
    found = {name: set(options) for name, options in commands() if name not in NOT_RUN}
    assert found == {name: set(options) for name, options in OPTIONS.items()}


@pytest.fixture(scope="module", params=RUNS)
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Two runs in bfloat16, and two data sets of the same kind."""
    kind, folder, here = request.param, tmp_path_factory.mktemp(request.param), Path.cwd()
    parts = ("NORMAL", "PNEUMONIA") if kind == "classes" else ("images", "masks")
    for number, name in enumerate(("set", "other_set")):
        for k in range(8):
            for part in parts:
                image = Image.effect_noise((48, 40), 60 + k + 20 * number)
                if part == "masks":
                    image = image.point(lambda value: 255 * (value > 128))
                if part == "PNEUMONIA":
                    image = image.point(lambda value: 128 + value // 2)
                place = folder / name / part / f"p{k}_{part if kind == 'classes' else 'x'}.png"
                place.parent.mkdir(parents=True, exist_ok=True)
                image.convert("L" if part == "masks" else "RGB").save(place)
    os.chdir(folder)
    try:
        for seed, run in enumerate(("run", "other")):
            given = (f"experiment={RUNS[kind]}", f"seed={seed}", f"run_dir={run}")
            assert main([*TINY, *given]) == 0
    finally:
        os.chdir(here)
        os.environ.pop("MEDVISION_RUN_DIR", None)
    return kind, folder


CASES = [(command, option) for command, options in OPTIONS.items() for option in ("none", *options)]


@pytest.mark.parametrize(("command", "option"), CASES, ids=lambda value: value)
def test_an_option_works_on_a_run_in_bfloat16(
    trained: tuple[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
    option: str,
) -> None:
    kind, folder = trained
    if f"{command} {option}" in (OF_MASKS if kind == "classes" else OF_CLASSES):
        pytest.skip(f"{option} is for the other kind")
    names = {
        "run": folder / "run",
        "other": folder / "other",
        "set": folder / "set",
        "other_set": folder / "other_set",
        "table": tmp_path / "table.csv",
        "images": folder / "set" / ("NORMAL" if kind == "classes" else "images"),
        "out": tmp_path / "out",
        "runtime": tmp_path / "runtime",
        "phantoms": "chest_xray" if kind == "classes" else "polyps",
        "task": "classification" if kind == "classes" else "segmentation",
    }
    first = "NORMAL/p0_NORMAL" if kind == "classes" else "images/p0_x"
    (tmp_path / "table.csv").write_text(f"split,path\ntest,{first}.png\n")
    given = [*BASE[command], *OPTIONS[command].get(option, [])]
    served = dict[str, Any]()

    def predict_one(address: str, port: int, **options: Any) -> None:
        """Stand in for the server: predict an upload as its page does."""
        image = next(iter(sorted(names["images"].iterdir())))
        shown = server.current_app().predict(image.name, image.read_bytes(), heat=True)
        packed = server.current_app().archive([shown])
        served.update(options, address=address, port=port, packed=packed)

    monkeypatch.setattr(server, "_run", predict_one)
    names["runtime"].mkdir()
    for file in web.RUNTIME_FILES:  # what the page would run; its own tests use the real one
        (names["runtime"] / file).write_bytes(file.encode())
        digest = hashlib.sha256(file.encode()).hexdigest()
        monkeypatch.setitem(web.RUNTIME_FILES, file, digest)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        sys, "argv", ["medvision", *command.split(), *(part.format(**names) for part in given)]
    )
    code = _code()
    assert code in ((0, 1) if command == "audit" else (0,)), capsys.readouterr()
    if command == "predict":
        assert (tmp_path / "out" / "predictions.csv").exists()
    if command == "serve":
        assert served["port"] > 0
        assert served["packed"].startswith(b"PK")
    if option == "--ort":
        assert (tmp_path / "out" / "index.html").exists()
    if command == "data phantoms":
        drawn = [path for path in (tmp_path / "out").rglob("*.png") if "masks" not in path.parts]
        assert len(drawn) == (3 if option == "--num-images" else 6)
    if option == "--explain":
        assert len(list((tmp_path / "out" / "explanations").iterdir())) == 8
