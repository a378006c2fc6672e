"""The rooms of the source and what they may import."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src" / "medvision"
MODULES = sorted(SRC.rglob("*.py"))
RANK = {
    room: rank
    for rank, rooms in enumerate(
        [
            {"types", "errors"},
            {"files", "console", "registry", "task_definition"},
            {"data", "models", "losses", "metrics", "hardware", "reports"},
            {"tasks", "inference", "audit", "sweeps"},
            {"callbacks"},
            {"evaluation", "export"},
            {"run"},
            {"cli"},
        ]
    )
    for room in rooms
}
ONLY_IN = {
    "hydra": {"run"},
    "omegaconf": {"run"},
    "timm": {"models"},
    "segmentation_models_pytorch": {"models"},
    "torch_xla": {"hardware"},
    "typer": {"cli"},
    "onnxruntime": {"inference", "export"},
    "pooch": {"data"},
    "monai": {"metrics"},
    "jinja2": {"reports"},
    "pytorch_grad_cam": {"inference"},
    "sklearn": {"audit", "metrics"},
    "optuna": {"sweeps"},
    "fsspec": {"data"},
    "webdataset": {"data"},
}
NEVER_IN = {
    "reports": {"torch", "pytorch_lightning", "torchmetrics"},
    "types": {"torch"},
    "errors": {"torch"},
    "console": {"torch"},
    "files": {"torch"},
}


def room_of(path: Path) -> str:
    """First part of the module's name below ``medvision``."""
    return path.relative_to(SRC).parts[0].removesuffix(".py")


def imports_of(path: Path) -> Iterator[str]:
    """Every module that a file imports at run time, wherever in the file."""
    tree = ast.parse(path.read_text())
    for_types_only = {
        child
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for child in ast.walk(node)
    }
    for node in ast.walk(tree):
        if node in for_types_only:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the room"
            yield node.module or ""


def test_the_collector_finds_every_room() -> None:
    found = {room_of(path) for path in MODULES} - {"__init__"}
    assert found <= set(RANK)
    assert {"data", "models", "losses", "metrics", "tasks", "callbacks", "run", "cli"} <= found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SRC)))
def test_imports_point_one_way(path: Path) -> None:
    room = room_of(path)
    for name in imports_of(path):
        library, *parts = name.split(".")
        if library == "medvision" and parts and parts[0] != room and room != "__init__":
            assert RANK[parts[0]] < RANK[room], f"{room} must not import {name}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SRC)))
def test_libraries_stay_in_their_rooms(path: Path) -> None:
    room = room_of(path)
    for name in imports_of(path):
        library = name.split(".")[0]
        assert room in ONLY_IN.get(library, {room}), f"{room} must not import {library}"
        assert library not in NEVER_IN.get(room, set()), f"{room} must not import {library}"
        if library == "albumentations":
            assert path.relative_to(SRC).as_posix() == "data/transforms.py"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SRC)))
def test_no_file_grows_past_300_lines(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 300


def test_there_is_no_drawer_for_odds_and_ends() -> None:
    odd = {"utils", "util", "helpers", "misc", "common"}
    assert not [path for path in MODULES if odd & set(path.with_suffix("").parts)]
