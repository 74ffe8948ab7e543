"""For `make docs`: each method's own page becomes one of the site, and what else lies outside docs/ is linked to the
repository ($DIFFX_REPOSITORY)."""

import os
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
REPOSITORY = os.environ.get("DIFFX_REPOSITORY", "https://example.org/REPOSITORY_URL")
METHOD = re.compile(r"\]\((?:\.\./)*plugins/diffx_plugins/(\w+)/README\.md")
BACK = re.compile(r"\]\((?:\.\./){3}docs/([^)]+)\)")
OUTSIDE = re.compile(r"\]\((?:\.\./)+([^)]+)\)")


def on_files(files: Files, config: Any) -> Files:
    """Called by mkdocs once: add plugins/diffx_plugins/NAME/README.md as methods/NAME.md."""
    for page in sorted(ROOT.glob("plugins/diffx_plugins/*/README.md")):
        text = BACK.sub(r"](\0\1)", page.read_text())
        text = OUTSIDE.sub(rf"]({REPOSITORY}/blob/main/\1)", text).replace("](\0", "](../")
        files.append(File.generated(config, f"methods/{page.parent.name}.md", content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Called by mkdocs for each page."""
    if page.file.src_uri.startswith("methods/"):
        return markdown
    return OUTSIDE.sub(rf"]({REPOSITORY}/blob/main/\1)", METHOD.sub(r"](methods/\1.md", markdown))
