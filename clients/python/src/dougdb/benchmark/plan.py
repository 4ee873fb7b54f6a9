"""The requests of ``dougctl bench``: a mix of operations on keys below a prefix, drawn from a seed, as HTTP/1.1.

Pure. Must not know connections or time.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field

from dougdb.shapes import encode_key

OPERATIONS = ("get", "put", "delete", "increment")


def parse_mix(text: str) -> dict[str, int]:
    """Reads a mix such as ``get=80,put=20``.

    Raises:
        ValueError: The text is no mix.
    """
    mix: dict[str, int] = {}
    for part in text.split(","):
        name, _, weight = part.strip().partition("=")
        if name not in OPERATIONS or not (weight.isascii() and weight.isdigit()) or name in mix:
            raise ValueError(f"a mix is like get=80,put=20 of {', '.join(OPERATIONS)}, not {text!r}")
        mix[name] = int(weight)
    if not any(mix.values()):
        raise ValueError("nothing is left of a mix of zeros")
    return mix


@dataclass(frozen=True, slots=True)
class Plan:
    """The description of the requests that are sent.

    Attributes:
        mix: Weights by operation.
        prefix: The beginning of every key.
        keys: How many keys are used.
        value_bytes: How many bytes a value has.
        consistency: The query of reads, such as ``consistency=eventual``; empty for none.
        headers: Headers of every request.
        host: The Host header.
    """

    mix: Mapping[str, int]
    prefix: str
    keys: int
    value_bytes: int
    consistency: str
    host: str
    headers: Mapping[str, str] = field(default_factory=dict)


class Requests:
    """Draws the requests of a plan at random; the same seed gives the same requests."""

    def __init__(self, plan: Plan, seed: int) -> None:
        self._plan = plan
        self._random = random.Random(seed)  # noqa: S311 - it only draws requests
        self._names = [name for name, weight in plan.mix.items() if weight]
        self._weights = [plan.mix[name] for name in self._names]
        self._query = f"?{plan.consistency}" if plan.consistency else ""
        self._body = self._random.randbytes(plan.value_bytes)

    def draw(self) -> tuple[str, bytes]:
        """Draws one request; returns the name of its operation and its bytes."""
        name = self._random.choices(self._names, self._weights)[0]
        number = self._random.randrange(self._plan.keys)
        return name, self.request(name, number)

    def request(self, name: str, number: int) -> bytes:
        """The request of an operation on one of the keys."""
        path = f"/v1/kv/{encode_key(f'{self._plan.prefix}{number:08d}')}"
        if name == "get":
            return self._bytes("GET", f"{path}{self._query}")
        if name == "put":
            return self._bytes("PUT", path, self._body)
        if name == "delete":
            return self._bytes("DELETE", path)
        # Increments have keys of their own, since the values of puts are no numbers.
        return self._bytes("POST", f"/v1/kv/{encode_key(f'{self._plan.prefix}n{number:08d}')}:increment", b"")

    def _bytes(self, method: str, target: str, body: bytes | None = None) -> bytes:
        lines = [f"{method} {target} HTTP/1.1", f"Host: {self._plan.host}"]
        lines += [f"{name}: {value}" for name, value in self._plan.headers.items()]
        if body is not None:
            lines.append(f"Content-Length: {len(body)}")
        return "\r\n".join([*lines, "", ""]).encode() + (body or b"")
