"""python -m diffx.checkpoint import FILE --as sit-xl-2 -o DIR, export SOURCE -o OUT --as FAMILY, push SOURCE REPO, and
pull REPO -o DIR."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from diffx.checkpoint.convert import export_model, import_file
from diffx.checkpoint.hub import pull, push
from diffx.checkpoint.layouts import LAYOUTS
from diffx.commands.frame import finish


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line; bad input is one sentence and exit code 2."""
    chosen = _parser().parse_args(arguments)

    def run() -> None:
        if chosen.command == "import":
            lines = import_file(chosen.file, chosen.name, chosen.out, chosen.weights, chosen.settings)
        elif chosen.command == "export":
            lines = export_model(chosen.source, chosen.name, chosen.out)
        elif chosen.command == "push":
            lines = push(chosen.source, chosen.repository, chosen.public)
        else:
            lines = pull(chosen.repository, chosen.out, chosen.revision)
        print("\n".join(lines))

    finish(run)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m diffx.checkpoint", description="Official checkpoints, in and out.")
    commands = parser.add_subparsers(dest="command", required=True)
    read = commands.add_parser("import", help="an official .pt or .safetensors file -> a folder that diffx loads")
    read.add_argument("file", type=Path)
    read.add_argument("--as", dest="name", required=True, metavar="FAMILY-SIZE-PATCH", help="for instance sit-xl-2")
    read.add_argument("-o", dest="out", type=Path, required=True, metavar="DIR")
    read.add_argument("--weights", choices=["ema", "model"], default="ema", help="which, where the file has both")
    read.add_argument("--set", dest="settings", nargs="+", default=[], metavar="KEY=VALUE", help="e.g. input_size=64")
    write = commands.add_parser("export", help="an imported model or a run directory -> an official file")
    write.add_argument("source", type=Path)
    write.add_argument("--as", dest="name", metavar="FAMILY", help=f"{', '.join(LAYOUTS)} or diffusers")
    write.add_argument("-o", dest="out", type=Path, required=True, metavar="OUT", help=".pt, .safetensors or a folder")
    to = commands.add_parser("push", help="a run or an imported model -> the Hugging Face Hub, with a model card")
    to.add_argument("source", type=Path)
    to.add_argument("repository", metavar="USER/NAME")
    to.add_argument("--public", action="store_true", help="make a new repository public (default: private)")
    back = commands.add_parser("pull", help="what was pushed -> a folder for diffx.sample and diffx.evaluate")
    back.add_argument("repository", metavar="USER/NAME")
    back.add_argument("-o", dest="out", type=Path, metavar="DIR", help="(default: NAME)")
    back.add_argument("--revision", help="a commit, a branch or a tag (default: the newest)")
    return parser
