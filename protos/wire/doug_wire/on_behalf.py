"""For whom a facade calls a node: the principal and the request's id, as metadata of a call; the node can name them.

They give no right, and are believed of a facade alone. Everything in them is printable ASCII and of bounded length,
whatever names are; what is not is read as if it were not there. Pure functions. Source: ADR 17.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple
from urllib.parse import quote

PRINCIPAL, REQUEST_ID = "doug-principal", "doug-request-id"
CHARACTERS_MAX = 256
_SAFE = "/:{}@+=,;!$&'()*~|"
_SHOWN = re.compile(rf"[!-~]{{1,{CHARACTERS_MAX}}}\Z")


class Behalf(NamedTuple):
    """For whom a call is made.

    Attributes:
        principal: The principal's name, with ``%XX`` for what is no printable ASCII; empty if nobody says.
        request_id: The id of the request at the facade; empty if nobody says.
    """

    principal: str = ""
    request_id: str = ""


def shown(text: str) -> str:
    """A name as printable ASCII of bounded length."""
    return quote(text[:CHARACTERS_MAX], safe=_SAFE, errors="replace")[:CHARACTERS_MAX]


def metadata_of(principal: str, request_id: str) -> tuple[tuple[str, str], ...]:
    """The metadata of a call for somebody; what is empty is left out."""
    told = ((PRINCIPAL, shown(principal)), (REQUEST_ID, shown(request_id)))
    return tuple((name, value) for name, value in told if value)


def read(metadata: Iterable[tuple[str, str | bytes]]) -> Behalf:
    """For whom a call says that it is made; what is there twice, or not as ``metadata_of`` writes it, is not read."""
    found: dict[str, list[str | bytes]] = {PRINCIPAL: [], REQUEST_ID: []}
    for name, value in metadata:
        if name in found:
            found[name].append(value)
    return Behalf(_only(found[PRINCIPAL]), _only(found[REQUEST_ID]))


def _only(values: list[str | bytes]) -> str:
    if len(values) != 1 or not isinstance(values[0], str):
        return ""
    return values[0] if _SHOWN.match(values[0]) else ""
