"""Splits and orders of earlier releases, on which reported results are based."""

import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest

from medvision.data.loading.sampler import EpochSampler
from medvision.data.samples import Sample
from medvision.data.splits.assign import SplitResult, apply_protocol, draw_split
from medvision.errors import MedvisionError

SPLITS = ("train", "val", "test")


def images(kind: str, number: int) -> list[Sample]:
    """Draw images of four classes: paths, groups and given splits from a fixed seed."""
    rng = np.random.default_rng(number)
    made = []
    for k in range(number):
        name = f"c{k % 4}/\u00e4 {k // 2}.{'png' if k % 2 else 'v2.jpg'}" if k % 5 else f"c0/{k}"
        group = f"patient {rng.integers(number // 8 + 1)}" if rng.random() < 0.7 else ""
        given = SPLITS[rng.integers(3)] if rng.random() < 0.6 else ""
        made.append(
            Sample(
                path=name + (f"_{k}.tif" if name.endswith(".v2.jpg") else ""),
                target=f"c{k % 4}" if k % 7 else "rare",
                group=group if "grouped" in kind else "",
                split=given
                if "given" in kind
                else ("train" if given == "train" and "trained" in kind else ""),
            )
        )
    return made


def digest(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def digest_of_rows(result: SplitResult) -> str:
    """Digest of images and their splits, without the notes, whose wording may change."""
    return digest("\0".join((s.path, s.target, s.group, s.split)) for s in result.samples)


def strata_of(samples: list[Sample]) -> list[str]:
    return [sample.target for sample in samples]


def drawn(samples: list[Sample], **options: Any) -> str:
    try:
        result = draw_split(samples, stratify_by=strata_of(samples), **options)
    except MedvisionError:  # so few groups that one split stays empty
        return "refused"
    return digest_of_rows(result)


DRAWN: dict[tuple[Any, ...], str] = {
    ("plain", 3, False): "966e7553e011427b",
    ("plain", 3, True): "966e7553e011427b",
    ("grouped", 3, False): "780f3418b2ebde5d",
    ("grouped", 3, True): "780f3418b2ebde5d",
    ("grouped trained", 3, False): "780f3418b2ebde5d",
    ("grouped trained", 3, True): "780f3418b2ebde5d",
    ("grouped given", 3, False): "a3c215ba3bf7ac7a",
    ("grouped given", 3, True): "a3c215ba3bf7ac7a",
    ("given", 3, False): "0381258edd24614a",
    ("given", 3, True): "0381258edd24614a",
    ("plain", 13, False): "c6df9d048d03a772",
    ("plain", 13, True): "062686f50d39bcdf",
    ("grouped", 13, False): "8ae8ae17493b1310",
    ("grouped", 13, True): "6e5984d95d95e431",
    ("grouped trained", 13, False): "8ae8ae17493b1310",
    ("grouped trained", 13, True): "6e5984d95d95e431",
    ("grouped given", 13, False): "af6d90e91fcda864",
    ("grouped given", 13, True): "af6d90e91fcda864",
    ("given", 13, False): "ea9eb5e53a4933c9",
    ("given", 13, True): "ea9eb5e53a4933c9",
    ("plain", 40, False): "0fec0df666866b38",
    ("plain", 40, True): "9c662deb6bc4efc0",
    ("grouped", 40, False): "8d757c36c2a719f9",
    ("grouped", 40, True): "71d79fc2339313ed",
    ("grouped trained", 40, False): "8d757c36c2a719f9",
    ("grouped trained", 40, True): "71d79fc2339313ed",
    ("grouped given", 40, False): "497faef0ee354cf1",
    ("grouped given", 40, True): "497faef0ee354cf1",
    ("given", 40, False): "b7089dcc3a0b859c",
    ("given", 40, True): "b7089dcc3a0b859c",
    ("plain", 3000, False): "23a0328631531f81",
    ("plain", 3000, True): "23a0328631531f81",
    ("grouped", 3000, False): "e04b4960e93e4afc",
    ("grouped", 3000, True): "e04b4960e93e4afc",
    ("grouped trained", 3000, False): "e04b4960e93e4afc",
    ("grouped trained", 3000, True): "e04b4960e93e4afc",
    ("grouped given", 3000, False): "7dbcddc8a4a30898",
    ("grouped given", 3000, True): "7dbcddc8a4a30898",
    ("given", 3000, False): "b91de6d0b474a4f7",
    ("given", 3000, True): "b91de6d0b474a4f7",
}


@pytest.mark.parametrize("number", [3, 13, 40, 3000])
@pytest.mark.parametrize("kind", ["plain", "grouped", "grouped trained", "grouped given", "given"])
@pytest.mark.parametrize("every_stratum", [False, True])
def test_the_same_files_and_seed_give_the_same_split(
    kind: str, number: int, every_stratum: bool
) -> None:
    samples = images(kind, number)
    found = [
        drawn(
            samples,
            seed=seed,
            val_fraction=val,
            test_fraction=test,
            every_stratum=every_stratum,
        )
        for seed, val, test in ((0, 0.1, 0.1), (7, 0.25, 0.05), (-3, 0.0, 0.2))
    ]
    assert digest(found) == DRAWN[kind, number, every_stratum]


PROTOCOLS: dict[tuple[Any, ...], str] = {
    ("official", "plain", False): "2df1c041b23bc30c",
    ("official", "plain", True): "f3b9fa183d9deb1d",
    ("official", "grouped given", False): "f1e2e8e124d77040",
    ("official", "grouped given", True): "f1b82bcf95f858f9",
    ("merged", "plain", False): "2df1c041b23bc30c",
    ("merged", "plain", True): "2df1c041b23bc30c",
    ("merged", "grouped given", False): "2df1c041b23bc30c",
    ("merged", "grouped given", True): "2df1c041b23bc30c",
    ("grouped", "plain", False): "2df1c041b23bc30c",
    ("grouped", "plain", True): "f3b9fa183d9deb1d",
    ("grouped", "grouped given", False): "e8fd2282d0a8054d",
    ("grouped", "grouped given", True): "b9ac0931e10b65ca",
    ("kfold", "plain", False): "faf194c098e52417",
    ("kfold", "plain", True): "277a45a0d664c77d",
    ("kfold", "grouped given", False): "62538acc0f6a4544",
    ("kfold", "grouped given", True): "1bca70fadb6a7b94",
}


@pytest.mark.parametrize("protocol", ["official", "merged", "grouped", "kfold"])
@pytest.mark.parametrize("kind", ["plain", "grouped given"])
@pytest.mark.parametrize("with_near_duplicates", [False, True])
def test_the_same_files_and_protocol_give_the_same_split(
    protocol: str, kind: str, with_near_duplicates: bool
) -> None:
    samples = images(kind, 800)
    found = [
        digest_of_rows(
            apply_protocol(
                samples,
                protocol=protocol,
                fold=2,
                folds=5,
                seed=seed,
                val_fraction=0.1,
                test_fraction=0.1,
                near_duplicates=np.random.default_rng(1).integers(0, 700, 800)
                if with_near_duplicates
                else None,
                stratify_by=strata_of(samples),
                every_stratum=True,
            )
        )
        for seed in (0, 5)
    ]
    assert digest(found) == PROTOCOLS[protocol, kind, with_near_duplicates]


ORDERS: dict[str, str] = {
    "shuffled, 0 skipped": "db1fe33c4f2c9098",
    "shuffled, 37 skipped": "68d4d23e4cc4f74a",
    "second of three, 0 skipped": "52d396f9aef6a377",
    "second of three, 37 skipped": "c9705a0978bfb5c1",
    "in order, 0 skipped": "96f4d22288ab5862",
    "in order, 37 skipped": "67c11937a76383e0",
    "padded, 0 skipped": "14bc31471153a1c0",
    "padded, 37 skipped": "fa2ab99396f0eaf3",
    "balanced, 0 skipped": "f0fbddb6a1c695a5",
    "balanced, 37 skipped": "4973ad05b471f167",
    "balanced for two, 0 skipped": "190471761be15fd4",
    "balanced for two, 37 skipped": "2720a6e6f7ab37e4",
}
SAMPLERS: dict[str, dict[str, Any]] = {
    "shuffled": {"shuffle": True},
    "second of three": {"shuffle": True, "rank": 1, "num_processes": 3},
    "in order": {"shuffle": False},
    "padded": {"shuffle": False, "rank": 1, "num_processes": 2, "pad_to": 8},
    "balanced": {"shuffle": True, "balance_by": np.arange(1003) ** 2 % 7},
    "balanced for two": {
        "shuffle": True,
        "balance_by": np.arange(1003) ** 2 % 7,
        "rank": 1,
        "num_processes": 2,
    },
}


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("skipped", [0, 37])
def test_the_same_seed_and_epoch_give_the_same_order(name: str, skipped: int) -> None:
    sampler = EpochSampler(num_samples=1003, seed=11, **SAMPLERS[name])
    keys = []
    for epoch in (0, 4):
        sampler.set_epoch(epoch)
        sampler.skip(skipped, epoch=epoch)
        own = list(sampler)
        assert len(own) == len(sampler) - skipped
        assert {type(part) for key in own for part in key} == {int}
        keys += [repr(key) for key in own]
    assert digest(keys) == ORDERS[f"{name}, {skipped} skipped"]
