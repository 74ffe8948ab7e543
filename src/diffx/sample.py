"""python -m diffx.sample RUN: draw samples from a run's EMA weights, as a PNG grid and a uint8 .npz."""

import argparse
from pathlib import Path

from diffx.cli import calm_openmp, finish


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m diffx.sample", description=__doc__)
    parser.add_argument("run", type=Path, help="a run directory, with config.yaml and checkpoints/ema.safetensors")
    parser.add_argument("-n", "--count", type=int, default=100, help="how many samples (default 100)")
    parser.add_argument("-o", "--out", type=Path, help="the PNG to write (default RUN/samples/samples.png)")
    parser.add_argument("--nfe", type=int, help="network forwards, instead of the run's own sampler setting")
    parser.add_argument("--guidance", type=float, help="guidance scale, instead of the run's own")
    parser.add_argument("--label", type=int, help="one label for all samples, instead of all classes in turn")
    parser.add_argument("--seed", type=int, help="seed of the noise, instead of the run's evaluation seed")
    chosen = parser.parse_args(arguments)
    calm_openmp()
    finish(lambda: sample(chosen))


def sample(chosen: argparse.Namespace) -> None:
    """Draw, decode, write, and say where."""
    import numpy as np
    import torch
    from omegaconf import OmegaConf
    from rich.progress import track

    from diffx.build import build_model
    from diffx.checkpoint.native import load_backbone
    from diffx.errors import DiffxError
    from diffx.evaluation import Sampling, decode_pixels
    from diffx.parts import pick_device
    from diffx.picture import save_grid

    file = chosen.run / "config.yaml"
    if not file.exists():
        raise DiffxError(f"{chosen.run} is no run directory: it has no config.yaml; type runs/EXPERIMENT/ID/sSEED.")
    if chosen.count < 1:
        raise DiffxError(f"--count {chosen.count}: type a number of at least 1.")
    config = OmegaConf.load(file)
    given = {"sampler.nfe": chosen.nfe, "guidance.scale": chosen.guidance, "eval.seed": chosen.seed}
    for key, value in given.items():
        if value is not None:
            OmegaConf.update(config, key, value)
    model = build_model(config)  # type: ignore[arg-type]
    load_backbone(model.backbone, chosen.run / "checkpoints" / "ema.safetensors")
    device = pick_device(config.trainer.accelerator)
    sampling = Sampling(config, model.objective, label=chosen.label)  # type: ignore[arg-type]
    batches = sampling.batches(model.backbone.to(device), range(chosen.count), device)
    total = -(-chosen.count // config.eval.batch_size)
    images = torch.cat([decode_pixels(x).cpu() for x in track(batches, "sampling", total=total)])
    out = chosen.out or chosen.run / "samples" / "samples.png"
    out.parent.mkdir(parents=True, exist_ok=True)
    save_grid(images, out)
    np.savez(out.with_suffix(".npz"), arr_0=images.permute(0, 2, 3, 1).numpy())
    print(f"{chosen.count} samples: {out} and {out.with_suffix('.npz')} (arr_0, uint8, NxHxWxC)")


if __name__ == "__main__":
    main()
