"""Hydra sweeper that runs the hyper-parameter search."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class MedvisionSweeper(Sweeper):
    """Search the keys that a command varies.

    Args:
        params: Keys that vary by config, as for BasicSweeper: ``{key: "interval(0, 1)"}``.
    """

    def __init__(self, params: Mapping[str, str] | None = None) -> None:
        self.params = dict(params or {})
        self.config: DictConfig | None = None
        self.hydra_context: HydraContext | None = None
        self.task_function: TaskFunction | None = None

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Store Hydra's objects; the launcher is created once the search is known."""
        self.config, self.hydra_context = config, hydra_context
        self.task_function = task_function

    def sweep(self, arguments: list[str]) -> Any:
        """Search until enough trials have ended."""
        from medvision.run.search.runner import search

        assert self.config is not None
        assert self.hydra_context is not None
        assert self.task_function is not None
        given = [f"{key}={value}" for key, value in self.params.items()]
        return search(
            [*given, *arguments],
            config=self.config,
            hydra_context=self.hydra_context,
            task_function=self.task_function,
        )
