"""The page of a search."""

import re
from typing import Any

import pytest

from medvision.reports.plots.sweep import MOST_KEYS, draw_parallel, draw_slices
from medvision.reports.sweep import saved, sweep_page

KEYS = [
    {"name": "optimizer.lr", "kind": "float", "low": 1e-5, "high": 1e-2, "log": True},
    {"name": "data.batch_size", "kind": "int", "low": 2, "high": 8, "log": False},
    {"name": "loss", "kind": "choice", "options": ["bce", "<dice>"]},
]


def trial(number: int, **changes: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "number": number,
        "state": "complete",
        "values": {
            "optimizer.lr": 10.0 ** (-5 + number / 2),
            "data.batch_size": 2 + number,
            "loss": ("bce", "<dice>")[number % 2],
        },
        "value": 0.5 + number / 100,
        "by_epoch": {},
        "epochs": 8,
        "max_epochs": 8,
        "seconds": 75.0,
        "best_epoch": 6,
        "error": None,
    }
    return fields | changes


def found(*trials: dict[str, Any], **changes: Any) -> dict[str, Any]:
    complete = [one["number"] for one in trials if one["state"] == "complete"]
    fields: dict[str, Any] = {
        "name": "width",
        "folder": "runs/sweep/width",
        "experiment": "polyp_unet",
        "fixed": {"trainer.max_epochs": "8"},
        "metric": "val/dice",
        "mode": "max",
        "sampler": "tpe",
        "seed": 0,
        "pruner": "median",
        "startup_trials": 5,
        "warmup_epochs": 1,
        "num_trials": len(trials),
        "keys": [{**key, "described": "words"} for key in KEYS],
        "trials": list(trials),
        "best": max(complete) if complete else None,
        "command": "python train.py experiment=width_best" if complete else None,
        "importance": {
            "method": "fANOVA",
            "shares": {"optimizer.lr": 0.8, "data.batch_size": 0.15, "loss": 0.05},
            "num_trials": len(complete),
            "reason": "",
        },
        "notes": [],
    }
    return fields | changes


def text_of(search: dict[str, Any]) -> str:
    return " ".join(sweep_page(search).split())


def test_the_page_names_the_best_trial_and_the_command_to_train_it() -> None:
    page = text_of(found(*map(trial, range(5))))
    assert "Best val/dice 0.5400 of 5 trials of polyp_unet: optimizer.lr 0.001," in page
    assert "<pre>python train.py experiment=width_best</pre>" in page
    assert "<pre>medvision evaluate runs/sweep/width/4</pre>" in page
    assert page.count("data:image/png;base64,") == 4


def test_the_page_is_self_contained_and_escapes_its_input() -> None:
    page = text_of(found(*map(trial, range(4))))
    assert "<dice>" not in page
    assert "<script" not in page
    assert not re.search(r'(src|href)="(?!data:|#)', page)


def test_epochs_saved_by_pruning_match_a_count_by_hand() -> None:
    trials = [trial(0), trial(1, state="pruned", epochs=2), trial(2, state="failed", epochs=1)]
    assert saved(trials) == (6, 17)  # of 8 + 8 + 1
    page = text_of(found(*trials))
    assert "Pruning ended 1 trial early and saved 6 of 17 epochs (35%)." in page


def test_without_importance_the_page_gives_the_reason() -> None:
    none = {"method": "fANOVA", "shares": {}, "num_trials": 1, "reason": "1 of the trials ended"}
    page = text_of(found(trial(0), importance=none))
    assert "Importance is not available: 1 of the trials ended." in page
    assert page.count("data:image/png;base64,") == 3


def test_a_search_without_a_complete_trial_has_a_page_too() -> None:
    failed = trial(0, state="failed", value=None, epochs=0, seconds=None, error="no <memory>")
    none = {"method": "fANOVA", "shares": {}, "num_trials": 0, "reason": "no trial"}
    page = text_of(found(failed, importance=none))
    assert "No trial of 1 was completed." in page
    assert "trial 0: no &lt;memory&gt;" in page
    assert 'id="best"' not in page


@pytest.mark.parametrize("draw", [draw_parallel, draw_slices])
def test_one_value_and_many_keys_can_be_drawn(draw: Any) -> None:
    key = {"name": "x", "kind": "float", "low": 1.0, "high": 1.0, "log": False}
    keys = [{**key, "name": f"x{place}"} for place in range(MOST_KEYS + 2)]
    values = {one["name"]: 1.0 for one in keys}
    more = {"mode": "min"} if draw is draw_parallel else {}
    figure = draw([trial(0, values=values)], keys, metric="val/loss", **more)
    assert figure is not None
