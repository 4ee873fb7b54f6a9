"""Reads and changes users, roles and tokens over HTTP (``/v1/auth``).

Must not know command lines. Invariant: no error and no ``repr`` shows a token.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx

from dougdb.answers import Answer, error_of, error_of_transport
from dougdb.bearer import headers_of
from dougdb.checks import base_url, is_loopback
from dougdb.errors import ServerError
from dougdb.security import verify
from dougdb.shapes import DEFAULT_URL

Document = dict[str, Any]
DEFAULT_TIMEOUT_S = 15.0


class AccessClient:
    """A blocking client of one facade for ``/v1/auth``. Use it in a ``with`` block, or call ``close``.

    Args:
        url: The URL of the facade.
        ca_file: The authority that signs the facade's certificate (PEM), for HTTPS.
        token: The token that is sent with every request; None for that of the environment variable DOUGDB_TOKEN.
        transport: Another httpx transport, for tests.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        ca_file: str | None = None,
        token: str | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.url = base_url(url)
        self._http = httpx.Client(
            timeout=DEFAULT_TIMEOUT_S,
            transport=transport,
            trust_env=not is_loopback(url),
            verify=verify(url, ca_file),
            headers={**headers_of(token), "Accept": "application/json"},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def whoami(self) -> Document:
        """The principal of the token, and the principal's grants."""
        return self._send("GET", "whoami")

    def can_i(self, verb: str, *, key: str | None = None, prefix: str | None = None) -> bool:
        """Whether the principal of the token may use a verb for a key, or for all keys of a prefix."""
        given = {"verb": verb, "key": key, "prefix": prefix}
        found = self._send("GET", "can-i", params={name: value for name, value in given.items() if value is not None})
        return bool(found["allowed"])

    def init(self) -> Document:
        """Makes the first token, which may do everything; only this answer has its text."""
        return self._send("POST", "init", write=True)

    def create_token(
        self, name: str, *, allow: list[str] | None = None, roles: list[str] | None = None, ttl: str | None = None
    ) -> Document:
        """Makes a token; only this answer has its text."""
        wanted = {"name": name, "allow": allow or [], "roles": roles or []} | ({} if ttl is None else {"ttl": ttl})
        return self._send("POST", "tokens", json=wanted, write=True)

    def tokens(self) -> list[Document]:
        """All tokens, without their secrets."""
        return list(self._send("GET", "tokens")["tokens"])

    def revoke_token(self, name: str) -> list[Document]:
        """Revokes a token; returns the tokens that are left."""
        return list(self._send("DELETE", f"tokens/{quote(name, safe='')}", write=True)["tokens"])

    def roles(self) -> list[Document]:
        """All roles."""
        return list(self._send("GET", "roles")["roles"])

    def set_role(self, name: str, allow: list[str]) -> list[Document]:
        """Makes a role, or replaces its grants; returns all roles."""
        path = f"roles/{quote(name, safe='')}"
        return list(self._send("PUT", path, json={"allow": allow}, write=True)["roles"])

    def delete_role(self, name: str) -> list[Document]:
        """Removes a role, and takes it from all principals that have it; returns the roles that are left."""
        return list(self._send("DELETE", f"roles/{quote(name, safe='')}", write=True)["roles"])

    def users(self) -> list[Document]:
        """The principals that were given roles."""
        return list(self._send("GET", "users")["users"])

    def grant_role(self, role: str, principal: str) -> list[Document]:
        """Gives a principal a role; returns all users."""
        wanted = {"principal": principal, "role": role}
        return list(self._send("POST", "users", json=wanted, write=True)["users"])

    def take_role(self, role: str, principal: str) -> list[Document]:
        """Takes a role from a principal; returns all users."""
        return list(self._send("DELETE", "users", params={"principal": principal, "role": role}, write=True)["users"])

    def _send(self, method: str, path: str, *, write: bool = False, **request: Any) -> Document:
        try:
            answer = self._http.request(method, f"{self.url}/v1/auth/{path}", **request)
        except httpx.RequestError as error:
            raise error_of_transport(error, self.url, write=write) from error
        if answer.is_error:
            raise error_of(Answer(answer.status_code, answer.headers, answer.content), write=write)
        try:
            document = answer.json()
        except ValueError:
            document = None
        if not isinstance(document, dict):
            raise ServerError(answer.status_code, "the answer is not a JSON object")
        return document
