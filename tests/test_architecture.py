"""Packages of the source, their allowed imports and their structure."""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import structure

SRC = Path(__file__).parents[1] / "src"
MODULES = structure.module_names(SRC)
TASKS = ("classification", "segmentation")
RANKS = [
    {
        *("types", "errors", "files", "console", "live", "command_line"),
        *("scores", "registry", "libraries", "task_definition"),
    },
    {"data", "models", "losses", "metrics", "hardware", "reports"},
    {"tasks", "inference", "audit", "search"},
    {"callbacks"},
    {"evaluation", "comparison", "export"},
    {"run", "app"},
    {"api", "cli"},
    {"__main__"},
]
"""Packages from the bottom up: each imports only from those below it. Small shared modules also
import each other."""

RANK = {package: rank for rank, packages in enumerate(RANKS) for package in packages}
ONLY_IN = {
    "hydra": {"run"},
    "omegaconf": {"run"},
    "timm": {"models"},
    "segmentation_models_pytorch": {"models"},
    "albumentations": {"data.loading.transforms"},
    "torch_xla": {"hardware"},
    "typer": {"cli"},
    "onnxruntime": {"inference", "export"},
    "pooch": {"data", "export"},
    "monai": {"metrics", "models", "losses"},
    "jinja2": {"reports"},
    "pytorch_grad_cam": {"inference"},
    "sklearn": {"audit", "metrics"},
    "optuna": {"search"},
    "fsspec": {"data"},
    "webdataset": {"data"},
    "streamlit": {"app"},
    "starlette": {"app"},
    "uvicorn": {"app"},
}
"""Packages, or single modules, that alone may import a library."""

NEVER_IN = {
    "reports": {"torch", "pytorch_lightning", "torchmetrics"},
    **{module: {"torch", "numpy", "rich"} for module in ("types", "errors", "scores", "registry")},
}
MOST_MODULES = 15
"""Modules in one folder; more are several packages."""

MOST_SINGLE_IMPORTERS = 40
"""Modules that exactly one other module imports: most are parts of it that stand alone."""


@cache
def nodes_of(path: Path) -> list[ast.AST]:
    """All nodes of a file's syntax tree."""
    return list(ast.walk(ast.parse(path.read_text())))


@cache
def imports_at_run_time(path: Path) -> list[str]:
    """Modules that a file imports anywhere, except for type checking only."""
    nodes = nodes_of(path)
    for_types = {
        child
        for node in nodes
        if isinstance(node, ast.If)
        and any(isinstance(n, ast.Name) and n.id == "TYPE_CHECKING" for n in ast.walk(node.test))
        for child in ast.walk(node)
    }
    found = []
    for node in nodes:
        if node in for_types:
            continue
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append("." * node.level + (node.module or ""))
    return found


def own_modules() -> Iterator[tuple[str, str, Path]]:
    """Name below ``medvision``, package and file of every module."""
    for name, path in MODULES.items():
        if name.startswith("medvision."):
            short = name.removeprefix("medvision.")
            yield short, short.partition(".")[0], path


def test_imports_point_one_way() -> None:
    found = list(own_modules())
    assert {package for _, package, _ in found} == set(RANK), "RANKS lists every package"
    wrong = []
    for name, package, path in found:
        for imported in imports_at_run_time(path):
            library, _, rest = imported.partition(".")
            other = rest.partition(".")[0]
            if imported.startswith("."):
                wrong.append(f"{name}: a relative import hides the package")
            if library == "medvision" and other in RANK and other != package:
                below = RANK[other] < RANK[package] or RANK[other] == RANK[package] == 0
                if not below:
                    wrong.append(f"{name} imports {imported}")
    assert not wrong


def test_the_picture_of_the_packages_shows_each_at_its_level() -> None:
    picture = (SRC.parent / "docs" / "assets" / "packages.svg").read_text(encoding="utf-8")
    levels = [set(re.findall(r'class="name"[^>]*>([^<]+)<', of)) for of in picture.split("<path")]
    assert levels[:-1] == [*reversed(RANKS[1:-1])]
    assert all(name in levels[-1] | {*re.findall(r"\w+", picture)} for name in RANKS[0])


def test_libraries_stay_in_their_packages() -> None:
    wrong = []
    for name, package, path in own_modules():
        for imported in imports_at_run_time(path):
            library = imported.partition(".")[0]
            allowed = ONLY_IN.get(library, {package})
            if not {package, name} & allowed or library in NEVER_IN.get(package, set()):
                wrong.append(f"{name} imports {library}")
    assert not wrong


def test_modules_are_concepts_and_free_of_cycles() -> None:
    graph = structure.import_graph(SRC)
    assert not structure.cycles(graph)
    packages = {name for name, path in MODULES.items() if path.name == "__init__.py"}
    assert len(structure.single_importers(graph, packages)) <= MOST_SINGLE_IMPORTERS
    folders = Counter(path.parent for path in MODULES.values() if path.name != "__init__.py")
    assert not {str(folder): size for folder, size in folders.items() if size > MOST_MODULES}
    drawers = {"utils", "util", "helpers", "misc", "common"}
    assert not [name for name in MODULES if drawers & set(name.split("."))]


TASK_MODULES = {
    "task_definition",
    *(f"{package}.{task}" for package in ("data", "evaluation", "tasks") for task in TASKS),
}
"""Modules of the classes that a task consists of."""

NAMES_OF_FOLDERS = {
    "audit.dataset": "detects by its layout whether a folder holds classes or masks",
    "cli.program": "an option of `data shard` sets how a folder is read",
    "data.discovery.description": "describes the masks or the classes of a folder",
    "data.discovery.index": "detects by splits.csv whether a folder holds classes or masks",
    "data.discovery.splits_csv": "reads a column of masks that is named so",
    "data.download.catalog": "has the published purpose of each public set",
    "data.readers.annotations": "reads the key of COCO files that is named so",
    "data.shards.create": "writes into shards.json how the folder was read",
}
"""Modules that may name a task, because they detect the kind of files in a folder."""


def test_only_the_classes_of_a_task_know_its_name() -> None:
    """A further task is a separate package, so no other module may depend on a task's name."""
    found = {
        name
        for name, _, path in own_modules()
        for node in nodes_of(path)
        if isinstance(node, ast.Constant) and node.value in TASKS
    }
    assert found - TASK_MODULES == set(NAMES_OF_FOLDERS)
    templates = SRC.glob("medvision/reports/templates/*.j2")
    quoted = [f"{mark}{task}{mark}" for task in TASKS for mark in "'\""]
    assert not [path.name for path in templates if any(q in path.read_text() for q in quoted)]
