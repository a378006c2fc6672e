"""From a command line to a finished run folder: the only room that knows Hydra."""

from medvision.run.program import main

__all__ = ["main"]
