"""Print the structure of the source: modules, lines, importers, cycles, length of four paths.

    python benchmarks/structure.py                    # this checkout
    python benchmarks/structure.py CHECKOUT ...       # one column for each checkout

Counting rules:

- modules: ``.py`` files under ``src``, ``__init__.py`` included
- lines: all lines of ``.py`` and ``.pyi`` files under ``src``
- largest folder: modules in one folder, ``__init__.py`` not counted
- single importer: modules (no ``__init__.py``) that exactly one other module of ``src`` imports. A
  name imported from a package counts for the module that defines it; the ``__init__`` that
  re-exports it does not count. Imports in functions and for type checking count; tests do not.
- cycles: groups of modules that import each other, by any import, those in functions and for type
  checking included. ``__init__`` files that only re-export names are left out, as above.
- functions on a path: different functions of medvision that are entered between its start and its
  end, in all threads of one process, in a small run on phantoms. From the start of the command to
  the first ``training_step``; from that step to the first ``log`` of an epoch; from the end of the
  test epoch to the rename that puts ``report.html`` in its place; from the start of ``medvision
  predict`` to the rename of the first mask. In brackets: those on the call stack at its end.
- seconds: shortest of five starts, as the user waits for them.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

Graph = Mapping[str, set[str]]

SMALL = (
    "experiment=polyp_unet",
    "trainer=cpu",
    "logger=csv",
    "data.image_size=32",
    "data.num_images=12",
    "data.num_workers=0",
    "model.base_channels=4",
    "trainer.max_epochs=1",
)

TRACER = """
import json, os, sys, threading, traceback

last, starts, found = {}, {}, {}

def profile(frame, event, argument):
    if event == "call":
        code = frame.f_code
        file = code.co_filename
        if "/src/medvision/" in file and not code.co_name.startswith("<"):
            name = f"{file.rpartition('/src/medvision/')[2]}:{code.co_qualname}"
            last[name] = None

def begin(start):
    if start not in starts:
        starts[start] = None
        last.clear()

def finish(path):
    if path in found:
        return
    names = list(last)
    stack = [f"{frame.filename.rpartition('/src/medvision/')[2]}:{frame.name}"
             for frame in traceback.extract_stack() if "/src/medvision/" in frame.filename]
    found[path] = {"entered": names, "stack": stack}
    with open(os.environ["STRUCTURE_OUT"], "w") as stream:
        json.dump(found, stream)

def renamed(event, arguments):
    if event == "os.rename":
        target = os.fspath(arguments[1])
        if target.endswith("report.html") and "test" in starts:
            finish("finished run to report.html")
        if "/masks/" in target:
            finish("medvision predict")

sys.addaudithook(renamed)
sys.setprofile(profile)
threading.setprofile(profile)

if sys.argv[1] == "train":
    import medvision.tasks.base as base

    step, log, test_end = (
        base.Task.training_step, base.Task.log, base.Task.on_test_epoch_end
    )

    def training_step(self, *arguments):
        finish("command to first training_step")
        begin("step")
        return step(self, *arguments)

    def logged(self, *arguments, **keywords):
        finish("batch to log")
        return log(self, *arguments, **keywords)

    def on_test_epoch_end(self):
        begin("test")
        return test_end(self)

    base.Task.training_step, base.Task.log = training_step, logged
    base.Task.on_test_epoch_end = on_test_epoch_end
    from medvision.run import main

    sys.exit(main(sys.argv[2:]))
from medvision.cli import main

sys.argv = ["medvision", *sys.argv[2:]]
main()
"""

PATHS = (
    "command to first training_step",
    "batch to log",
    "finished run to report.html",
    "medvision predict",
)


def module_names(source: Path) -> dict[str, Path]:
    """File of each module below ``source``, by dotted name."""
    found = {}
    for path in sorted(source.rglob("*.py")):
        name = ".".join(path.relative_to(source).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = path
    return found


def imported(path: Path, modules: Mapping[str, Path]) -> Iterator[tuple[str, str | None]]:
    """Every own module that a file imports, with the name taken from it, if one is."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                below = f"{node.module}.{alias.name}"
                if below in modules:
                    yield below, None
                elif node.module in modules:
                    yield node.module, alias.name


def exported_names(name: str, path: Path) -> dict[str, str]:
    """Module that defines each name which the ``__init__`` of a package re-exports."""
    homes: dict[str, str] = {}
    for file in (path, path.with_suffix(".pyi")):
        if not file.exists():
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                home = f"{name}.{node.module}" if node.level else node.module
                homes |= {alias.asname or alias.name: home for alias in node.names}
    return homes


def import_graph(source: Path) -> dict[str, set[str]]:
    """Modules that each module imports, looked up behind the names that packages re-export."""
    modules = module_names(source)
    packages = {name: path for name, path in modules.items() if path.name == "__init__.py"}
    exports = {name: exported_names(name, path) for name, path in packages.items()}
    graph: dict[str, set[str]] = {name: set() for name in modules}
    for name, path in modules.items():
        for target, attribute in imported(path, modules):
            while target in packages and attribute in exports[target]:
                home = exports[target][attribute]
                if home == target or home not in modules:
                    break
                target = home
            if target != name and not (name in packages and target.startswith(f"{name}.")):
                graph[name].add(target)
    return graph


def single_importers(graph: Graph, packages: set[str]) -> list[str]:
    """Modules that exactly one other module imports."""
    users: dict[str, set[str]] = defaultdict(set)
    for name, targets in graph.items():
        for target in targets:
            users[target].add(name)
    return sorted(name for name in graph if name not in packages and len(users[name]) == 1)


def cycles(graph: Graph) -> list[list[str]]:
    """Strongly connected components of more than one module (Tarjan 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for target in graph[name]:
            if target not in index:
                visit(target)
                low[name] = min(low[name], low[target])
            elif target in stack:
                low[name] = min(low[name], index[target])
        if low[name] == index[name]:
            group = []
            while not group or group[-1] != name:
                group.append(stack.pop())
            if len(group) > 1:
                found.append(sorted(group))

    for name in graph:
        if name not in index:
            visit(name)
    return found


def measure_paths(checkout: Path, folder: Path) -> dict[str, dict[str, list[str]]]:
    """Own functions entered on each of the four paths, and those on the stack at its end."""
    runs = (
        ("train", *SMALL, f"run_dir={folder / 'run'}"),
        (
            "verb",
            "predict",
            str(folder / "run"),
            str(folder / "images"),
            "--out",
            str(folder / "o"),
        ),
    )
    import cv2
    import numpy as np

    (folder / "images").mkdir()
    cv2.imwrite(str(folder / "images" / "a.png"), np.zeros((40, 40, 3), np.uint8))
    found: dict[str, dict[str, list[str]]] = {}
    for number, arguments in enumerate(runs):
        out = folder / f"{number}.json"
        subprocess.run(
            [sys.executable, "-c", TRACER, *arguments],
            env=_environment(checkout) | {"STRUCTURE_OUT": str(out)},
            cwd=folder,
            check=True,
            capture_output=True,
        )
        found |= json.loads(out.read_text())
    return found


def seconds(checkout: Path, *arguments: str) -> float:
    """Shortest of five starts of ``train.py`` with these arguments."""
    taken = []
    for _ in range(5):
        started = time.perf_counter()
        subprocess.run(
            [sys.executable, str(checkout / "train.py"), *arguments],
            env=_environment(checkout),
            capture_output=True,
            check=False,
        )
        taken.append(time.perf_counter() - started)
    return min(taken)


def _environment(checkout: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(checkout / "src"), "CUDA_VISIBLE_DEVICES": ""}


def describe(checkout: Path, *, verbose: bool) -> dict[str, str]:
    """Every figure of one checkout."""
    source = checkout / "src"
    modules, graph = module_names(source), import_graph(source)
    packages = {name for name, path in modules.items() if path.name == "__init__.py"}
    folders = Counter(p.parent for p in modules.values() if p.name != "__init__.py")
    largest, size = folders.most_common(1)[0]
    files = [*source.rglob("*.py"), *source.rglob("*.pyi")]
    single, loops = single_importers(graph, packages), cycles(graph)
    with tempfile.TemporaryDirectory() as folder:
        paths = measure_paths(checkout, Path(folder))
    if verbose:
        print("single importer:", *single, sep="\n  ")
        print("cycles:", *(" <-> ".join(loop) for loop in loops), sep="\n  ")
        for path in PATHS:
            print(f"{path}:", *paths[path]["entered"], sep="\n  ")
    return {
        "modules": str(len(modules)),
        "lines of source": f"{sum(len(f.read_text().splitlines()) for f in files):,}",
        "largest folder": f"{size} ({largest.relative_to(source)})",
        "modules with a single importer": str(len(single)),
        "import cycles": str(len(loops)),
        **{
            f"functions, {path}": f"{len(found['entered'])} ({len(found['stack'])})"
            for path, found in paths.items()
        },
        "seconds, --help": f"{seconds(checkout, '--help'):.2f}",
        "seconds, a configuration error": f"{seconds(checkout, 'experiment=no_such'):.2f}",
    }


def main() -> None:
    """Print a table with one column for each checkout."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("checkouts", nargs="*", type=Path, default=[Path(__file__).parents[1]])
    parser.add_argument("--verbose", action="store_true", help="name the modules and functions")
    given = parser.parse_args()
    columns = [describe(path.resolve(), verbose=given.verbose) for path in given.checkouts]
    print("| |" + "".join(f" {path.name or path} |" for path in given.checkouts))
    print("|---|" + "---:|" * len(columns))
    for row in columns[0]:
        print(f"| {row} |" + "".join(f" {column[row]} |" for column in columns))


if __name__ == "__main__":
    main()
