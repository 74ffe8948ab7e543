"""python -m diffx --install-completion: what may be typed after `diffx`, offered by bash, zsh or fish.

The words are written into the file, so that a key press starts no Python; typing the command again renews it.
"""

import os
import shlex
from pathlib import Path

from diffx.commands.help.settings import words
from diffx.errors import DiffxError
from diffx.store.whole_file import write_text

BASH = """# Completion of diffx for bash, written by `diffx --install-completion`.
_diffx() {{
    local word="${{COMP_LINE:0:$COMP_POINT}}" before=""
    word="${{word##* }}"
    # bash takes = for the end of a word, and wants only what follows it.
    [[ $word == *=* ]] && before="${{word%=*}}="
    local IFS=$'\\n'
    COMPREPLY=($(compgen -W '{words}' -- "$word"))
    COMPREPLY=("${{COMPREPLY[@]#"$before"}}")
    compopt -o nospace 2>/dev/null
}}
complete -F _diffx diffx
"""
ZSH = """#compdef diffx
# Completion of diffx for zsh, written by `diffx --install-completion`.
compadd -Q -S '' -- {words}
"""
FISH = """# Completion of diffx for fish, written by `diffx --install-completion`.
complete -c diffx -f -a {words}
"""


def install() -> str:
    """Write the completion where the user's shell looks for it; returns what to say.

    Raises:
        DiffxError: $SHELL is none of the three, or the file cannot be written.
    """
    shell = Path(os.environ.get("SHELL", "")).name
    data = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share")
    settings = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    places = {
        "bash": (data / "bash-completion/completions/diffx", "without the package bash-completion type `source {}`"),
        "zsh": (data / "zsh/site-functions/_diffx", "~/.zshrc needs `fpath+={parent}` before compinit"),
        "fish": (settings / "fish/completions/diffx.fish", "fish finds it by itself"),
    }
    if shell not in places:
        raise DiffxError(f"SHELL={shell or '(not set)'} is not known; type SHELL=bash, zsh or fish before the command.")
    file, hint = places[shell]
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, write_script(shell))
    except OSError as error:
        raise DiffxError(f"{file} cannot be written ({error.strerror}).") from error
    return f"{file} is written; it works in shells opened from now on. ({hint.format(file, parent=file.parent)})"


def write_script(shell: str) -> str:
    """The completion for "bash", "zsh" or "fish"."""
    found = list(dict.fromkeys(words()))
    if shell == "bash":
        return BASH.format(words="\n".join(found))
    if shell == "zsh":
        return ZSH.format(words=" ".join(shlex.quote(word) for word in found))
    return FISH.format(words=shlex.quote("\n".join(found)))
