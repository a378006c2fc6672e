"""From a command line to a finished run folder: the only package that imports Hydra."""

from medvision.run.main import main

__all__ = ["main"]
