"""Protocols that isinstance may ask about."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ASKED = [
    pytest.param(node, id=f"{path.relative_to(ROOT)}::{node.name}")
    for folder in ("src", "plugins", "benchmarks")
    for path in sorted((ROOT / folder).rglob("*.py"))
    for node in ast.walk(ast.parse(path.read_text()))
    if isinstance(node, ast.ClassDef) and any("runtime_checkable" in ast.unparse(d) for d in node.decorator_list)
]


@pytest.mark.parametrize("protocol", ASKED)
def test_a_protocol_that_isinstance_asks_about_has_methods_alone(protocol: ast.ClassDef) -> None:
    """From Python 3.12 on isinstance looks for a protocol's attributes in the class, where a module's parameters, and
    whatever else __init__ sets on a module, are not found."""
    assert not [part for part in protocol.body if isinstance(part, ast.AnnAssign | ast.Assign)]
