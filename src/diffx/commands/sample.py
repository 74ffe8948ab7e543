"""python -m diffx.sample RUN: draw samples from a run's EMA weights, as a PNG grid and a uint8 .npz, on all GPUs.

Of a run on captions samples are drawn for prompts: diffx.sample RUN --prompt "a large red circle above a blue square".
RUN may also be an imported model, or an official file with --as: diffx.sample DiT-XL-2-256x256.pt --as dit-xl-2
--protocol dit_cfg. Where it is of text to image --encoder names the folders of its text encoders. Sample i depends on
the seed and i alone. A set that was cut off goes on when the same command is typed again.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from diffx.commands.frame import add_model, add_trust, drawn_from, on_all_devices


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m diffx.sample", description=__doc__)
    parser.add_argument("run", type=Path, help="a run directory, an imported model, or an official file with --as")
    parser.add_argument("settings", nargs="*", help="KEY=VALUE settings of eval, sampler and guidance")
    parser.add_argument("--protocol", help="a file of conf/eval: its sampler, guidance, labels and number of samples")
    parser.add_argument("-n", "--count", type=int, help="how many samples (default 100, or the protocol's number)")
    parser.add_argument("-o", "--out", type=Path, help="the .npz to write (default RUN/samples/PROTOCOL.npz)")
    parser.add_argument("--nfe", type=int, help="network forwards, instead of the sampler's setting")
    parser.add_argument("--guidance", type=float, help="guidance scale, instead of the setting")
    parser.add_argument("--ema", type=float, metavar="DECAY", help="one of more_ema_decays, instead of ema_decay")
    parser.add_argument("--ema-length", type=float, metavar="σ", help="an average of this share, from snapshots")
    parser.add_argument("--label", type=int, help="one label for all samples, instead of eval.labels")
    parser.add_argument("--prompt", action="append", metavar="WORDS", help="draw for these words; may be given again")
    parser.add_argument("--prompts", type=Path, metavar="FILE", help="prompts, one a line or as GenEval's .jsonl")
    parser.add_argument("--negative", metavar="WORDS", help="guide away from these words, '' for the empty prompt")
    parser.add_argument("--seed", type=int, help="seed of noise and labels, instead of eval.seed")
    parser.add_argument("--data", help="of an imported model: a prepared data set, whose autoencoder decodes")
    add_model(parser)
    add_trust(parser)
    on_all_devices("diffx.sample", parser, sample, arguments)


def sample(chosen: argparse.Namespace) -> None:
    """Draw, decode, write, and say where."""
    from diffx import ranks
    from diffx.config.protocol import with_protocol
    from diffx.data.prompts import read_prompts
    from diffx.errors import DiffxError
    from diffx.evaluation.sample_set import SampleSet

    if chosen.prompt and chosen.prompts:
        raise DiffxError("--prompt and --prompts are two ways to say the same; type one of them.")
    prompts = chosen.prompt and tuple(chosen.prompt)
    if chosen.prompts:
        prompts = tuple(prompt.words for prompt in read_prompts(chosen.prompts))
    flags = {"sampler.nfe": chosen.nfe, "guidance.scale": chosen.guidance, "eval.seed": chosen.seed}
    asked = [f"{key}={value}" for key, value in flags.items() if value is not None]
    folder, own, weights, typed = drawn_from(chosen.run, chosen, chosen.ema, chosen.ema_length)
    settings = with_protocol(own, chosen.protocol, [*typed, *asked])
    if chosen.negative is not None:
        settings = replace(settings, eval=replace(settings.eval, negative=chosen.negative))
    usual = len(prompts) if prompts else settings.eval.samples if chosen.protocol else 100
    count = usual if chosen.count is None else chosen.count
    if count < 1:
        raise DiffxError(f"--count {count}: type a number of at least 1.")
    out = (chosen.out or folder / "samples" / (chosen.protocol or "samples")).with_suffix(".npz")
    SampleSet(weights, settings, count, out, chosen.label, prompts).draw()
    if ranks.is_first():
        print(f"{count} samples: {out} (arr_0, uint8, NxHxWxC) and {out.with_suffix('.png')}")
