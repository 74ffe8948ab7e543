"""Whether the Hugging Face Hub can be asked: its client otherwise waits a minute before it says no."""

import os
import socket
from urllib.parse import urlsplit

import huggingface_hub
from huggingface_hub import constants

SECONDS = 3.0


def cached_file(repository: str, file: str) -> str | None:
    """Path of a file of `repository` in the Hugging Face cache, or None."""
    path = huggingface_hub.try_to_load_from_cache(repository, file)
    return path if isinstance(path, str) else None


def hub_answers() -> bool:
    """Whether a download may be tried: not switched off by HF_HUB_OFFLINE=1, and something listens (or a proxy is set,
    behind which nobody can know)."""
    if constants.HF_HUB_OFFLINE:
        return False
    if os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy"):
        return True
    place = urlsplit(constants.ENDPOINT)
    port = place.port or (80 if place.scheme == "http" else 443)
    try:
        with socket.create_connection((place.hostname, port), SECONDS):
            return True
    except OSError:
        return False
