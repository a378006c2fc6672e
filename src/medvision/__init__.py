"""Train, check and compare 2-D medical-image models. For research use only."""

__version__ = "0.1.0"
