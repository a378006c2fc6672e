"""Shipped configs that are composed once for all tests with the same options."""

import os
import pickle
import re
from functools import cache
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig

from medvision.run.config.store import CONF, groups

compose_all = ConfigLoaderImpl._load_configuration_impl
"""Hydra's own method, which reads every file again."""

SIMPLE_CHOICE = re.compile(r"\w+=\w+")
SIMPLE_VALUE = re.compile(r"((?!hydra)[\w.]+|hydra\.mode)=")


def compose_shared(
    loader: ConfigLoaderImpl,
    config_name: str | None,
    overrides: list[str],
    run_mode: RunMode,
    from_shell: bool = True,
    validate_sweep_overrides: bool = True,
) -> DictConfig:
    """Copy the config of the chosen options, and set values in it with Hydra's own method.

    Everything else is left to Hydra: added and removed keys, its own options, several options of
    one group, and config folders of the user.
    """
    names = set(groups())
    choices = tuple(o for o in overrides if o.partition("=")[0] in names)
    values = [o for o in overrides if o not in choices]
    path = [str(p.path).removeprefix("file://") for p in loader.config_search_path.get_path()]
    is_shipped = config_name == "train" and path == [
        "pkg://hydra.conf",
        str(CONF),
        "structured://",
    ]
    is_simple = all(map(SIMPLE_CHOICE.fullmatch, choices)) and all(map(SIMPLE_VALUE.match, values))
    given: dict[str, Any] = {
        "run_mode": run_mode,
        "from_shell": from_shell,
        "validate_sweep_overrides": validate_sweep_overrides,
    }
    if not (is_shipped and is_simple):
        return compose_all(loader, config_name, overrides, **given)
    key = (choices, *given.values())
    if key not in _composed():
        _composed()[key] = pickle.dumps(compose_all(loader, config_name, list(choices), **given))
    cfg = pickle.loads(_composed()[key])
    parsed = OverridesParser.create().parse_overrides(overrides)
    if validate_sweep_overrides:
        loader.validate_sweep_overrides_legal(parsed, run_mode=run_mode, from_shell=from_shell)
    given_values = [o for o in parsed if o.input_line in values and not o.is_sweep_override()]
    ConfigLoaderImpl._apply_overrides_to_config(given_values, cfg)
    of_task = [o for o in parsed if not o.is_hydra_override()]
    cfg.hydra.overrides.hydra = [str(o.input_line) for o in parsed if o.is_hydra_override()]
    cfg.hydra.overrides.task = [str(o.input_line) for o in of_task]
    cfg.hydra.runtime.cwd = os.getcwd()  # noqa: PTH109  as Hydra writes it
    dirname = cfg.hydra.job.config.override_dirname
    cfg.hydra.job.override_dirname = get_overrides_dirname(
        of_task, list(dirname.exclude_keys), dirname.item_sep, dirname.kv_sep
    )
    return cfg


@cache
def _composed() -> dict[Any, bytes]:
    return {}
