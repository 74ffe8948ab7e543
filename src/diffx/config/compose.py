"""Composing configurations with Hydra, and turning its complaints into one sentence with the nearest right answers."""

import difflib
import re
from collections.abc import Sequence
from importlib.metadata import entry_points
from itertools import islice
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf

from diffx.config.read import settings_of
from diffx.config.settings import Settings
from diffx.errors import DiffxError, unknown_key

OmegaConf.register_new_resolver("quotient", lambda whole, part: int(whole) // int(part), replace=True)
VERSION_BASE = "1.3"
END_TO_END = "end_to_end."
MOST_JOBS = 10_000  # of a sweep: each is composed and looked at before the first begins


def config_dir() -> Path:
    """The folder of YAML that diffx ships: inside the package in a wheel, at the checkout's root otherwise."""
    packaged = Path(__file__).parents[1] / "conf"
    return packaged if packaged.is_dir() else Path(__file__).parents[3] / "conf"


class ConfigFolders(SearchPathPlugin):
    """conf/ in the working directory is searched first, packages of entry point group `diffx.conf` last."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        local = Path.cwd() / "conf"
        if local.is_dir() and local != config_dir():
            search_path.prepend("working directory", f"file://{local}")
        for entry in entry_points(group="diffx.conf"):
            search_path.append(entry.name, f"pkg://{entry.value}")


def register_folders() -> None:
    """Tell Hydra about ConfigFolders, once."""
    plugins = Plugins.instance()
    if ConfigFolders not in plugins.discover(SearchPathPlugin):
        plugins.register(ConfigFolders)


def compose_config(overrides: Sequence[str]) -> Settings:
    """The settings of one run. Raises DiffxError in one sentence for anything misspelt."""
    register_folders()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(config_dir()), version_base=VERSION_BASE):
        try:
            config = compose("config", list(overrides))
        except HydraException as error:
            raise DiffxError(_explain(str(error))) from error
        except Exception as error:  # OmegaConf's own errors: a value of the wrong kind
            reason = (
                str(error).splitlines()[0].replace("Got NoneType", "Got null, where nothing is [], as in plugins=[]")
            )
            raise DiffxError(f"{' '.join(overrides)}: {reason}.") from error
        typed = [word.lstrip("+").split("=")[0] for word in overrides]
        if "_target_" not in (config.get("end_to_end") or {}):
            for key in (key for key in typed if key.startswith(END_TO_END)):
                raise DiffxError(_not_end_to_end(key))
        return settings_of_composed(config)


def settings_of_composed(config: DictConfig) -> Settings:
    """What Hydra has composed, here or in one of its own launchers, as settings; Hydra has to be there still.

    Raises:
        DiffxError: what settings_of refuses, and settings of a plugin that does not exist.
    """
    OmegaConf.set_struct(config, False)
    plugins = config.get("plugins") or {}
    for name in [str(name) for name, node in plugins.items() if not isinstance(node, DictConfig)]:
        raise DiffxError(f"plugins.{name}={plugins[name]} is one value and no plugin; type plugins=[{name}].")
    for name in [str(name) for name, node in plugins.items() if "_target_" not in node]:
        # An experiment's settings of a plugin that `plugins=` has not chosen.
        if name not in _plugin_files():
            raise DiffxError(unknown_key(f"plugins.{name}", [f"plugins.{known}" for known in _plugin_files()]))
        del config.plugins[name]
    if "_target_" not in (config.get("end_to_end") or {}):
        config.end_to_end = None  # an experiment's settings of what `end_to_end=none` has taken away
    _check_one_backbone(config)
    return settings_of(config)


def _check_one_backbone(config: DictConfig) -> None:
    """Refuse two plugins whose files bring a backbone each, the later one's in place of the earlier one's. A file that
    sets several plugins at once may bring one for them all."""
    targets = {str(name): _backbone_of(str(name)) for name in config.get("plugins") or {}}
    chosen = OmegaConf.select(config, "backbone._target_")
    owner = next((name for name, target in targets.items() if target == chosen), None)
    other = next((name for name, target in targets.items() if target not in (None, chosen)), None)
    if owner and other:
        theirs, own = (str(target).rpartition(".")[2] for target in (targets[other], chosen))
        raise DiffxError(
            f"plugins.{other} and plugins.{owner} both: each brings a backbone of its own, {theirs} and {own}, and a "
            "run has one; leave one out."
        )


def _backbone_of(plugin: str) -> str | None:
    """The class of the backbone that a file of conf/plugins sets, if it does."""
    files: Any = GlobalHydra.instance().config_loader()
    found = files.repository.load_config(f"plugins/{plugin}")
    return OmegaConf.select(found.config, "backbone._target_") if found is not None else None


def split_sweep(overrides: Sequence[str]) -> list[list[str]]:
    """The jobs of a sweep: one list of overrides for each combination of values.

    Values come from the command line and, where it says nothing, from hydra.sweeper.params of the experiment.
    """
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
        fixed = [str(o.input_line) for o in parsed if not o.is_sweep_override()]
        given = {o.get_key_element() for o in parsed}
        params = [f"{key}={values}" for key, values in _sweeper_params(fixed).items() if key not in given]
        _refuse_too_many(parsed)
        (batch,) = BasicSweeper.split_arguments(OverridesParser.create().parse_overrides([*overrides, *params]), None)
    except HydraException as error:
        raise DiffxError(_explain(str(error))) from error
    return [list(job) for job in batch]


def _refuse_too_many(parsed: Sequence[Override]) -> None:
    """Raises DiffxError before a list of them is made."""
    jobs = 1
    for override in parsed:
        if override.is_sweep_override():
            jobs *= sum(1 for _ in islice(override.sweep_string_iterator(), MOST_JOBS + 1))
            if jobs > MOST_JOBS:
                raise DiffxError(f"{override.input_line} makes more than {MOST_JOBS} runs; type fewer values.")


def _sweeper_params(overrides: list[str]) -> dict[str, str]:
    """What the configuration itself wants swept. Overrides that do not compose are refused later, with their job."""
    register_folders()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(config_dir()), version_base=VERSION_BASE):
        try:
            config = compose("config", overrides, return_hydra_config=True)
        except Exception:  # any of Hydra's and OmegaConf's: compose_config will explain it
            return {}
        params = OmegaConf.select(config, "hydra.sweeper.params")
        return {str(key): str(value) for key, value in params.items()} if params else {}


def _explain(message: str) -> str:
    """Hydra's message as one sentence with near matches."""
    if found := re.search(r"Could not (?:find|load) '([^']+)/([^'/]+)'", message):
        group, name = found.groups()
        return _no_such_choice(group, name)
    if found := re.search(r"Could not override '([^']+)'", message):
        key = found.group(1)
        group = key.split(".")[0].lstrip("+~")
        if (config_dir() / group).is_dir() and "." not in key:
            return f"{key} is a group of files; to add one that the defaults do not have, type +{key}=NAME."
        if key.startswith(END_TO_END):
            return _not_end_to_end(key)
        if key in (known := _all_keys()):
            name = key.split(".")[1]
            return f"{key} is a setting of {name}, which plugins= has not chosen; type plugins=[{name}]."
        return unknown_key(key, known)
    first = message.splitlines()[0]
    if found := re.match(r"\w+Exception: (.*)|(?:mismatched|extraneous|missing|no viable).*", first):
        return f"{found.group(1) or first} cannot be read; type KEY=VALUE, quoted where it holds brackets or spaces."
    return first


def _not_end_to_end(key: str) -> str:
    choices = [one for one in GlobalHydra.instance().config_loader().get_group_options("end_to_end") if one != "none"]
    return f"{key} is a setting of end_to_end, which is none; type end_to_end={' or '.join(choices)} too."


def _no_such_choice(group: str, name: str) -> str:
    choices = sorted(GlobalHydra.instance().config_loader().get_group_options(group))
    near = difflib.get_close_matches(name, choices, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}?" if near else "there is none near."
    return f"There is no {group}={name}; {hint} There are: {', '.join(choices)}."


def _all_keys() -> list[str]:
    """Dotted names of all settings of the default configuration and of every plugin file."""
    with_all = compose("config", ["plugins=[" + ",".join(_plugin_files()) + "]"])
    keys: list[str] = []

    def visit(node: Any, prefix: str) -> None:
        for key in node:
            name = f"{prefix}{key}"
            keys.append(name)
            if not OmegaConf.is_missing(node, key) and not OmegaConf.is_interpolation(node, key):
                value = node[key]
                if isinstance(value, DictConfig):
                    visit(value, f"{name}.")

    visit(with_all, "")
    return keys


def _plugin_files() -> list[str]:
    return GlobalHydra.instance().config_loader().get_group_options("plugins")
