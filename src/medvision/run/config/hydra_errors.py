"""Report Hydra's errors in one line."""

import difflib
import importlib.util
import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import yaml
from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from medvision.command_line import train_command
from medvision.errors import MedvisionError, did_you_mean, first_line
from medvision.run.config.store import CONF, config_folders, groups, options
from medvision.task_definition import task_names, task_of


def check_usage(arguments: Sequence[str]) -> tuple[bool, list[str], list[str]]:
    """Refuse arguments that are neither options nor overrides.

    Returns:
        True if several runs are requested, the overrides, and all arguments in an order that Hydra
        accepts: it does not take options between overrides.
    """

    def fail(message: str, hint: str | None = None) -> NoReturn:
        hint = hint or f"see {train_command()} --help"
        raise MedvisionError(message, where="command line", hint=hint)

    parser = get_args_parser()
    parser.allow_abbrev = False  # otherwise --experiment would match --experimental-rerun
    parser.error = fail  # type: ignore[method-assign]
    known = {name for action in parser._actions for name in action.option_strings}
    for position, argument in enumerate(arguments):
        option = argument.partition("=")[0]
        if option in _MEANT and option not in known:
            typed, _ = _option_as_override(arguments[position:])
            value = typed.removeprefix(option).strip(" =") or "VALUE"
            fail(f"expected key=value, got {typed}", f"write {_MEANT[option].format(value)}")
        if option.startswith("--") and option not in known and _is_key(option[2:]):
            typed, value = _option_as_override(arguments[position:])
            fail(f"expected key=value, got {typed}", f"write {value}")
    parsed = parser.parse_intermixed_args(list(arguments))
    for override in parsed.overrides:
        if "=" not in override and not override.startswith("~"):
            experiments = options("experiment", *config_folders(arguments))
            near = difflib.get_close_matches(override, experiments, n=1, cutoff=0.8)
            hint = f"write experiment={near[0]}" if near else None
            hint = f"write {override}=VALUE" if _is_key(override) else hint
            fail(f"expected key=value, got {override}", hint)
        key = override.partition("=")[0].lstrip("+~")
        if key in FOLDER_KEYS_OF_HYDRA:
            raise _ignored(key)
    overrides = list(parsed.overrides)
    places = [place for place, argument in enumerate(arguments) if argument in overrides]
    ordered = list(arguments)
    if places and places[-1] - places[0] >= len(places):
        ordered = [*overrides, *(one for one in arguments if one not in overrides)]
    return bool(parsed.multirun), overrides, ordered


_MEANT = {
    "--epochs": "trainer.max_epochs={}",
    "--max-epochs": "trainer.max_epochs={}",
    "--batch-size": "data.batch_size={}",
    "--batch_size": "data.batch_size={}",
    "--lr": "optimizer.lr={}",
    "--learning-rate": "optimizer.lr={}",
    "--image-size": "data.image_size={}",
    "--data": "data.root={}",
    "--out": "run_dir={}",
    "--device": "trainer=cpu, trainer=gpu or trainer=tpu",
    "--gpu": "trainer=gpu",
    "--gpus": "trainer=gpu trainer.devices={}",
}
"""Usual options of other programs, and the keys here."""

FOLDER_KEYS_OF_HYDRA = ("hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir")
"""Folders of Hydra, which holds no file of a run here."""


def check_folders(hydra_cfg: DictConfig) -> None:
    """Refuse a config of the user that sets a folder of Hydra.

    Raises:
        MedvisionError: If the folder of a run is not the current one, as in ``conf/train.yaml``.
    """
    if str(hydra_cfg.run.dir) != ".":
        raise _ignored("hydra.run.dir")


def _ignored(key: str) -> MedvisionError:
    return MedvisionError(
        "Hydra does not choose the folder of a run here",
        where=key,
        hint="set run_dir=FOLDER, or leave it out for runs/<experiment>/<time>",
    )


def _is_key(name: str) -> bool:
    """Return True for a group, a key of the root config, and a key below one."""
    root = yaml.safe_load((CONF / "train.yaml").read_text())
    return name.partition(".")[0] in {*groups(), *root}


def _option_as_override(arguments: Sequence[str]) -> tuple[str, str]:
    """First arguments, an option that is a key and perhaps its value, and the override meant."""
    key, equals, value = arguments[0].removeprefix("--").partition("=")
    if equals:
        return arguments[0], f"{key}={shlex.quote(value)}"
    if len(arguments) > 1 and "=" not in arguments[1] and not arguments[1].startswith("-"):
        return f"{arguments[0]} {arguments[1]}", f"{key}={shlex.quote(arguments[1])}"
    return arguments[0], f"{key}=VALUE"


def quote_text(argument: str) -> str:
    """Quote the value of an override that Hydra's grammar cannot read, such as a path.

    The grammar allows no spaces at the ends, brackets, non-ASCII letters or quotes. Of a list, each
    element is quoted.
    """
    key, equals, value = argument.partition("=")
    if not equals or argument.startswith("-"):  # --config-dir=... is not an override
        return argument
    try:
        OverridesParser.create().parse_override(argument)
    except HydraException:
        texts = _list_of_texts(value)
        if texts is None:
            return f"{key}={_quoted(value)}"
        return f"{key}=[{','.join(map(_quoted, texts))}]"
    return argument


def _quoted(value: str) -> str:
    escaped = re.sub(r"(\\*)'", r"\1\1\\'", value)
    escaped = re.sub(r"(\\+)$", r"\1\1", escaped)
    return f"'{escaped}'"


def _list_of_texts(value: str) -> list[str] | None:
    """Read a text such as ``[gutartig, bösartig]``; None if it is not a list of texts."""
    if not (value.startswith("[") and value.endswith("]")):
        return None
    try:
        found = yaml.safe_load(value)
    except yaml.YAMLError:
        return None
    is_list = isinstance(found, list) and all(isinstance(element, str) for element in found)
    return found if is_list else None


@contextmanager
def explaining(arguments: Sequence[str]) -> Iterator[None]:
    """Turn errors of Hydra and OmegaConf into one line with the nearest valid name."""
    try:
        yield
    except MissingConfigException as error:
        raise _explain_option(error, arguments) from error
    except OverrideParseException as error:
        raise MedvisionError(
            "cannot read an override",
            where=str(error.override),
            hint="write key=value, and quote values with spaces or brackets",
        ) from error
    except ConfigCompositionException as error:
        raise _explain_key(error, arguments) from error
    except (HydraException, OmegaConfBaseException) as error:
        raise MedvisionError(
            first_line(error), where=getattr(error, "full_key", None) or "configuration"
        ) from error


def nearest(name: str, names: Sequence[str]) -> str:
    """Return a hint with the valid name nearest to ``name``, or with all valid names."""
    few = len(names) <= 12
    everything = f"choose from {', '.join(names)}" if few else f"see {train_command()} --help"
    return did_you_mean(name, names, otherwise=everything)


def _explain_option(error: MissingConfigException, arguments: Sequence[str]) -> MedvisionError:
    group, _, name = str(error.missing_cfg_file).removesuffix(".yaml").rpartition("/")
    group = group.lstrip("/")
    known = [*(error.options or [])]  # including those of --config-dir
    if not known:
        known = options(group) if group in groups() else groups()
    typed = _network_of_library(name, arguments) if group == "model" else None
    return MedvisionError(
        f"unknown {group or 'configuration'} {name}",
        where=f"{group}={name}",
        hint=nearest(name, known) if typed is None else f"use {typed}",
    )


def _network_of_library(name: str, arguments: Sequence[str]) -> str | None:
    """Override that selects a timm network or smp encoder; their sources are read, not imported."""
    cfg = _composed([a for a in _choices(arguments) if not a.startswith("model=")])
    if cfg is None:
        return None
    name = name.split(".")[0]  # the rest identifies the pretrained weights
    in_timm = name in _written("timm", "models/*.py", r"^@register_model\s+def (\w+)\(")
    task = str(cfg.hydra.runtime.choices.task)
    if task not in task_names():
        return None
    if not task_of(task).per_pixel:
        return f"model=timm_classifier model.name={name}" if in_timm else None
    smp = "segmentation_models_pytorch"
    if name in _written(smp, "encoders/*.py", r"""^ {4}["']([\w.-]+)["']: \{"""):
        return f"model=smp_unet model.encoder={name}"
    return f"model=smp_unet model.encoder=tu-{name}" if in_timm else None


def _written(package: str, files: str, pattern: str) -> set[str]:
    """Matches of a pattern in the sources of a package."""
    spec = importlib.util.find_spec(package)
    folders = [] if spec is None else spec.submodule_search_locations or []
    texts = (path.read_text("utf-8") for folder in folders for path in Path(folder).glob(files))
    return {found for text in texts for found in re.findall(pattern, text, re.MULTILINE)}


def _explain_key(error: ConfigCompositionException, arguments: Sequence[str]) -> MedvisionError:
    text = str(error)
    if unset := re.match(r"You must specify '(\w+)'", text):
        group = unset[1]
        own = "experiment=segmentation or experiment=classification for a folder of your own, or "
        return MedvisionError(
            f"no {group} is chosen",
            where=group,
            hint=f"add {own if group == 'experiment' else ''}{group}=NAME:"
            f" {', '.join(options(group))}",
        )
    if several := re.match(r"Ambiguous value for argument '(.*)'", text):
        return MedvisionError(
            "the comma separates several values",
            where=several[1],
            hint="add -m to run each of them, or quote the value",
        )
    wrong = re.search(r"Could not (?:override|append to|delete)[^']*'([^']+)'", text)
    if wrong is None:
        return MedvisionError(first_line(error), where="command line")
    key = wrong[1].split("@")[0]
    typed = next((a for a in arguments if a.lstrip("+~").startswith(f"{key}=")), key)
    known = _known_keys([a for a in arguments if a != typed])
    if key in known:
        return MedvisionError(first_line(error), where=typed)
    return MedvisionError(f"unknown config key {key}", where=typed, hint=_nearest_key(key, known))


_OTHER_NAMES = {
    "epochs": "max_epochs",
    "num_epochs": "max_epochs",
    "learning_rate": "lr",
    "img_size": "image_size",
    "path": "root",
    "folder": "root",
}
"""Last part of a key by the names that other tools give it."""


def _nearest_key(key: str, known: Sequence[str]) -> str:
    """Nearest key: first by the same last part (``lr`` for ``optimizer.lr``), then by spelling."""
    leaf = key.rpartition(".")[2]
    leaf = _OTHER_NAMES.get(leaf, leaf)
    leaves = [name for name in known if name.rpartition(".")[2] == leaf]
    if leaves and key.rpartition(".")[0] not in known:
        return f"did you mean {leaves[0]}?"
    parent = key.rpartition(".")[0]
    inside = [name for name in known if name.rpartition(".")[0] == parent]
    return nearest(key, inside if parent and inside else known)


def _known_keys(arguments: Sequence[str]) -> list[str]:
    """All keys of the config that the other arguments select, or of the default config."""
    cfg = _composed(_choices(arguments)) or _composed([f"experiment={options('experiment')[0]}"])
    if cfg is None:
        return groups()
    container: Any = OmegaConf.to_container(cfg, resolve=False)
    del container["hydra"]
    return [key for key, _ in keys_of(container)]


def _choices(arguments: Sequence[str]) -> list[str]:
    """Arguments that select an option of a medvision config group."""
    return [a for a in arguments if a.partition("=")[0] in groups() and "=" in a and "," not in a]


def _composed(overrides: Sequence[str]) -> DictConfig | None:
    """Config composed from overrides, including Hydra's own; None if composition fails."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        try:
            return compose("train", overrides=list(overrides), return_hydra_config=True)
        except (HydraException, OmegaConfBaseException):
            return None


def keys_of(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Full name and value of every key in plain values, at any depth."""
    inside = node.items() if isinstance(node, dict) else ()
    for key, value in enumerate(node) if isinstance(node, list) else inside:
        full = f"{path}.{key}".lstrip(".")
        if isinstance(key, str):
            yield full, value
        yield from keys_of(value, full)
