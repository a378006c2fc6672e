"""Tell the process that started a fit what the process that ran it has seen."""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint

from medvision.files import write_json


class Handover(Checkpoint):
    """Write what the other callbacks know when a fit has ended, for another process to take over.

    Where Lightning forks the processes of a fit (all cores of a TPU), the callbacks that counted
    and chose are copies in those processes; what they know is lost with them. A ``Checkpoint`` by
    Lightning's order only: the last to see the end.

    Args:
        folder: Run folder; the file in it lives until it is taken over.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / ".handover.json"

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
            known = {
                name: {attribute: getattr(callback, attribute) for attribute in attributes}
                for name, callback, attributes in _givers(callbacks)
            }
            write_json(self.path, known)

    def take_over(self, callbacks: Iterable[Callback]) -> None:
        """Set what the callbacks of another process knew in these, and remove the file."""
        known = json.loads(self.path.read_text())
        for name, callback, _ in _givers(callbacks):
            for attribute, value in known[name].items():
                setattr(callback, attribute, value)
        self.path.unlink()


def _givers(callbacks: Iterable[Callback]) -> Iterator[tuple[str, Callback, Sequence[str]]]:
    """Name of each callback that hands something over, itself, and the attributes that it names."""
    for callback in callbacks:
        if attributes := getattr(callback, "HANDED_OVER", ()):
            yield type(callback).__name__, callback, attributes
