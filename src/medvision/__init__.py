"""Train, check and compare 2-D medical-image models. For research use only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # keeps `medvision --help` fast
    from medvision.inference import load_model

__version__ = "0.1.0"

__all__ = ["load_model"]


def __getattr__(name: str) -> Any:
    if name != "load_model":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from medvision.inference import load_model

    return load_model
