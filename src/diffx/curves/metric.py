"""What a metric's name says: whether it is a distance, its number of samples, and in whose features it was measured."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from diffx.run.distances import DISTANCE

ALIGNMENT = re.compile(r"^(align_|clip_score$)")
SAMPLES = re.compile(r"_(\d+k?)$")
SPACE_TRAINING = {"sup": "supervised", "ssl": "self-supervised"}
INCEPTION = {"name": "inception", "family": "inception", "training": "supervised"}
DINOV2 = {"name": "dinov2", "family": "dinov2", "training": "self-supervised"}


def pick_alignments(names: Iterable[str]) -> list[str]:
    """The metrics that say whether samples show what their prompts ask for: higher is better. Keeps the order."""
    return [name for name in names if ALIGNMENT.match(name)]


def name_metric(metric: str, samples: bool = True) -> str:
    """`fd_embedded_sup_1k` as people write it: FD embedded sup (1k samples). Other metrics keep their names."""
    if not DISTANCE.match(metric):
        return metric
    count = SAMPLES.search(metric)
    first, *rest = SAMPLES.sub("", metric).split("_")
    name = " ".join([("sFID" if first == "sfid" else first.upper()), *rest])
    return f"{name} ({count.group(1)} samples)" if count and samples else name


def find_network(metric: str, networks: Iterable[Mapping[str, Any]]) -> dict[str, str] | None:
    """The feature network behind a metric, among those that `run.json` lists; None when the name does not tell.

    FID and KID are measured in Inception features by definition, and a name with DINOv2 in it in that, so they are
    known even when no network is listed.
    """
    bare = SAMPLES.sub("", metric)
    listed = [{str(k): str(v) for k, v in network.items()} for network in networks]
    named = [network for network in listed if squash(network.get("name", "")) in squash(bare)]
    if named:
        return max(named, key=lambda network: len(network.get("name", "")))
    if re.match(r"^(s?fid|kid)(_|$)", metric):
        return next((network for network in listed if "inception" in network.get("name", "").lower()), INCEPTION)
    if "dinov2" in bare:
        return DINOV2
    training = next((SPACE_TRAINING[part] for part in bare.split("_") if part in SPACE_TRAINING), None)
    alike = [network for network in listed if network.get("training") == training]
    return alike[0] if len(alike) == 1 else None


def squash(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower()) or "?"
