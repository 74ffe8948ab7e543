"""Files of prompts: one a line, or GenEval's JSON lines, which also say what should be seen."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from diffx.errors import DiffxError
from diffx.store.digest import digest


class Prompt(NamedTuple):
    """Words, and what should be seen, as GenEval's files have it: {"class", "count", "color", "position"} of each
    object; nothing where the file does not say."""

    words: str
    include: tuple[Mapping[str, Any], ...] = ()


def read_prompts(path: Path) -> list[Prompt]:
    """The prompts of a file: a line each, or where its name ends in .jsonl a JSON object each, with "prompt" and
    "include" (Ghosh et al. 2023, arXiv 2310.11513). Empty lines are passed over.

    Raises:
        DiffxError: it cannot be read, holds no prompt, or a line is no such object; the sentence names the line.
    """
    try:
        lines = path.expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DiffxError(f"The prompts {path} cannot be read ({error}).") from error
    numbered = [(number, line.strip()) for number, line in enumerate(lines, start=1) if line.strip()]
    if not numbered:
        raise DiffxError(f"{path} holds no prompt; write one a line.")
    if path.suffix != ".jsonl":
        return [Prompt(line) for _, line in numbered]
    return [_parsed(line, f"{path}, line {number}") for number, line in numbered]


def _parsed(line: str, where: str) -> Prompt:
    try:
        found = json.loads(line)
    except ValueError as error:
        raise DiffxError(f'{where} is no JSON ({error}); write an object with "prompt" on each line.') from error
    words = found.get("prompt") if isinstance(found, dict) else None
    if not isinstance(words, str) or not words.strip():
        raise DiffxError(f'{where} has no "prompt"; write for instance {{"prompt": "a red circle"}}.')
    include = found.get("include", [])
    if not isinstance(include, list) or not all(isinstance(one, dict) and "class" in one for one in include):
        raise DiffxError(
            f'{where}: "include" is no list of objects with a "class"; leave it out, or write it as GenEval does.'
        )
    return Prompt(words.strip(), tuple(include))


def prompts_of(data: Any) -> list[str]:
    """The prompts that runs on this data are measured by; none where classes condition them."""
    return [prompt.words for prompt in getattr(data, "prompts", ())]


def prompts_digest(prompts: Sequence[str]) -> str | None:
    """A hash of prompts in their order; None of none."""
    return digest({"prompts": list(prompts)}) if prompts else None


def check_prompts(prompts: Sequence[str]) -> None:
    """Raises DiffxError for an empty prompt, which conditions nothing."""
    for place, prompt in enumerate(prompts, start=1):
        if not prompt.strip():
            raise DiffxError(
                f"Prompt {place} is empty, and would draw anything; type some words, or --negative '' to guide away "
                "from the empty prompt."
            )
