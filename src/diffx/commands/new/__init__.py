"""python -m diffx.new method NAME: the files of a method of one's own, which pass their test as they are."""

import argparse
import keyword
import re
from collections.abc import Sequence
from pathlib import Path
from string import Template

from diffx.commands.frame import calm_openmp, finish
from diffx.errors import DiffxError

# What is written where, by the files beside this one: $name is the method's name, $kind its class.
FILES = {
    "plugin.py.txt": "$name/__init__.py",
    "settings.yaml.txt": "conf/plugins/$name.yaml",
    "test.py.txt": "test_$name.py",
    "README.md.txt": "$name/README.md",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line; bad input is one sentence and exit code 2."""
    calm_openmp()
    parser = argparse.ArgumentParser(prog="python -m diffx.new", description=__doc__)
    parser.add_argument("what", choices=["method"])
    parser.add_argument("name", metavar="NAME", help="as in plugins=[NAME]: lower case, such as my_method")
    parser.add_argument("-o", dest="folder", type=Path, default=Path(), metavar="DIR", help="where (default: here)")
    chosen = parser.parse_args(arguments)
    finish(lambda: print("\n".join(_say(chosen.name, chosen.folder, write_method(chosen.name, chosen.folder)))))


def write_method(name: str, folder: Path) -> list[Path]:
    """Write the files of a method into a folder; returns them.

    Raises:
        DiffxError: the name is no name, is taken, or a file is there already; nothing has been written then.
    """
    kind = "".join(part.capitalize() for part in name.split("_"))
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name) or keyword.iskeyword(kind):
        raise DiffxError(f"{name} is no name of a method; type lower case letters, digits and _, such as my_method.")
    if kind in _imported():
        raise DiffxError(f"{name} is no name of a method: its files import another {kind}; type another name.")
    filled = {"name": name, "kind": kind}
    texts = {
        folder / Template(place).substitute(filled): Template((Path(__file__).parent / source).read_text())
        for source, place in FILES.items()
    }
    for file in texts:
        if file.exists():
            raise DiffxError(f"{file} is there already; type another name, or -o and another folder.")
    _refuse_taken(name)
    try:
        for file, text in texts.items():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text.substitute(filled))
    except OSError as error:
        raise DiffxError(f"{folder} cannot be written ({error.strerror}); type -o and another folder.") from error
    return list(texts)


def _imported() -> set[str]:
    """The names that the files of a method import."""
    texts = [(Path(__file__).parent / source).read_text() for source in FILES]
    lines = [found for text in texts for found in re.findall(r"^from \S+ import (.+)$", text, re.MULTILINE)]
    return {name.strip() for line in lines for name in line.split(",")}


def _refuse_taken(name: str) -> None:
    """Raises DiffxError for a method of diffx, and for a module that Python would find before this one."""
    from importlib.util import find_spec

    from diffx.config.compose import config_dir

    if (config_dir() / "plugins" / f"{name}.yaml").exists():
        raise DiffxError(f"diffx has a method called {name}; type another name.")
    if find_spec(name) is not None:
        raise DiffxError(f"Python has a module called {name}, which would be found first; type another name.")


def _say(name: str, folder: Path, files: Sequence[Path]) -> list[str]:
    where = "" if folder == Path() else f"cd {folder} && "
    return [
        *(f"written: {file}" for file in files),
        f"{where}pytest test_{name}.py                  # the contract of every method: green as it is",
        f"{where}python -m diffx.plan plugins=[{name}]   # where it reads",
        f"{where}python -m diffx -m 'plugins=[],[{name}],[{name},tread]'",
    ]
