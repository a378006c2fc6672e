"""Files of a run folder, read for its report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from medvision.errors import MedvisionError
from medvision.files import MOST_BYTES, plain_values, read_regular, read_rows, run_status


@dataclass(frozen=True, kw_only=True)
class RunFiles:
    """Contents of a run folder; missing files are empty.

    Attributes:
        folder: Run folder.
        summary: ``summary.json``, the only required file.
        config_text: ``config.yaml`` as text.
        config: ``config.yaml`` as values.
        environment: ``environment.json``.
        splits: Rows of ``splits.csv``, one per image.
        predictions: Rows of ``predictions_test.csv``, one per image, or of ``predictions_val.csv``
            if only validation images were evaluated.
        plots: Pictures in ``plots``, by name without the suffix.
    """

    folder: Path
    summary: Mapping[str, Any]
    config_text: str
    config: Mapping[str, Any]
    environment: Mapping[str, Any]
    splits: Sequence[Mapping[str, str]]
    predictions: Sequence[Mapping[str, str]]
    plots: Mapping[str, Path]

    @classmethod
    def read(cls, folder: Path, *, summary: Mapping[str, Any] | None = None) -> Self:
        """Read the folder.

        Args:
            folder: Run folder.
            summary: Content to use instead of ``summary.json``.

        Raises:
            MedvisionError: If there is no ``summary.json``, or a file cannot be read.
        """
        summary = _read_plain(folder / "summary.json")[1] if summary is None else summary
        if not summary:
            raise MedvisionError(
                "cannot write a report: summary.json is missing or empty",
                where=str(folder),
                hint="give a run folder",
            )
        config_text, config = _read_plain(folder / "config.yaml")
        return cls(
            folder=folder,
            summary=summary,
            config_text=config_text,
            config=config,
            environment=_read_plain(folder / "environment.json")[1],
            splits=_read_csv(folder / "splits.csv"),
            predictions=_read_csv(folder / "predictions_test.csv")
            or (_read_csv(folder / "predictions_val.csv") if _of_validation(summary) else []),
            plots={path.stem: path for path in sorted((folder / "plots").glob("[!.]*.png"))},
        )

    @property
    def task(self) -> str:
        """``segmentation`` or ``classification``."""
        return str(self.summary["task"])

    @property
    def status(self) -> str:
        """Status of the run as it is now."""
        known = self.summary.get("status", "finished")
        return run_status(self.folder, {"status": known})

    @property
    def metrics(self) -> Mapping[str, Any]:
        """Scores by ``stage/name``."""
        found: Mapping[str, Any] = self.summary.get("metrics") or {}
        return found

    @property
    def dataset(self) -> Mapping[str, Any]:
        """Description of the images in the summary."""
        found: Mapping[str, Any] = self.summary.get("dataset") or {}
        return found

    @property
    def num_images(self) -> Mapping[str, int]:
        """Number of images by split."""
        found: Mapping[str, int] = self.dataset.get("num_images") or {}
        return found

    @property
    def scored(self) -> Mapping[str, Mapping[str, Any]]:
        """Numbers of images behind the scores, by split; empty for older runs."""
        found: Mapping[str, Mapping[str, Any]] = self.summary.get("scored") or {}
        return found

    def num_scored(self, stage: str) -> int:
        """Number of images behind the scores of a split; 0 if unknown."""
        known = self.scored.get(stage) or {}
        count = known.get("num_images", self.num_images.get(stage))
        return int(count or (len(self.predictions) if stage == self.stage else 0))

    @property
    def stage(self) -> str:
        """Reported split: ``test``, or ``val`` if nothing else was measured."""
        if _of_validation(self.summary):
            return "val"
        tested = any(name.startswith("test/") for name in self.metrics)
        return "test" if tested or not self.metrics else "val"

    @property
    def external(self) -> bool:
        """True if the run was evaluated on other data than its own."""
        return bool((self.summary.get("evaluated") or {}).get("external"))

    @property
    def sealed(self) -> bool:
        """True if the run belongs to a hyper-parameter search and its test images are unused."""
        tested = any(name.startswith("test/") for name in self.metrics)
        return bool(self.summary.get("sealed")) and not tested

    @property
    def data_config(self) -> Mapping[str, Any]:
        """Data section of the config."""
        data = self.config.get("data")
        return data if isinstance(data, dict) else {}

    @property
    def root(self) -> str | None:
        """Folder of the images; None for phantoms, or if unknown."""
        if self.external:
            return str(self.summary["evaluated"]["data"])
        root = self.data_config.get("root")
        return None if root is None else str(root)

    @property
    def trained_on_synthetic(self) -> bool:
        """True if the network was trained on phantoms."""
        if not self.external:
            return bool(self.dataset.get("synthetic"))
        return self.data_config.get("root", "unknown") is None

    @property
    def class_names(self) -> Sequence[str]:
        """Known class names, in order."""
        counts = self.dataset.get("class_counts") or {}
        for by_class in counts.values():
            return list(by_class)
        return [str(name) for name in self.data_config.get("class_names") or ()]


def _of_validation(summary: Mapping[str, Any]) -> bool:
    """Return True if the folder is an evaluation on the validation images of the run."""
    evaluated = summary.get("evaluated") or {}
    return bool(evaluated.get("split") == "val" and not evaluated.get("external"))


def _read_plain(path: Path) -> tuple[str, dict[str, Any]]:
    """Text of a plain file and its values; both empty if it is missing or empty."""
    try:
        text = read_regular(path, most=MOST_BYTES).decode()
        return text, plain_values(text, path.suffix) if text.strip() else {}
    except FileNotFoundError:
        return "", {}
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error


def _read_csv(path: Path) -> list[dict[str, str]]:
    try:
        return read_rows(path)
    except FileNotFoundError:
        return []


def _unreadable(path: Path, reason: object) -> MedvisionError:
    return MedvisionError(
        f"cannot read {path.name}: {reason}", where=str(path), hint="fix or remove the file"
    )
