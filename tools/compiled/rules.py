"""What a module must not have in order to become native: a reading of its source, before anything is built.

Each rule stands for something that mypyc's modules do differently from Python's, and that no type checker tells. It
must not judge what mypyc refuses by itself.

Rules:
1. No coroutine: an exception that a native coroutine has caught stays the context of the next one, so that a task that
   fails and tries again holds all exceptions that it ever caught.
2. No generator that yields inside ``try`` or ``with``, for the same reason.
3. No function that calls itself: native code counts no depth of recursion, so that Python's RecursionError is a crash
   there. What goes only as deep as its own code says carries the mark ``bounded depth`` in its line.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

BOUNDED = "bounded depth"
Function = ast.FunctionDef | ast.AsyncFunctionDef
_COROUTINE = (ast.AsyncFunctionDef, ast.AsyncFor, ast.AsyncWith, ast.Await)
_GUARDED = (ast.Try, ast.TryStar, ast.With, ast.AsyncWith)
_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)


def faults_of(name: str, source: str) -> list[str]:
    """What keeps a module from becoming native, each with its line; empty: nothing."""
    tree = ast.parse(source)
    lines = source.splitlines()
    found = [
        *((node.lineno, "a coroutine") for node in ast.walk(tree) if isinstance(node, _COROUTINE)),
        *((line, "a yield inside try or with") for line in _guarded_yields(tree, guarded=False)),
        *((line, "a call of itself") for line in _own_calls(tree) if BOUNDED not in lines[line - 1]),
    ]
    return [f"{name}:{line}: {what}" for line, what in sorted(set(found))]


def _guarded_yields(node: ast.AST, *, guarded: bool) -> Iterator[int]:
    """The lines of all yields inside ``try`` or ``with`` of the same function."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.Yield, ast.YieldFrom)) and guarded:
            yield child.lineno
        inside = not isinstance(child, _SCOPES) and (guarded or isinstance(child, _GUARDED))
        yield from _guarded_yields(child, guarded=inside)


def _own_calls(tree: ast.Module) -> Iterator[int]:
    """The lines at which a function calls itself by its name, or a method itself by ``self``, ``cls`` or its class."""
    owners: list[ast.Module | ast.ClassDef] = [
        tree,
        *(node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)),
    ]
    for owner in owners:
        names = {"self", "cls", owner.name} if isinstance(owner, ast.ClassDef) else set()
        for function in owner.body:
            if isinstance(function, Function):
                yield from _calls(function, names)


def _calls(function: Function, owners: set[str]) -> Iterator[int]:
    for node in ast.walk(function):
        if not isinstance(node, ast.Call):
            continue
        called = node.func
        if owners:
            if (
                isinstance(called, ast.Attribute)
                and called.attr == function.name
                and isinstance(called.value, ast.Name)
                and called.value.id in owners
            ):
                yield node.lineno
        elif isinstance(called, ast.Name) and called.id == function.name:
            yield node.lineno
