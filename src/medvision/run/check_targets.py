"""Refuse names of classes that are nowhere, without importing what they would be in."""

import ast
import importlib.util
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from medvision.types import MedvisionError, did_you_mean

TARGET = "_target_"

_MAKES_NAMES = re.compile(r"^def __getattr__|\b(globals|exec)\(|\bsys\.modules\b", re.MULTILINE)
"""How a module may come by names that its text does not show."""


def check_targets(cfg: DictConfig) -> None:
    """Check that every class that a config names is written somewhere.

    Sources are read, not run: what a module makes in other ways than ``class``, ``def``, ``import``
    and assignments passes, and so does whatever is no Python source.

    Raises:
        MedvisionError: If a package, module, class or function is certainly not there, or a
            callback has keys and no class.
    """
    for name, node in (cfg.get("callbacks") or {}).items():
        if node is not None and TARGET not in node:
            raise MedvisionError(
                "there are keys for a callback that is not chosen",
                where=f"callbacks.{name}",
                hint=f"leave it out with callbacks.{name}=null, or choose callbacks={name}",
            )
    for key, target in _targets(OmegaConf.to_container(cfg, resolve=False)):
        _check(target, where=key)


def _targets(node: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Full key and value of every target that is given as it is."""
    inside = node.items() if isinstance(node, dict) else ()
    for key, value in enumerate(node) if isinstance(node, list) else inside:
        full = f"{path}.{key}".lstrip(".")
        if key == TARGET and isinstance(value, str) and "${" not in value:
            yield full, value
        yield from _targets(value, full)


def _check(target: str, *, where: str) -> None:
    package, *names = target.split(".")
    place = _package(package)
    if place is None:
        raise MedvisionError(
            f"there is no package {package}", where=where, hint="install it, or mend the name"
        )
    module = package
    for name in names:
        inside = place.below(name)
        if inside is None:
            known = place.names()
            if known is not None and name not in known:
                alike = [k for k in known if k[:1].isupper() == name[:1].isupper() and k[0] != "_"]
                hint = did_you_mean(name, sorted(alike), otherwise="mend the name")
                raise MedvisionError(f"{module} has no {name}", where=where, hint=hint)
            return  # what is inside a class is its own business
        place, module = inside, f"{module}.{name}"


@dataclass(frozen=True)
class _Place:
    """Where a module lies.

    Attributes:
        source: Its text; None where it has none in Python.
        folders: Of a package.
        is_ours: Whether its text shows all of its names, ``__getattr__`` or not.
    """

    source: Path | None
    folders: tuple[Path, ...]
    is_ours: bool

    def below(self, name: str) -> "_Place | None":
        """A module of the package; None where it has none of that name."""
        paths = [folder / name for folder in self.folders]
        folders = tuple(path for path in paths if path.is_dir())
        files = [p / "__init__.py" for p in paths] + [p.with_name(f"{name}.py") for p in paths]
        source = next((file for file in files if file.is_file()), None)
        binary = any(True for path in paths for _ in path.parent.glob(f"{name}.*"))
        return _Place(source, folders, self.is_ours) if source or folders or binary else None

    def names(self) -> set[str] | None:
        """What the module defines at its top, under whatever condition; None if more is possible.

        What all of another module is imported from counts as defined here.
        """
        if self.source is None:
            return None
        text = self.source.read_text(encoding="utf-8", errors="replace")
        if not self.is_ours and _MAKES_NAMES.search(text):
            return None
        try:
            nodes: list[ast.AST] = [*ast.parse(text).body]
        except SyntaxError:  # the import will say so
            return None
        names: set[str] = set()
        while nodes:
            node = nodes.pop()
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                names.add(node.name)
                continue
            if isinstance(node, ast.Import | ast.ImportFrom):
                names |= {alias.asname or alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                names.add(node.id)
            if isinstance(node, ast.ImportFrom) and node.names[0].name == "*":
                more = None if node.level else _module(node.module or "")
                others = None if more is None else more.names()
                if others is None:
                    return None
                names |= others
            nodes.extend(ast.iter_child_nodes(node))
        return names


def _package(name: str) -> _Place | None:
    try:
        spec = importlib.util.find_spec(name)
    except ValueError:  # it was made, not found
        return _Place(None, (), False)
    if spec is None:
        return None
    source = Path(spec.origin or "")
    folders = tuple(Path(folder) for folder in spec.submodule_search_locations or ())
    return _Place(source if source.suffix == ".py" else None, folders, name == "medvision")


def _module(name: str) -> _Place | None:
    package, *names = name.split(".")
    place = _package(package)
    for part in names:
        place = None if place is None else place.below(part)
    return place
