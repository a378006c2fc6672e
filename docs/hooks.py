"""Pages that MkDocs writes from the code: commands, config keys, scores, data sets and API.

A key without a comment, a score without a definition or a public name without a docstring is a
warning, which fails the strict build.
"""

import html
import importlib
import inspect
import logging
import posixpath
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
CONF = ROOT / "conf"
log = logging.getLogger("mkdocs.hooks.medvision")

PUBLIC = (
    "medvision",
    "medvision.tasks",
    "medvision.models",
    "medvision.losses",
    "medvision.metrics",
    "medvision.data",
    "medvision.callbacks",
    "medvision.inference",
)
"""Packages whose ``__all__`` is documented."""

GROUPS = {
    "data": "Data",
    "model": "Networks",
    "task": "Tasks",
    "loss": "Losses",
    "metrics": "Further metrics",
    "optimizer": "Optimizers",
    "scheduler": "Learning-rate schedules",
    "trainer": "Trainer",
    "callbacks": "Callbacks",
    "logger": "Loggers",
    "sweep": "Searches",
    "experiment": "Experiments",
}
HYDRA_KEYS = {
    "_target_": "class that is built",
    "_partial_": "arguments are completed later",
    "_recursive_": "nested classes are built by the class itself",
    "defaults": "files that this one starts from",
}


def on_files(files: Files, config: Any) -> Files:
    """Add the generated pages, and the figures of the benchmarks."""
    pages: dict[str, Callable[[], str]] = {
        "manual/commands.md": commands_page,
        "manual/config.md": config_page,
        "manual/scores.md": scores_page,
        "manual/data_sets.md": data_sets_page,
        "manual/api.md": api_page,
        "benchmarks.md": lambda: (ROOT / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8"),
    }
    for path, write in pages.items():
        files.append(File.generated(config, path, content=write()))
    for figure in sorted((ROOT / "benchmarks").glob("*.png")):
        files.append(File.generated(config, figure.name, abs_src_path=str(figure)))
    return files


PAGE_OF = {
    "src/medvision/cli/program.py": "manual/commands.md",
    "conf": "manual/config.md",
    "src/medvision/scores.py": "manual/scores.md",
    "src/medvision": "manual/api.md",
    "benchmarks/RESULTS.md": "benchmarks.md",
}
"""Generated page for a file of the repository: links lead to the file where no site is built."""


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Files) -> str:  # noqa: ARG001
    """Lead links to files of the repository to the generated pages."""
    folder = posixpath.dirname(page.file.src_uri)

    def replaced(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join("docs", folder, link[1]))
        if target not in PAGE_OF:
            return link[0]
        return f"]({posixpath.relpath(PAGE_OF[target], folder or '.')}"

    return re.sub(r"\]\(([^)#:]+)", replaced, markdown)


def commands_page() -> str:
    """Format the help of every command."""
    import typer
    from typer.cli import get_docs_for_click

    from medvision.cli.program import app

    command = typer.main.get_command(app)
    context = command.make_context("medvision", [], resilient_parsing=True)
    text = get_docs_for_click(obj=command, ctx=context, name="medvision", title="Commands")
    return re.sub(r"^\* `--(install-completion|show-completion)`.*\n", "", text, flags=re.M)


# Config -------------------------------------------------------------------------------------------


def config_page() -> str:
    """Format all config files as tables of keys."""
    lines = [
        "# Config keys",
        "",
        "Set a key on the command line as `KEY=VALUE`, and choose a file of a group as"
        " `GROUP=NAME`. `medvision train experiment=NAME --cfg job` prints the config of a run. A"
        " wrong key is an error that names the nearest valid one.",
        "",
        "## Root",
        "",
        *_file_lines(CONF / "train.yaml", prefix=""),
    ]
    for group, title in GROUPS.items():
        folder = CONF / group
        if not folder.is_dir():
            continue
        lines += ["", f"## {title}: `{group}=`"]
        for path in sorted(folder.rglob("*.yaml")):
            name = path.relative_to(folder).with_suffix("").as_posix()
            lines += ["", f"### {group}={name}", ""]
            lines += _file_lines(path, prefix="" if group == "experiment" else f"{group}.")
    return "\n".join(lines) + "\n"


def _file_lines(path: Path, *, prefix: str) -> list[str]:
    """Format the head of a file as text, and its keys as a table or, of an experiment, as is."""
    text = path.read_text(encoding="utf-8")
    if prefix == "" and path.name != "train.yaml":
        return ["```yaml", text.strip(), "```"]
    head = re.match(r"(?:#.*\n)*", text)
    words = [line.removeprefix("#").strip() for line in (head[0] if head else "").splitlines()]
    lines = [_escaped(" ".join(word for word in words if not word.startswith("@package")))]
    lines += ["", "| key and default | meaning |", "|---|---|"]
    for key, value, comment in config_keys(text):
        meaning = comment or HYDRA_KEYS.get(key.rpartition(".")[2], "")
        name = f"`{prefix}{key}`" + (f"<br>`= {value}`" if value else "")
        lines.append(f"| {name} | {_escaped(meaning)} |")
    return lines


def _escaped(text: str) -> str:
    return html.escape(text, quote=False).replace("|", "\\|")


def config_keys(text: str) -> Iterator[tuple[str, str, str]]:
    """Yield name, default and comment of the keys of a YAML file, without Hydra's defaults list."""
    parents: list[tuple[int, str]] = []
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    comments = _comments(text)
    yield from _keys_of(node, comments, parents)


def _keys_of(
    node: Any, comments: dict[int, str], parents: list[tuple[int, str]]
) -> Iterator[tuple[str, str, str]]:
    for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
        if key.value == "defaults" and not parents:
            continue
        name = ".".join([*(parent for _, parent in parents), key.value])
        comment = comments.get(key.start_mark.line, "")
        if isinstance(value, yaml.MappingNode) and value.value and not value.flow_style:
            if comment:
                yield name, "", comment
            yield from _keys_of(value, comments, [*parents, (0, key.value)])
        else:
            buffer = value.start_mark.buffer[value.start_mark.pointer : value.end_mark.pointer]
            yield name, buffer.strip(), comment


def _comments(text: str) -> dict[int, str]:
    """Comment at the end of each line, found where YAML sees no token."""
    tokens = [t for t in yaml.scan(text, Loader=yaml.SafeLoader) if t.start_mark != t.end_mark]
    ends: dict[int, int] = {}
    for token in tokens:
        ends[token.end_mark.line] = max(ends.get(token.end_mark.line, 0), token.end_mark.column)
    found = {}
    for number, line in enumerate(text.splitlines()):
        comment = re.match(r"\s+#\s*(.*)", line[ends[number] :]) if number in ends else None
        if comment:
            found[number] = comment[1]
    return found


# Scores, data sets and API ------------------------------------------------------------------------


def scores_page() -> str:
    """Format the definitions of all scores."""
    from medvision.scores import scores_of
    from medvision.task_definition import task_names

    lines = [
        "# Scores",
        "",
        "A score is logged as `stage/name`, that of one class as `stage/name/class`, and its 95 %"
        " interval as `stage/name_ci95`. Stages are `train`, `val` and `test`.",
    ]
    for task in task_names():
        lines += ["", f"## {task.capitalize()}"]
        for score in scores_of(task):
            if not score.definition:
                log.warning("the score %s has no definition", score.name)
            unit = f", in {score.unit}" if score.unit else ""
            better = f"{score.better} is better" + (", in [0, 1]" if score.bounded else "")
            lines += ["", f"### `{score.name}`", "", f"{score.capitalized}{unit}; {better}.", ""]
            lines.append(score.definition)
            lines += ["", "```text", score.formula, "```"] if score.formula else []
    return "\n".join(lines) + "\n"


def data_sets_page() -> str:
    """Format the catalogue of public data sets."""
    from medvision.data.download.catalog import CATALOG

    lines = [
        "# Public data sets",
        "",
        "`medvision data list` prints this table, `medvision data download NAME --root DIR` fetches"
        " a set. The licences are those of the data, not of medvision.",
        "",
        "| name | task | images | licence | home page |",
        "|---|---|---|---|---|",
    ]
    for entry in CATALOG.values():
        home = f"[{entry.title}]({entry.home_page})" if entry.home_page else entry.title
        images = f"{entry.num_images}" if entry.num_images else ""
        lines.append(f"| `{entry.name}` | {entry.task} | {images} | {entry.licence} | {home} |")
    return "\n".join(lines) + "\n"


def api_page() -> str:
    """List the public names of the packages for mkdocstrings."""
    lines = [
        "# Python API",
        "",
        "Names are imported on first use. Shapes: N images, C channels, H height, W width, K"
        " classes.",
    ]
    documented: set[str] = set()
    for package in PUBLIC:
        module = importlib.import_module(package)
        lines += ["", f"## {package}", "", (inspect.getdoc(module) or "").split("\n\n")[0]]
        for name in sorted(module.__all__):
            item = getattr(module, name)
            if inspect.ismodule(item) or not hasattr(item, "__qualname__"):
                continue
            path = f"{item.__module__}.{item.__qualname__}"
            if not inspect.getdoc(item):
                log.warning("the public name %s.%s has no docstring", package, name)
            if path in documented:
                lines += ["", f"`{name}`: see [{path}][{path}]."]
            else:
                documented.add(path)
                lines += ["", f"::: {path}"]
    return "\n".join(lines) + "\n"
