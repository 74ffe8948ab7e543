"""Samplers: python -m benchmarks.sample [settings] [--backbones s b] [--samplers euler heun sde ancestral edm]

Samples and network forwards a second, with and without guidance, in turn, beside the network alone on the same batch as
often. A guided forward runs the network on twice the batch, so half the speed is what it costs; NFE counts it once, as
everywhere in diffx, and the rows that went through the network are counted beside it.
"""

import argparse
import os
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch is imported

import torch
from torch import Tensor, nn

from benchmarks import measure
from benchmarks.measure import Ratio, in_turn, seconds_of, speed_ratio
from diffx.assemble.model import build_model
from diffx.config.compose import compose_config
from diffx.config.target import make
from diffx.sampler import Field, Guidance, SampleNoise

# The settings that a sampler needs; nfe is set to the nearest one that it can take.
SAMPLERS = {
    "euler": ["objective=linear"],
    "heun": ["objective=linear"],
    "sde": ["objective=linear"],
    "ancestral": ["objective=ddpm", "backbone.learn_sigma=true"],
    "edm": ["objective=edm"],
}
ODD = ("heun", "edm")
SCALE = 1.5


class Counted(nn.Module):
    """A network that counts its forwards and the rows in them."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.forwards, self.rows = network, 0, 0

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        self.forwards, self.rows = self.forwards + 1, self.rows + len(x)
        return self.network(x, t, y)


class Sampled:
    """A sampler on a backbone with random weights, guided or not."""

    def __init__(
        self, sampler: str, backbone: str, asked: argparse.Namespace, scale: float, device: torch.device
    ) -> None:
        nfe = asked.nfe - 1 + asked.nfe % 2 if sampler in ODD else asked.nfe
        fixed = ["data=imagenet256", f"backbone={backbone}", f"sampler={sampler}", f"sampler.nfe={nfe}"]
        config = compose_config([*fixed, *SAMPLERS[sampler], *asked.settings])
        model = build_model(config)
        self.sampler, self.objective, self.scale, self.asked_nfe = make(config.sampler), model.objective, scale, nfe
        self.backbone, self.device, self.batch = model.backbone.to(device).eval(), device, asked.batch_size
        self.network, self.nfe = Counted(self.backbone), 0
        self.half = torch.autocast(device.type, torch.bfloat16, enabled=asked.precision == "bf16-mixed")

    @torch.no_grad()
    def __call__(self) -> None:
        """Sample one batch."""
        noise = SampleNoise(0, range(self.batch))
        shape = self.backbone.shape
        labels = torch.arange(self.batch, device=self.device) % self.backbone.num_classes
        field = Field(self.network, self.objective, labels, self.backbone.null_condition(labels), Guidance(self.scale))
        with self.half:
            self.sampler(field, noise.draw(shape).to(self.device), noise)
        self.nfe = field.nfe

    @torch.no_grad()
    def network_alone(self) -> None:
        """As many forwards as the sampler takes, on the same number of rows."""
        rows = self.batch * (1 if self.scale == 1 else 2)
        x = torch.zeros(rows, *self.backbone.shape, device=self.device)
        t, y = torch.full((rows,), 0.5, device=self.device), torch.zeros(rows, dtype=torch.long, device=self.device)
        with self.half:
            for _ in range(self.asked_nfe):
                self.backbone(x, t, y)


def main() -> None:
    device = measure.pick_device()
    on_gpu = device.type == "cuda"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", help="as for diffx, such as sampler.last_step=0.02")
    parser.add_argument("--backbones", nargs="+", default=["s", "xl"] if on_gpu else ["tiny"])
    parser.add_argument("--samplers", nargs="+", choices=SAMPLERS, default=list(SAMPLERS))
    parser.add_argument(
        "--nfe", type=int, default=20 if on_gpu else 6, help="forwards; an odd number, one less, for heun and edm"
    )
    parser.add_argument("--batch-size", type=int, default=256 if on_gpu else 4)
    parser.add_argument("--precision", choices=["32-true", "bf16-mixed"], default="bf16-mixed" if on_gpu else "32-true")
    measure.add_common(parser, "benchmark_sample.json")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    rows = [
        {"backbone": backbone} | row
        for backbone in asked.backbones
        for sampler in asked.samplers
        for row in guided_or_not(sampler, backbone, asked, device)
    ]
    result = {"machine": measure.machine(device), "precision": asked.precision, "samplers": rows}
    print_measured(result)
    measure.write(asked.out, result)


def guided_or_not(sampler: str, backbone: str, asked: argparse.Namespace, device: torch.device) -> list[dict[str, Any]]:
    """A row without and one with guidance, each in turn with the network alone."""
    both = {scale: Sampled(sampler, backbone, asked, scale, device) for scale in (1.0, SCALE)}
    calls: dict[str, Callable[[], object]] = {f"{scale}": one for scale, one in both.items()}
    calls |= {f"{scale} alone": one.network_alone for scale, one in both.items()}
    for call in calls.values():
        seconds_of(call, 1, device)
    seconds = in_turn({name: partial(seconds_of, call, 1, device) for name, call in calls.items()}, asked.rounds)
    rows = []
    for scale, one in both.items():
        times = sorted(seconds[f"{scale}"])
        middle, calls_made = times[len(times) // 2], 1 + asked.rounds
        rows.append(
            {
                "sampler": sampler,
                "guidance_scale": scale,
                "batch_size": one.batch,
                "nfe": one.nfe,
                "forwards": one.network.forwards // calls_made,
                "rows_per_sample": one.network.rows / calls_made / one.batch,
                "samples_per_second": one.batch / middle,
                "forwards_per_second": one.nfe / middle,
                "over_unguided": asdict(speed_ratio(seconds["1.0"], seconds[f"{scale}"])),
                "over_network_alone": asdict(speed_ratio(seconds[f"{scale} alone"], seconds[f"{scale}"])),
            }
        )
    return rows


def print_measured(result: dict[str, Any]) -> None:
    """Print the table."""
    facts = result["machine"]
    where = f"{facts['device']}, torch {facts['torch']}, {facts['threads']} threads"
    print(f"{where}, {facts['clock']}, {result['precision']}")
    print(
        f"{'sampler':<26}{'NFE':>5}{'rows/sample':>13}{'samples/s':>11}{'forwards/s':>12}{'over unguided':>22}"
        f"{'over the network alone':>24}"
    )
    for row in result["samplers"]:
        name = f"{row['backbone']} {row['sampler']}" + (" guided" if row["guidance_scale"] != 1 else "")
        guided, alone = Ratio(**row["over_unguided"]), Ratio(**row["over_network_alone"])
        print(
            f"{name:<26}{row['nfe']:>5}{row['rows_per_sample']:>13.0f}{row['samples_per_second']:>11.3f}"
            f"{row['forwards_per_second']:>12.2f}{guided!s:>22}{alone!s:>24}"
        )


if __name__ == "__main__":
    main()
