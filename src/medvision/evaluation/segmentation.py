"""Evaluation of a segmentation model."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medvision.callbacks import SegmentationPredictions
from medvision.console import counted
from medvision.data import SegmentationData
from medvision.data.samples import JOIN, ROI, masks_in
from medvision.evaluation.base import (
    Evaluation,
    FinishedRun,
    Score,
    interval_or_none,
    or_none,
)
from medvision.evaluation.parts import Tested, several_per_group
from medvision.files import write_table
from medvision.metrics import (
    annotator_agreement,
    mean_defined,
    mean_interval,
    pooled_score_intervals,
    proportion_interval,
)
from medvision.metrics.conventions import SegmentationConventions
from medvision.metrics.intervals import group_numbers
from medvision.metrics.lesions import size_groups
from medvision.reports.plots.overlays import draw_overlay
from medvision.reports.run_page import Case
from medvision.scores import names_at, score_named
from medvision.types import IGNORE_INDEX, Stage


class SegmentationEvaluation(Evaluation):
    """Dice, IoU and pixel rates with intervals over images (or groups), and probability maps.

    Args:
        folder: Run folder.
        data: The prepared data module.
        surface: If True, add HD95 and surface Dice of the test images, which take longer than
            all other scores.
    """

    def __init__(
        self,
        *,
        folder: Path,
        data: SegmentationData,
        surface: bool = False,
    ) -> None:
        super().__init__(folder=folder)
        self.threshold = 0.5
        self.data, self.surface = data, surface
        self._counted: SegmentationConventions | None = None
        self._watched: dict[Stage, SegmentationPredictions] = {}
        self._auroc: float | None = None

    @classmethod
    def of_run(
        cls,
        *,
        folder: Path,
        data: SegmentationData,
        options: Mapping[str, Any],  # noqa: ARG003  this task has no option for evaluation
        finished: FinishedRun | None = None,
    ) -> Self:
        return cls(folder=folder, data=data, surface=finished is not None)

    def watch(self, stage: Stage) -> SegmentationPredictions:
        if self.with_conventions:
            self._counted = SegmentationConventions(len(self.data.class_names))
        self._watched[stage] = SegmentationPredictions(
            folder=self.folder,
            stage=stage,
            samples=self.data.tables[stage],
            source=self.data.source,
            class_names=self.data.class_names,
            surface=self.surface and stage == "test",
            conventions=self._counted,
        )
        return self._watched[stage]

    def scores(self, stage: Stage, logged: Mapping[str, float]) -> dict[str, Score]:
        seen = self._watched[stage]
        if not seen.rows:
            return {}
        self.scored[stage] = {"num_images": len(seen.rows)}
        self.note_never_predicted(stage, self._never_predicted(seen))
        scores: dict[str, Score] = {name: or_none(value) for name, value in logged.items()}
        groups = self.data.groups_of(seen.rows)
        for name, score in ((name, score_named(name, "segmentation")) for name in seen.rows[0]):
            if score is None or not score.per_image:
                continue
            values = [row[name] for row in seen.rows]
            mean, undefined = mean_defined(values)
            scores.setdefault(f"{stage}/{name}", or_none(mean))
            scores[f"{stage}/{name}_ci95"] = self._interval(name, values, groups)
            if score.may_be_undefined or undefined:
                scores[f"{stage}/{name}_undefined"] = undefined
        for name, value in self._lesion_scores(seen.rows, groups).items():
            scores[f"{stage}/{name}"] = value
        pooled = pooled_score_intervals(seen.confusion, seen.histogram, groups=groups)
        for name, ends in pooled.items():
            scores[f"{stage}/{name}_ci95"] = interval_or_none(ends)
        if seen.not_finite:
            self.not_finite[stage] = seen.not_finite
            return dict.fromkeys(scores)
        self.note_missing_intervals(stage, scores)
        if stage == "test":
            self._auroc = or_none(logged["test/auroc"])
            self._write_roc(seen)
            missed = sum(
                row["lesion_percent"] > 0 and math.isnan(row["hd95_px"])
                for row in seen.rows
                if "hd95_px" in row
            )
            if missed:
                self.notes.append(
                    f"HD95 leaves out {missed} of {counted(len(seen.rows), 'test image')}, in which"
                    " the lesion was missed: hd95_px_penalised counts each as the diagonal of the"
                    " image"
                )
        return scores

    def _never_predicted(self, seen: SegmentationPredictions) -> dict[str, int]:
        """Classes that are labelled, but predicted for no pixel, with their number of images."""
        pixels = seen.confusion.sum(axis=0)
        images = (seen.confusion.sum(axis=2) > 0).sum(axis=0)
        predicted, labelled = pixels.sum(axis=0), pixels.sum(axis=1)
        return {
            name: int(images[k])
            for k, name in enumerate(self.data.class_names)
            if labelled[k] and not predicted[k]
        }

    def _lesion_scores(
        self, rows: Sequence[Mapping[str, Any]], groups: Sequence[str] | None
    ) -> dict[str, Score]:
        """Compute the share of lesions that are found, and the false positives of an image."""
        if "lesions" not in rows[0]:
            return {}
        images = group_numbers(groups, len(rows))
        found: dict[str, Score] = {}
        for column in (name for name in rows[0] if name.partition("/")[0] == "lesions"):
            of = column.removeprefix("lesions")
            sizes = np.nan_to_num([row[column] for row in rows]).astype(int)
            of_image = np.repeat(images, sizes)
            for end in ("", "_iou"):
                hits = np.nan_to_num([row[f"lesions_found{end}{of}"] for row in rows]).astype(int)
                each = [np.arange(size) < n for size, n in zip(sizes, hits, strict=True)]
                right = np.concatenate(each)
                share = or_none(right.mean()) if len(right) else None
                name = f"lesion_recall{end}{of}"
                found[name], found[f"{name}_ci95"] = share, None
                if share is not None:
                    interval = proportion_interval(right, groups=of_image)
                    found[f"{name}_ci95"] = interval_or_none(interval)
                values = [row[f"false_positives{end}{of}"] for row in rows]
                name = f"false_positives_per_image{end}{of}"
                found[name] = or_none(mean_defined(values)[0])
                interval = mean_interval(values, groups=groups, upper=None)
                found[f"{name}_ci95"] = interval_or_none(interval)
        return found

    def conventions(self, stage: Stage) -> list[dict[str, Any]]:  # noqa: ARG002  last watched split
        return [] if self._counted is None else self._counted.compute()

    def details(self) -> dict[str, Any]:
        rows = self._test_rows
        if not rows or self.not_finite.get("test"):
            return {}
        found = self._annotators(rows)
        if len(self.data.class_names) != 2:
            return found
        share = np.array([row["lesion_percent"] / 100 for row in rows])
        groups = self.data.groups_of(rows)
        diagonal_px = self._watched["test"].diagonal_px
        sizes = size_groups(rows, foreground_share=share, groups=groups, diagonal_px=diagonal_px)
        return {**found, "lesion_sizes": sizes}

    def _annotators(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Agreement between the annotators of the test images, at the size of the files."""
        drawn = self.data.index_read.annotators
        several = [row for row in rows if row["path"] in drawn]
        if not several:
            return {}
        scores = []
        for row in several:
            view = masks_in(row["target"])[1]
            end = "" if view is None else f"{JOIN}{ROI}{view}"
            names = [mask + end for mask in drawn[row["path"]].values()]
            masks = self.data.read_masks(row["path"], names)
            scores.append(annotator_agreement(masks, num_classes=len(self.data.class_names)))
        groups = self.data.groups_of(several)
        dice, iou = ([float(pair[k]) for pair in scores] for k in (0, 1))
        names = sorted({name for row in several for name in drawn[row["path"]]})
        return {
            "annotators": {
                "names": names,
                "num_images": len(several),
                "dice": float(np.mean(dice)),
                "dice_ci95": self._interval("dice", dice, groups),
                "iou": float(np.mean(iou)),
                "iou_ci95": self._interval("iou", iou, groups),
            }
        }

    def tested(self) -> Tested | None:
        rows = self._test_rows
        if not rows or self.not_finite.get("test"):
            return None
        groups = self.data.groups_of(rows)

        def scores(chosen: NDArray[np.intp]) -> dict[str, Score]:
            found: dict[str, Score] = {}
            for name in names_at("near-duplicates", "segmentation"):
                values = [rows[row][name] for row in chosen]
                found[name] = or_none(mean_defined(values)[0])
                of_chosen = groups and [groups[row] for row in chosen]
                found[f"{name}_ci95"] = self._interval(name, values, of_chosen)
            return found

        return Tested(paths=[row["path"] for row in rows], scores=scores, groups=groups)

    def patient_scores(self) -> dict[str, Any]:
        """Average each image score within the groups first, then over them."""
        rows = self._test_rows
        groups = self.data.groups_of(rows)
        if groups is None or not several_per_group(groups):
            return {}
        number = group_numbers(groups, len(rows))
        found: dict[str, Any] = {"num_groups": int(number.max()) + 1, "num_images": len(rows)}
        for name in names_at("near-duplicates", "segmentation"):
            values = np.array([row[name] for row in rows])
            known = np.isfinite(values)
            with np.errstate(invalid="ignore"):
                means = np.bincount(number[known], values[known]) / np.bincount(number[known])
            found[name] = or_none(mean_defined(means)[0])
            found[f"{name}_ci95"] = self._interval(name, means.tolist(), None)
        return found

    def plot(self, history: Sequence[Mapping[str, float | int | None]]) -> None:
        from medvision.reports.plots.segmentation import write_test_plots  # matplotlib
        from medvision.reports.plots.style import write_curves

        synthetic = self.data.synthetic
        if history:
            write_curves(self.folder, task="segmentation", history=history, synthetic=synthetic)
        test: Any = self._watched.get("test")
        if test is not None and test.rows and not test.not_finite:
            write_test_plots(
                self.folder,
                roc=test.roc,
                auroc=self._auroc,
                rows=test.rows,
                read=self.data.read_at_network_size,
                synthetic=synthetic,
            )

    def _worst_first(self) -> list[int]:
        """Rank images by Dice; those without a defined Dice are not shown."""
        rows = self._test_rows
        known = [row for row in range(len(rows)) if math.isfinite(rows[row]["dice"])]
        return sorted(known, key=lambda row: (rows[row]["dice"], row))

    def _interval(self, name: str, values: Sequence[float], groups: Sequence[str] | None) -> Score:
        """Compute the interval of a mean over images, up to the largest value that is possible."""
        score = score_named(name, "segmentation")
        upper = 1.0 if score is None or score.bounded else None
        if score is not None and score.unit == "px":  # no distance exceeds the diagonal
            upper = max(seen.diagonal_px for seen in self._watched.values())
        return interval_or_none(mean_interval(values, groups=groups, upper=upper))

    @property
    def _test_rows(self) -> list[dict[str, Any]]:
        test = self._watched.get("test")
        return [] if test is None else test.rows

    def _case(self, row: int) -> Case:
        """Build one test image at network input size, with the true and predicted outline."""
        record = self._test_rows[row]
        image, mask = self.data.read_at_network_size(record["path"], record["target"])
        probability = np.asarray(Image.open(self.folder / record["predicted"]))
        predicted, true = (
            (probability >= 128).astype(np.uint8),
            ((mask > 0) & (mask != IGNORE_INDEX)).astype(np.uint8),
        )
        return Case(
            title=record["path"],
            caption=f"Dice {record['dice']:.3f}, IoU {record['iou']:.3f}",
            picture=draw_overlay(image, predicted, truth=true),
        )

    def _write_roc(self, seen: SegmentationPredictions) -> None:
        """Write the ROC of all test pixels, which predictions of single images do not contain."""
        if seen.roc is None or not np.isfinite(np.concatenate(seen.roc[:2])).all():
            return
        names = ("false_positive_rate", "true_positive_rate", "threshold")
        points = zip(*(curve.tolist() for curve in seen.roc), strict=True)
        write_table(
            self.folder / "roc_test.csv", [dict(zip(names, p, strict=True)) for p in points]
        )
