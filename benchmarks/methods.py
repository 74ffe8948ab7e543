"""Counts what every method costs and which go together, and writes both into docs/methods.md:

python -m benchmarks.methods
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import entry_points
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import timm
import torch
from rich.progress import track

from diffx.assemble.flops import Flops, count_flops, flops_of
from diffx.assemble.model import TrainingModel, build_model
from diffx.config.compose import compose_config
from diffx.errors import DiffxError
from diffx.plugin import Plugin

PAGE = Path("docs/methods.md")
SIZES = ("s", "b", "l", "xl")
OWN = "diffx_plugins."
OF_ONE_BACKBONE = ("early_head",)  # they train a part of it: RAE2
CONFIGS = {"irepa": "repa", "sr_dit": "sprint"}  # files of conf/plugins that switch on plugins of other names
BACKBONES = {  # by the head of the column, a size of it and the data that it is for
    "DiT": ["backbone=s"],
    "DDT": ["backbone=ddt_b"],
    "U-ViT": ["backbone=uvit_l"],
    "DiT^DH": ["backbone=dit_dh_xl", "data.channels=768", "data.size=16"],
    "RAEv2": ["backbone=rae2_xl", "data.channels=1024", "data.size=16"],
    "JiT": ["backbone=jit_b", "data.channels=3", "data.size=256"],
    "MM-DiT": ["data=captioned256", "backbone=mmdit_b"],
    "PixArt": ["data=captioned256", "backbone=pixart_xl"],
}
RELEASED = {  # what a method's file in conf/plugins has for small networks, at the papers' sizes
    "reg": ["backbone.class_dim=768"],
    "sr_dit": ["backbone.class_dim=768"],
    "maskdit": ["backbone.decoder_width=512", "backbone.decoder_depth=8", "backbone.decoder_heads=16"],
}
GIGA = 1e9


class Method(NamedTuple):
    """What a count cannot tell. published: as its page says, with the source there."""

    title: str
    published: str
    run: str


METHODS: dict[str, Method] = {
    "repa": Method("REPA", "SiT-XL 400K 17.2 → 7.9", "+experiment=repa_xl"),
    "irepa": Method("iREPA", "XL 400K 7.76 → 7.52 over REPA", "+experiment=irepa_xl"),
    "haste": Method("HASTE", "XL 100 epochs 14.8 → 5.3", "+experiment=haste_xl"),
    "reg": Method("REG", "SiT-XL 400K 17.2 → 3.4", "+experiment=reg_xl"),
    "sprint": Method("SPRINT", "XL 400 epochs guided 1.62", "+experiment=sprint_xl"),
    "sr_dit": Method("SR-DiT", "B/1 400K 10.56 → 3.49 over REG", "+experiment=sr_dit_b"),
    "maskdit": Method("MaskDiT", "XL 2M × 1024 5.69", "+experiment=maskdit_xl"),
    "mdt": Method("MDT", "DiT-XL 400K 19.5 → MDTv2 7.70", "+experiment=mdtv2_xl"),
    "tread": Method("TREAD", "SiT-XL 400K 17.2 → 4.89", "+experiment=tread_xl"),
    "sra": Method("SRA", "SiT-B 400K 33.02 → 29.10", "+experiment=sra_xl"),
    "self_flow": Method("Self-Flow, DTS + AS", "XL 4M guided 1.47, 1.44", "+experiment=self_flow_xl"),
    "sra2": Method("SRA 2", "SiT-B 400K 33.0 → 28.9", "+experiment=sra2_xl"),
    "transcend": Method("Self-Transcendence", "XL 400 epochs guided 1.25", "plugins=[transcend]"),
    "layersync": Method("LayerSync", "FID −23.6 %", "+experiment=layersync_xl"),
    "dispersive": Method("Dispersive loss", "SiT-B 80 epochs 36.49 → 32.35", "+experiment=dispersive_xl"),
    "contrastive": Method("Contrastive flow matching", "FID lower by up to 8.9", "+experiment=contrastive_xl"),
    "direction": Method("Direction loss", "not by itself", "plugins=[direction]"),
    "immiscible": Method("Immiscible noise", "nothing on DiT", "plugins=[immiscible]"),
    "stochastic_depth": Method("Stochastic depth", "nothing; a control", "plugins=[stochastic_depth]"),
    "identity": Method("Identity", "nothing; a claim to test", "plugins=[identity]"),
}


class Pair(NamedTuple):
    """Two methods at once: the FLOPs of a training step over the plain one's, or the sentence of the refusal."""

    relative: float | None
    refusal: str


def sketch(size: str, names: Sequence[str]) -> TrainingModel:
    """A model of a size with the methods at their settings for ImageNet at 256 pixels, without storage."""
    return sketch_on([f"backbone={size}"], names)


def sketch_on(backbone: Sequence[str], names: Sequence[str]) -> TrainingModel:
    """The same of a backbone, in the words that are typed."""
    words = ["data=imagenet256", *backbone, f"plugins=[{','.join(names)}]"]
    released = [word for name in names for word in RELEASED.get(name, []) if len(bringing(names)) == 1]
    return build_model(compose_config([*words, *released]), "meta")


def bringing(names: Sequence[str]) -> list[str]:
    """Those that bring a backbone of their own; of two there is no model."""
    classes = {entry.name: entry for entry in entry_points(group="diffx.plugins")}
    return [name for name in names if classes[CONFIGS.get(name, name)].load().brings_backbone]


def flops(model: TrainingModel) -> Flops:
    return count_flops(model.backbone, model.plugins, model.objective, model.plan, {})


def relative(model: TrainingModel) -> float:
    """Of a training step, its own network as the teacher included, over three forwards of the plain network."""
    counted = flops(model)
    return counted.train / (3 * counted.plain)


def plan_pair(one: str, other: str) -> TrainingModel | str:
    """The model with both, or why there is none."""
    try:
        return sketch("s", (one, other))
    except DiffxError as error:
        return str(error)


def count_pair(one: str, other: str) -> Pair:
    model = plan_pair(one, other)
    return Pair(None, model) if isinstance(model, str) else Pair(relative(model), "")


def own_methods() -> list[str]:
    """By the names of the files in conf/plugins, diffx's own plugins but those of one backbone."""
    registered = [entry.name for entry in entry_points(group="diffx.plugins") if entry.value.startswith(OWN)]
    named = [*(name for name in registered if name not in OF_ONE_BACKBONE), *CONFIGS]
    return sorted(named, key=lambda name: list(METHODS).index(name) if name in METHODS else len(METHODS))


def pairs() -> Iterator[tuple[str, str]]:
    """Every two methods; iREPA is REPA with other settings, and REPA's row speaks for both."""
    return combinations([name for name in own_methods() if name not in CONFIGS], 2)


def say_reads(plugin: Plugin) -> str:
    """What a plugin reads, narrows and changes, from its declaration."""
    parts = []
    if plugin.reads:
        parts.append("reads " + ", ".join(f"{depth}" for depth in plugin.reads))
    if plugin.attends:
        parts.append(f"attention of blocks {plugin.attends[0]} to {plugin.attends[-1]}")
    if plugin.span is not None:
        parts.append(f"narrows blocks {plugin.span.start} to {plugin.span.stop - 1}")
    if plugin.wraps:
        parts.append(f"runs blocks {min(plugin.wraps)} to {max(plugin.wraps)} its own way")
    if plugin.streams:
        parts.append("a stream beside the image")
    if plugin.view != "main":
        parts.append("a second pass")
    hooks = {"couple": "the noise", "retime": "the times", "visible": "the error's weights"}
    parts += [what for hook, what in hooks.items() if plugin.implements(hook)]
    if "target" in plugin.needs:
        parts.append("the target")
    return "; ".join(parts)


def say_teacher(plugin: Plugin) -> str:
    """Whose features a method learns from."""
    kinds = {need.partition("/")[0] for need in plugin.needs}
    if kinds & {"features", "attention", "class_token"}:
        return "a frozen encoder"
    if "network" in kinds:
        return "an earlier run"
    if "autoencoder" in kinds:
        return "the autoencoder"
    return "its own average" if "ema" in kinds else "none"


def keeps_at_sampling(model: TrainingModel) -> str:
    """Whether the network that samples is another one than the plain backbone."""
    return "yes, its backbone" if type(model.backbone).__name__ != "DiT" else "no"


def describe(name: str, method: Method) -> str:
    """A row of the first table."""
    model = sketch("xl", [name])
    plugin = model.plugins[CONFIGS.get(name, name)]
    page = f"../plugins/diffx_plugins/{CONFIGS.get(name, name)}/README.md"
    costs = [f"{relative(model if size == 'xl' else sketch(size, [name])):.2f}" for size in SIZES]
    cells = [
        f"[{method.title}]({page})", say_reads(plugin), say_teacher(plugin), keeps_at_sampling(model), *costs,
        method.published, f"`{method.run}`",
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def write_methods() -> str:
    head = ["method", "what it reads (XL)", "teacher", "kept at sampling", *(s.upper() for s in SIZES),
            "published FID-50K", "`python -m diffx ...`"]  # fmt: skip
    rows = [describe(name, METHODS[name]) for name in track(own_methods(), "methods")]
    return "\n".join([f"| {' | '.join(head)} |", "|---" * len(head) + "|", *rows])


def write_pairs() -> str:
    """The table of all pairs, and the reasons of those that are refused below it."""
    names = [name for name in own_methods() if name not in CONFIGS]
    found = {pair: count_pair(*pair) for pair in track(list(pairs()), "pairs")}
    reasons: dict[str, int] = {}
    rows = []
    for i, one in enumerate(names[:-1]):
        cells = [cell(found[one, other], reasons) if j > i else "" for j, other in enumerate(names) if j]
        rows.append(f"| {one} | {' | '.join(cells)} |")
    notes = [f"{number}. {reason}" for reason, number in reasons.items()]
    return "\n".join([f"| | {' | '.join(names[1:])} |", "|---" * len(names) + "|", *rows, "", *notes])


def write_backbones() -> str:
    """Which method works on which backbone; those that bring one are left out."""
    reasons: dict[str, int] = {}
    names = [name for name in own_methods() if name not in CONFIGS and not bringing([name])]
    rows = []
    for name in names:
        found = [plan_on(backbone, name) for backbone in BACKBONES.values()]
        cells = [cell(Pair(None, one), reasons) if one else "yes" for one in found]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    notes = [f"{number}. {reason}" for reason, number in reasons.items()]
    return "\n".join([f"| | {' | '.join(BACKBONES)} |", "|---" * (len(BACKBONES) + 1) + "|", *rows, "", *notes])


def plan_on(backbone: Sequence[str], name: str) -> str:
    """Why a method has no plan on a backbone, or nothing."""
    try:
        sketch_on(backbone, [name])
    except DiffxError as error:
        return str(error)
    return ""


def cell(pair: Pair, reasons: dict[str, int]) -> str:
    if pair.relative is not None:
        return f"{pair.relative:.2f}"
    return f"no ({reasons.setdefault(pair.refusal, len(reasons) + 1)})"


def encoder_gigaflops() -> float:
    """Of one image through DINOv2-B at 224 pixels."""
    with torch.device("meta"):
        encoder = timm.create_model("vit_base_patch14_dinov2", img_size=224, num_classes=0)
        return flops_of(encoder, torch.zeros(1, 3, 224, 224)) / GIGA


def fill(page: str, blocks: Mapping[str, str]) -> str:
    """The page with what stands between <!-- NAME --> and <!-- /NAME --> replaced."""
    for name, text in blocks.items():
        before, _, rest = page.partition(f"<!-- {name} -->\n")
        page = f"{before}<!-- {name} -->\n{text}\n<!-- /{name} -->{rest.partition(f'<!-- /{name} -->')[2]}"
    return page


def main() -> None:
    argparse.ArgumentParser(description="Count methods and pairs, and write docs/methods.md.").parse_args()
    encoder = f"DINOv2-B takes {encoder_gigaflops():.1f} GFLOP an image at 224 pixels."
    blocks = {
        "encoder": encoder,
        "methods": write_methods(),
        "backbones": write_backbones(),
        "pairs": write_pairs(),
    }
    PAGE.write_text(fill(PAGE.read_text(), blocks))
    print(f"written: {PAGE}")


if __name__ == "__main__":
    main()
