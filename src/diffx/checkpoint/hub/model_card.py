"""The README.md of a pushed model, generated: what it is, what it measured under which protocol, what it cost, and how
to train it again."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from diffx.checkpoint.folder import CONFIG
from diffx.errors import clean_text
from diffx.run.folder import RunDir

UNITS = {"gpu_hours": "GPU-hours", "cpu_hours": "CPU-hours"}


def write_card(source: Path, repository: str) -> str:
    """Markdown under a head that the Hub reads."""
    config, record = OmegaConf.to_container(OmegaConf.load(source / CONFIG)), RunDir(source).read_record()
    settings: dict[Any, Any] = config if isinstance(config, dict) else {}
    name = repository.rpartition("/")[2]
    head = ["---", "library_name: diffx", "tags:", *(f"- {tag}" for tag in list_tags(record)), "---"]
    parts = [
        f"# {name}",
        describe(settings, record),
        *(["## Measured", tabulate(source, record)] if tabulate(source, record) else []),
        *(["## Trained", *describe_training(settings, record)] if record else []),
        "## Use",
        "```sh\n"
        f"python -m diffx.checkpoint pull {repository} -o {name}\n"
        f"python -m diffx.sample {name} -n 64\n"
        f"python -m diffx.evaluate {name} --protocol adm_50k\n"
        "```",
        "The weights are safetensors; nothing in this repository runs when it is opened.",
    ]
    return "\n".join(head) + "\n\n" + "\n\n".join(parts) + "\n"


def list_tags(record: Mapping[str, Any]) -> list[str]:
    plugins = [clean_text(str(name)) for name in record.get("plugins") or []]
    return ["diffx", "diffusion", "image-generation", *(json.dumps(name) for name in plugins)]


def describe(settings: Mapping[str, Any], record: Mapping[str, Any]) -> str:
    """The method, the network and the data, in a sentence or two."""
    backbone = settings.get("backbone") or {}
    kind, source = name_class(backbone), settings.get("source") or {}
    if not record:
        return (
            f"A {kind} for [diffx](https://pypi.org/project/diffx-train), imported from {source.get('file', 'a file')} "
            f"({source.get('family', 'of unknown family')}, weights: {source.get('weights', 'unknown')})."
        )
    plugins = settings.get("plugins") or {}
    method = ", ".join(f"{name} ({list_values(one)})" for name, one in plugins.items()) or "no plugin"
    size = (record.get("parameters") or {}).get("backbone")
    millions = f" of {size / 1e6:.1f}M parameters" if isinstance(size, int | float) else ""
    data = (settings.get("data") or {}).get("name", "unknown data")
    return f"A {kind}{millions}, trained by diffx on {data} with {method}; averaged weights (EMA)."


def name_class(node: Mapping[str, Any]) -> str:
    return str(node.get("_target_", "network")).rpartition(".")[2]


def list_values(node: Any) -> str:
    pairs = node.items() if isinstance(node, Mapping) else ()
    return ", ".join(f"{key} {value}" for key, value in pairs if not str(key).startswith("_"))


def tabulate(source: Path, record: Mapping[str, Any]) -> str:
    """A row for each value, with the hash of all that its protocol fixes; empty where nothing was measured."""
    unit = str(record.get("cost", "gpu_hours"))
    rows = [
        f"| {name} | {value:.6g} | {protocol} | `{line.get('protocol', 'unknown')}` | {line.get('step', '–')} "
        f"| {write_cost(line.get(unit))} |"
        for protocol, line in list_measured(source)
        for name, value in (line.get("values") or {}).items()
        if isinstance(value, int | float)
    ]
    head = f"| metric | value | protocol | its hash | step | {UNITS.get(unit, unit)} |"
    return "\n".join([head, "|---|---:|---|---|---:|---:|", *rows]) if rows else ""


def list_measured(source: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The last line of each curve, and every file of values, under its protocol's name."""
    for file in sorted(source.glob("curve*.jsonl")):
        lines = [found for line in file.read_text().splitlines() if (found := read_object(line))]
        if lines:
            yield file.stem.removeprefix("curve").lstrip("_") or "of training", lines[-1]
    for file in sorted(source.glob("values_*.json")):
        if found := read_object(file.read_text()):
            yield file.stem.removeprefix("values_"), found


def read_object(text: str) -> dict[str, Any]:
    """JSON's object; empty for what is none."""
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def write_cost(hours: Any) -> str:
    return f"{hours:.4g}" if isinstance(hours, int | float) else "–"


def describe_training(settings: Mapping[str, Any], record: Mapping[str, Any]) -> list[str]:
    """The device and the protocol of the curve, and the command that trains it again."""
    device, git, found = record.get("device") or {}, record.get("git") or {}, record.get("protocol") or {}
    protocol = ", ".join(f"{key} {flatten(value)}" for key, value in found.items())
    versions = ", ".join(f"{name} {number}" for name, number in (record.get("versions") or {}).items())
    commit = f"git checkout {git['commit']}\n" if git.get("commit") else ""
    dirty = ", with uncommitted changes" if git.get("dirty") else ""
    return [
        f"On {device.get('count', 1)} × {device.get('name', 'unknown device')}, {record.get('precision', '')}, seed "
        f"{record.get('seed', 'unknown')}{dirty}. Versions: {versions}.",
        f"Protocol of training's curve (`{record.get('protocol_hash', 'unknown')}`): {protocol}.",
        f"To train it again, in a checkout of diffx, from the settings in this repository:\n\n```sh\n{commit}"
        f"python -m diffx.worker {CONFIG}\n```",
    ]


def flatten(value: Any) -> str:
    """A protocol's entry: of a class its name and its settings."""
    return f"{name_class(value)} ({list_values(value)})" if isinstance(value, Mapping) else str(value)
