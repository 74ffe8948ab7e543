"""python -m diffx.prepare images | latents | features | text | import-repa | import-lightningdit | check | verify"""

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from diffx.data.shards import shard_file
from diffx.errors import DiffxError, clean_text
from diffx.prepare.job import SHARD
from diffx.prepare.limits import Limits
from diffx.prepare.verify import Problem, verify
from diffx.store.remote import is_url

SHOWN = 20
LONGEST = 300


def main(arguments: list[str] | None = None) -> int:
    """Run one preparation; 0, or 1 if verify found problems, or 2 with a sentence for what cannot be done."""
    asked = parser().parse_args(arguments)
    try:
        _refuse_urls(sys.argv[1:] if arguments is None else arguments)
        return asked.run(asked)
    except DiffxError as error:
        print(f"diffx: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Stopped. Finished shards are safe; type the same command again to go on.", file=sys.stderr)
        return 130


def _refuse_urls(words: list[str]) -> None:
    """A path would make a folder of the URL's name here."""
    if url := next(filter(is_url, words), None):
        raise DiffxError(
            f"{url} is a URL, and a preparation reads and writes on this machine; copy or mount what is there first, "
            "and copy the finished folder to where training reads it (docs/prepare.md)."
        )


def parser() -> argparse.ArgumentParser:
    """The command line; every command is documented in docs/prepare.md."""
    top = argparse.ArgumentParser(
        prog="python -m diffx.prepare",
        description="Images, latents and features in shards, joined by key. Every command goes on where it was "
        "stopped, and shares its work among the processes of `torchrun --nproc_per_node N -m diffx.prepare ...`.",
    )
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    images = commands.add_parser("images", help="centre-cropped images from a folder, tar or parquet files")
    images.add_argument("source", help="folder of class folders, .tar or .parquet file, or a quoted pattern of such")
    images.add_argument("root", type=Path, help="where the shards go")
    images.add_argument("--resolution", type=int, default=256)
    images.add_argument("--into", default="images", help="folder in ROOT; `reference` for held-out images")
    images.add_argument("--shard-size", type=int, default=SHARD, help="images per file")
    _add_limits(images)
    images.set_defaults(run=_images)
    latents = commands.add_parser("latents", help="an autoencoder's posterior of every image")
    latents.add_argument("root", type=Path)
    latents.add_argument("--autoencoder", required=True, help="a name of conf/autoencoder or of the Hub, or a folder")
    latents.set_defaults(run=_latents)
    features = commands.add_parser("features", help="a vision encoder's tokens of every image (optional cache)")
    features.add_argument("root", type=Path)
    features.add_argument("--encoder", required=True, help="dinov2_vitb14, ...")
    features.add_argument("--grid", type=int, help="side of the backbone's grid of tokens")
    features.set_defaults(run=_features)
    text = commands.add_parser("text", help="captions beside the images, as frozen text encoders read them")
    text.add_argument("source", help="what the images came from: a folder, .tar or .parquet files")
    text.add_argument("root", type=Path)
    help = "folder of a text encoder (CLIP, T5, a decoder language model); several are joined as SD3 joins them"
    text.add_argument("--encoder", action="append", required=True, metavar="FOLDER", help=help)
    text.add_argument("--length", type=int, help="tokens of a caption (default 256; CLIP's is its own)")
    help = "samples without a caption: left out and named, or the empty prompt"
    text.add_argument("--missing", choices=["refuse", "empty"], default="refuse", help=help)
    text.add_argument("--batch-size", type=int, default=32, help="captions per forward pass")
    text.set_defaults(run=_text)
    for command in (latents, features):
        command.add_argument("--flip", action="store_true", help="of the horizontally flipped images too")
        command.add_argument("--batch-size", type=int, default=32, help="images per forward pass")
    repa = commands.add_parser("import-repa", help="the folders images/ and vae-sd/ of REPA's preprocessing")
    repa.add_argument("source", type=Path)
    repa.add_argument("root", type=Path)
    repa.add_argument("--autoencoder", default="stabilityai/sd-vae-ft-mse", help="the one that REPA encoded with")
    repa.add_argument("--scale", type=float, default=0.18215, help="its scaling factor")
    repa.add_argument("--shard-size", type=int, default=SHARD)
    _add_limits(repa)
    repa.set_defaults(run=_import_repa)
    lightningdit = commands.add_parser("import-lightningdit", help="latents*.safetensors of LightningDiT's extraction")
    lightningdit.add_argument("source", type=Path)
    lightningdit.add_argument("root", type=Path)
    lightningdit.add_argument("--autoencoder", default="va_vae", help="the one that they were extracted with")
    lightningdit.add_argument("--shard-size", type=int, default=SHARD)
    lightningdit.set_defaults(run=_import_lightningdit)
    quality = commands.add_parser("check", help="how well the autoencoder gives back the prepared images: PSNR and FD")
    quality.add_argument("root", type=Path)
    quality.add_argument("--decoder", help="another autoencoder of the same latents, as of conf/autoencoder")
    quality.add_argument("--count", type=int, default=256, metavar="N", help="of so many images, evenly spaced (256)")
    quality.set_defaults(run=_check)
    check = commands.add_parser("verify", help="find and name missing, doubled and corrupt samples")
    check.add_argument("root", type=Path)
    check.set_defaults(run=_verify)
    return top


def _add_limits(command: argparse.ArgumentParser) -> None:
    for name, default, what in (
        ("bytes", Limits.bytes, "bytes of an encoded image"),
        ("pixels", Limits.pixels, "pixels of an image, decoded or enlarged"),
        ("classes", Limits.classes, "classes, which are numbered from 0"),
    ):
        help = f"most {what} ({default}); a sample with more is left out and named"
        command.add_argument(f"--max-{name}", type=int, default=default, metavar="N", help=help)


def _limits(asked: argparse.Namespace) -> Limits:
    return Limits(asked.max_bytes, asked.max_pixels, asked.max_classes)


def _images(asked: argparse.Namespace) -> int:
    from diffx.prepare.images import prepare_images

    into, limits = asked.into, _limits(asked)
    return _print_made(prepare_images(asked.source, asked.root, asked.resolution, into, asked.shard_size, limits))


def _latents(asked: argparse.Namespace) -> int:
    from diffx.prepare.encode import prepare_latents

    return _print_made(prepare_latents(asked.root, asked.autoencoder, asked.flip, asked.batch_size))


def _features(asked: argparse.Namespace) -> int:
    from diffx.prepare.encode import prepare_features

    return _print_made(prepare_features(asked.root, asked.encoder, asked.grid, asked.flip, asked.batch_size))


def _text(asked: argparse.Namespace) -> int:
    from diffx.prepare.text.encode import prepare_text

    source, root, encoders = asked.source, asked.root, asked.encoder
    return _print_made(prepare_text(source, root, encoders, asked.length, asked.missing, asked.batch_size))


def _import_repa(asked: argparse.Namespace) -> int:
    from diffx.prepare.published.repa import import_repa

    size, limits = asked.shard_size, _limits(asked)
    return _print_made(import_repa(asked.source, asked.root, asked.autoencoder, asked.scale, size, limits))


def _import_lightningdit(asked: argparse.Namespace) -> int:
    from diffx.prepare.published.lightningdit import import_lightningdit

    return _print_made(import_lightningdit(asked.source, asked.root, asked.autoencoder, asked.shard_size))


def _print_made(manifest: dict[str, Any] | None) -> int:
    """What was made. None: other processes are still at it, and the last of them reports."""
    if manifest is None:
        return 0
    refused = manifest["rejected"]
    hours = ", ".join(f"{hours:.4f} {unit.replace('_', '-')}" for unit, hours in manifest["cost"].items())
    print(f"{manifest['samples']} samples, {len(refused)} refused, checksum {manifest['checksum']}, {hours}")
    for key, reason in refused[:SHOWN]:
        print(f"  refused {clean_text(key, LONGEST)}: {clean_text(reason, LONGEST)}")
    if len(refused) > SHOWN:
        print(f"  and {len(refused) - SHOWN} more; all are in manifest.json")
    return 0


def _check(asked: argparse.Namespace) -> int:
    from diffx.prepare.reconstruction import check_reconstruction

    print(check_reconstruction(asked.root, asked.decoder, asked.count))
    return 0


def _verify(asked: argparse.Namespace) -> int:
    problems = verify(asked.root)
    for problem in problems[:SHOWN]:
        print(f"{problem.kind}: {clean_text(f'{problem.folder}/{problem.key}', LONGEST)}")
    if not problems:
        print("all samples are there, once, and intact")
        return 0
    counts = Counter((problem.folder, problem.kind) for problem in problems)
    print("; ".join(f"{folder}: {count} {kind}" for (folder, kind), count in counts.items()))
    print(_remedy(asked.root, problems))
    return 1


def _remedy(root: Path, problems: list[Problem]) -> str:
    """What to type so that damaged shards are made again."""
    shards = sorted({(problem.folder, problem.shard) for problem in problems if problem.shard >= 0})
    broken = sorted({problem.folder for problem in problems if (problem.kind, problem.shard) == ("manifest", -1)})
    files = [root / folder / "manifest.json" for folder in broken]
    files += [root / folder / shard_file(shard).replace(".npy", ".json") for folder, shard in shards]
    return (
        f"Delete {', '.join(map(str, files[:SHOWN]))} and type the command that made them again: it makes only those."
    )
