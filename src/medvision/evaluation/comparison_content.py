"""What the files of a comparison hold: plain values by name, and rows of tables."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from medvision.evaluation.finished_runs import FinishedRun
from medvision.evaluation.run_groups import Group, differing_settings, metrics_of


def content_of(
    groups: Sequence[Group], pairs: Sequence[Mapping[str, Any]], notes: Sequence[str]
) -> dict[str, Any]:
    """What ``comparison.json`` holds: plain values, None where something is undefined."""
    names = metrics_of(groups)
    first = groups[0]
    return {
        "task": first.runs[0].task,
        "pairs": list(pairs),
        "groups": [
            {
                "label": group.label,
                "experiment": group.runs[0].experiment,
                "marks": group.marks.strip(),
                "size": group.size,
                "num_runs": len(group.runs),
                "seeds": group.seeds,
                "runs": [_run(run) for run in group.runs],
                "metrics": {name: _metric(group, first, name) for name in names},
            }
            for group in groups
        ],
        "differing_settings": differing_settings([group.runs[0] for group in groups]),
        "notes": list(notes),
    }


def table_of_pairs(
    groups: Sequence[Group], pairs: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Rows of ``comparison_pairs.csv``: one for every pair and score."""
    rows = []
    for pair in pairs:
        for name, found in pair["metrics"].items():
            low, high = found["ci95"] or (None, None)
            seeds = found["seeds"]
            seeds_low, seeds_high = seeds["ci95"] or (None, None)
            rows.append(
                {
                    "group_a": groups[pair["a"] - 1].label,
                    "group_b": groups[pair["b"] - 1].label,
                    "metric": f"test/{name}",
                    "a": found["a"],
                    "b": found["b"],
                    "difference": found["difference"],
                    "ci95_low": low,
                    "ci95_high": high,
                    "p": found["p"],
                    "p_holm": found["p_holm"],
                    "p_holm_all": found["p_holm_all"],
                    "probability_b_better": found["probability_b_better"],
                    "images": found["num_images"],
                    "units": found["num_units"],
                    "seeds_a": pair["num_seeds"][0],
                    "seeds_b": pair["num_seeds"][1],
                    "seeds_std_a": seeds["std_a"],
                    "seeds_std_b": seeds["std_b"],
                    "seeds_ci95_low": seeds_low,
                    "seeds_ci95_high": seeds_high,
                    "verdict": pair["verdict"] if name == pair["headline"] else None,
                }
            )
    return rows


def _run(run: FinishedRun) -> dict[str, Any]:
    return {
        "path": str(run.path),
        "name": run.name,
        "seed": run.seed,
        "model": run.summary.get("model", {}).get("name"),
        "num_parameters": run.summary.get("model", {}).get("num_parameters"),
        "best_epoch": run.summary.get("best_epoch"),
        "epochs": run.summary.get("epochs"),
        "device": run.summary.get("device"),
        "precision": run.summary.get("precision"),
        "warnings": list(run.summary.get("warnings", [])),
    }


def _metric(group: Group, first: Group, name: str) -> dict[str, Any]:
    mean, std = group.mean_and_std(name)
    values = group.values(name)
    before = None if group is first else first.mean_and_std(name)[0]
    return {
        "mean": mean,
        "std": std,
        "num_values": sum(value is not None for value in values),
        "difference_to_first": None if mean is None or before is None else mean - before,
        "values": values,
        "ci95": [run.interval(name) for run in group.runs],
    }


def table_of_groups(groups: Sequence[Group]) -> str:
    """A row per group; an undefined value is a blank cell, and ``-`` among those of the runs."""
    rows = []
    for group in groups:
        row: dict[str, Any] = {
            "label": group.label,
            "experiment": group.runs[0].experiment,
            "runs": len(group.runs),
            "seeds": " ".join(map(str, group.seeds)),
        }
        for name in metrics_of(groups):
            row[f"{name}_mean"], row[f"{name}_std"] = group.mean_and_std(name)
            values = group.values(name)
            row[f"{name}_runs"] = " ".join("-" if v is None else repr(v) for v in values)
        rows.append(row)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
