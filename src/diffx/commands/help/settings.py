"""Settings and what they mean, from the files of conf/ and the comments in them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from diffx.config.compose import config_dir

KEY = re.compile(r"(?P<indent> *)(?P<name>[\w.]+):(?P<value>[^#]*?)(?:\s+#\s*(?P<meaning>.*))?$")
MORE = re.compile(r"\s{8,}#\s*(?P<meaning>.*)")  # a comment that goes on in the next line
TYPED = {"experiment": "+experiment={}", "plugins": "plugins=[{}]"}  # what is not GROUP=NAME
NOT_SETTINGS = ("defaults", "hydra", "_target_")


@dataclass(frozen=True)
class Key:
    """A setting as it is typed, its default as it stands in the file, and the comment behind it."""

    name: str
    value: str
    meaning: str


def read_keys(file: Path, prefix: str = "") -> list[Key]:
    """The settings of a file of conf/, in its order; those that hold others only as far as a comment says something.

    prefix: the group, where the file does not say that its names are whole.
    """
    lines = file.read_text().splitlines()
    package = next((line.split()[-1] for line in lines if line.startswith("# @package")), prefix)
    parents: list[tuple[int, str]] = [(-1, "" if package == "_global_" else package)]
    found: list[Key] = []
    for line in lines:
        if (more := MORE.fullmatch(line)) and found:
            found[-1] = Key(found[-1].name, found[-1].value, f"{found[-1].meaning} {more['meaning']}")
        if not (match := KEY.fullmatch(line)):
            continue
        depth, value = len(match["indent"]), match["value"].strip()
        while parents[-1][0] >= depth:
            parents.pop()
        name = ".".join(part for part in (parents[-1][1], match["name"]) if part)
        parents.append((depth, name))
        if name.split(".")[0] not in NOT_SETTINGS and match["name"] not in NOT_SETTINGS and (value or match["meaning"]):
            found.append(Key(name, value, match["meaning"] or ""))
    return found


def read_description(file: Path) -> str:
    """What the comment at the head of a file of conf/ says."""
    head = []
    for line in file.read_text().splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith("# @package"):
            head.append(line.lstrip("# "))
    return " ".join(head)


def folders() -> list[Path]:
    """Where settings are looked for: conf/ where the user is, and diffx's own."""
    local = Path.cwd() / "conf"
    return [*([local] if local.is_dir() and local != config_dir() else []), config_dir()]


def groups() -> dict[str, list[str]]:
    """Every group of conf/ with the names of its files."""
    found: dict[str, set[str]] = {}
    for file in (file for folder in folders() for file in folder.glob("*/*.yaml")):
        found.setdefault(file.parent.name, set()).add(file.stem)
    return {group: sorted(names) for group, names in sorted(found.items())}


def find_file(group: str, name: str) -> Path | None:
    """The file that GROUP=NAME chooses."""
    files = (folder / group / f"{name}.yaml" for folder in folders())
    return next((file for file in files if file.exists()), None)


def words() -> Iterator[str]:
    """What may be typed after `diffx`: choices of groups, methods, experiments and settings."""
    known = groups()
    for group, names in known.items():
        for name in names:
            yield TYPED.get(group, f"{group}={{}}").format(name)
    yield from (f"{key.name}=" for key in default_keys() if "." not in key.name)
    for group, names in known.items():
        if group not in ("experiment", "eval"):
            files = (find_file(group, name) for name in names)
            keys = (key.name for file in files if file for key in read_keys(file, group))
            yield from (f"{name}=" for name in keys if name not in known)  # a group wants a file, not a value
    yield from (f"{key.name}=" for key in read_keys(config_dir() / "eval" / "embedded.yaml", "eval"))


def default_keys() -> list[Key]:
    """The settings of conf/config.yaml."""
    return read_keys(config_dir() / "config.yaml")
