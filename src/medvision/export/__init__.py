"""A trained network as a file that other programs run, checked against the one it came from."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the command line looks up a name before it needs torch
    from medvision.export.write import Exported, Format, default_name, export_model

__all__ = ["Exported", "Format", "default_name", "export_model"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.write"), name)
