"""For `make docs`: links that leave docs/ (README, experiments, a method's own page) go to the repository."""

import os
import re
from typing import Any

REPOSITORY = os.environ.get("DIFFX_REPOSITORY", "REPOSITORY_URL")
OUTSIDE = re.compile(r"\]\(\.\./([^)]+)\)")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by mkdocs for each page."""
    return OUTSIDE.sub(rf"]({REPOSITORY}/blob/main/\1)", markdown)
