"""The one way to Settings: whoever composed or wrote a configuration, it is parsed and checked here."""

from collections.abc import Callable
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from diffx.config.check import check
from diffx.config.parse import first_line, parse
from diffx.config.settings import Settings
from diffx.config.trust import refuse_strangers
from diffx.errors import DiffxError


def settings_of(config: DictConfig) -> Settings:
    """The settings that a composed configuration holds.

    Raises:
        DiffxError: an unknown setting, one of the wrong kind or out of range, or settings that do not go together.
    """
    settings = parse(config)
    check(settings)
    return settings


def read_settings(file: Path) -> Settings:
    """The settings in a YAML file of any origin: it may name only what diffx and its registered packages provide.

    Raises:
        DiffxError: the file cannot be read, names something else, or holds what settings_of refuses.
    """
    return _about(file, refuse_strangers)


def read_trusted_settings(file: Path) -> Settings:
    """As read_settings, from a file of one's own: a class that it names is imported wherever that is."""
    return _about(file, lambda settings: None)


def _about(file: Path, accept: Callable[[Settings], None]) -> Settings:
    try:
        config = OmegaConf.load(file)
    except Exception as error:  # YAML's own kinds, and those of the disk
        raise DiffxError(f"{file} cannot be read as settings ({first_line(error)}).") from error
    if not isinstance(config, DictConfig):
        raise DiffxError(f"{file} holds no settings, as KEY: VALUE.")
    try:
        settings = parse(config)
        accept(settings)
        check(settings)
    except DiffxError as error:
        raise DiffxError(f"{file}: {error}") from error
    return settings
