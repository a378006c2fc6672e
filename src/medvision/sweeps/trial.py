"""A trial as plain values."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from medvision.sweeps.space import Value

State = Literal["running", "complete", "pruned", "failed"]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What is known of a trial.

    Attributes:
        number: Counted from 0, in the order of the proposals; also the name of its run folder.
        state: How it ended; ``running`` where it has not.
        values: What it was given, by name of the key.
        value: The metric at the best epoch; of a pruned trial the best it had; else None.
        by_epoch: The metric at the end of each epoch that defined it.
        epochs: How many it trained.
        max_epochs: How many it would have trained, had nobody stopped it.
        seconds: How long the fit took.
        best_epoch: Epoch of ``best.ckpt``, from 0.
        error: Why it failed, in one line.
    """

    number: int
    state: State
    values: Mapping[str, Value]
    value: float | None = None
    by_epoch: Mapping[int, float] = field(default_factory=dict)
    epochs: int | None = None
    max_epochs: int | None = None
    seconds: float | None = None
    best_epoch: int | None = None
    error: str | None = None

    @property
    def ended(self) -> bool:
        """Whether it counts among the trials that were asked for."""
        return self.state != "running"

    def plain(self) -> dict[str, Any]:
        """As pages and plots get it."""
        return {
            "number": self.number,
            "state": self.state,
            "values": dict(self.values),
            "value": self.value,
            "by_epoch": dict(self.by_epoch),
            "epochs": self.epochs,
            "max_epochs": self.max_epochs,
            "seconds": self.seconds,
            "best_epoch": self.best_epoch,
            "error": self.error,
        }


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a trial ended, as its run folder tells it.

    Attributes:
        state: ``complete``, ``pruned`` or ``failed``.
        value: The metric; None where it failed.
        facts: Of `Trial`: ``epochs``, ``max_epochs``, ``seconds``, ``best_epoch``, ``error``.
    """

    state: State
    value: float | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


def best_of(trials: list[Trial], mode: str) -> Trial | None:
    """The complete trial with the best value, the first of several; None where there is none."""
    known = [trial for trial in trials if trial.state == "complete" and trial.value is not None]
    if not known:
        return None
    sign = -1 if mode == "max" else 1
    return min(known, key=lambda trial: (sign * (trial.value or 0.0), trial.number))
