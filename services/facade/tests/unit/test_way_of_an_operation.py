"""The way of an operation through the client side waits for nothing: whatever it needs is there, or it is refused."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import facade.client

WAITS = (ast.AsyncFunctionDef, ast.AsyncFor, ast.AsyncWith, ast.Await)


@pytest.mark.parametrize("name", ["router", "directory", "registry", "turns", "shard", "replicas", "link", "operation"])
def test_no_step_of_an_operation_is_a_coroutine(name: str) -> None:
    source = Path(facade.client.__file__).with_name(f"{name}.py").read_text("utf-8")
    found = [node.lineno for node in ast.walk(ast.parse(source)) if isinstance(node, WAITS)]
    assert not found, f"{name}.py waits in these lines: {found}"
