"""python -m diffx --help: commands, examples, groups and settings; --help GROUP=NAME: one file of conf/."""

import textwrap
from collections.abc import Sequence

from diffx.commands.help.settings import Key, default_keys, find_file, groups, read_description, read_keys
from diffx.config.compose import config_dir
from diffx.errors import DiffxError, unknown_key

WIDTH = 80
COMMANDS = {
    "python -m diffx": "train one run, or with -m a sweep that ends with its comparison (also: diffx)",
    "python -m diffx.plan": "what a run would do before which block, and what it costs; trains nothing",
    "python -m diffx.scale": "a training on many GPUs, on paper",
    "python -m diffx.compare": "curves, time-to-target and tables of runs that are there",
    "python -m diffx.power": "how many seeds a study needs",
    "python -m diffx.record": "records, and whether an entry stands",
    "python -m diffx.sample": "samples of a run, as a picture and as numbers",
    "python -m diffx.evaluate": "measure a run, or somebody's images, under a published protocol",
    "python -m diffx.probe": "what each block of a run knows: linear probes, CKNNA",
    "python -m diffx.prepare": "ImageNet to latents and features",
    "python -m diffx.checkpoint": "official and diffusers checkpoints, in and out; push and pull",
    "python -m diffx.new": "the files of a method of your own, which pass their test at once",
}
EXAMPLES = {
    "diffx": "the embedded digits, the plain backbone",
    "diffx plugins=[repa]": "one method",
    "diffx plugins=[repa] plugins.repa.weight=0.25": "with another λ",
    "diffx data=shapes backbone.patch_size=4 max_steps=2000": "other data, other sizes",
    "diffx 'budget={cpu_hours: 0.1}' max_steps=100000": "end by cost instead of steps",
    "diffx -m 'plugins=[],[repa],[tread]' 'seed=range(3)'": "an ablation over three seeds",
    "diffx -m plugins=[repa] plugins.repa.weight=0.25,0.5,1.0": "a sweep of λ",
    "diffx +experiment=repa_xl trainer.devices=8": "a paper's setting, on eight GPUs",
    "python -m diffx.plan +experiment=repa_xl": "the same, looked at and not trained",
    "diffx study=mine plugins=[mdt] logger=none": "in runs/mine, without W&B",
}
ASIDE = ("trainer/default", "eval/embedded", "logger/wandb")  # files of defaults whose settings --help lists too
OPTIONS = {
    "-m, --multirun": "run every combination of comma-separated values",
    "--help [GROUP=NAME]": "this page, or the settings of one file: --help plugins=repa",
    "--cfg job --resolve": "print all settings of this run and stop",
    "--version": "versions of diffx and of what shapes its numbers",
    "--install-completion": "completion of settings for the shell in $SHELL",
}


def write_help(asked: Sequence[str]) -> str:
    """The page, or what one GROUP=NAME sets. Raises DiffxError where there is no such file."""
    return "\n".join(write_page()) if not asked else "\n\n".join("\n".join(write_file(one)) for one in asked)


def write_page() -> list[str]:
    lines = ["diffx: train one diffusion transformer many ways, and see which was cheapest.", ""]
    lines += ["usage: diffx [-m] [KEY=VALUE ...]", ""]
    lines += ["options", *_listed(OPTIONS), "", "commands", *_listed(COMMANDS), "", "ten examples"]
    lines += [line for command, what in EXAMPLES.items() for line in (f"  {command}", f"      {what}")]
    lines += ["", "groups (GROUP=NAME, plugins=[NAME,NAME]; one in full: --help GROUP=NAME)"]
    for group, names in groups().items():
        typed = "+experiment" if group == "experiment" else group
        lines += _listed({typed: ", ".join(names)}, 15)
    lines += ["", "settings (KEY=VALUE; what stands behind = is the default)", *_keys(default_keys())]
    for place in ASIDE:
        lines += _keys(read_keys(config_dir() / f"{place}.yaml", place.partition("/")[0]))
    return lines


def write_file(asked: str) -> list[str]:
    group, _, name = asked.lstrip("+").partition("=")
    file = find_file(group, name.strip("[]"))
    if file is None:
        known = [f"{group}={name}" for group, names in groups().items() for name in names]
        raise DiffxError(unknown_key(asked, known).replace("is not a setting", "is no file of conf/"))
    described = textwrap.wrap(read_description(file), WIDTH)
    return [asked, *(f"  {line}" for line in described), *_keys(read_keys(file, group))]


def _keys(keys: Sequence[Key]) -> list[str]:
    return [line for key in keys for line in _listed({f"{key.name}={key.value}": key.meaning}, 30)]


def _listed(entries: dict[str, str], width: int = 28) -> list[str]:
    """Names and what they mean in two columns; a name too long for the first has a line of its own."""
    lines = []
    for name, meaning in entries.items():
        first, *rest = textwrap.wrap(meaning, WIDTH - width - 4) or [""]
        start = f"  {name:<{width}}  {first}" if len(name) <= width else f"  {name}"
        rest = rest if len(name) <= width else [first, *rest]
        lines += [start.rstrip(), *(" " * (width + 4) + line for line in rest if line)]
    return lines
