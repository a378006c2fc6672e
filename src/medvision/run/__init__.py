"""From a command line to a finished run folder: the only room that knows Hydra."""

from medvision.run.main import main

__all__ = ["main"]
