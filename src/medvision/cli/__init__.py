"""The ``medvision`` command: argument parsing only, each verb one call."""

from medvision.cli.program import app, main

__all__ = ["app", "main"]
