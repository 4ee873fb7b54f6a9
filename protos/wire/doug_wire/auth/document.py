"""The document that says who may do what: roles, users and tokens. Shard 0 keeps it, and every facade and node a copy.

It is JSON, with a number that grows with each change; a change names the number that it was made from, so that two
changes at once cannot undo each other. Must not know how it is kept. Invariants:

1. A document is never changed: a change gives another one.
2. What ``decode`` takes is consistent: every role that is named exists, no id belongs to two tokens.
3. It holds no token, only hashes of them.

Source: docs/auth.md; docs/formats.md, Users and roles.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from doug_wire.auth.grants import Grant, GrantError, Rights, Verb, parse_grant

FORMAT = 1
DOCUMENT_BYTES_MAX = 512 << 10
PRINCIPAL_CHARACTERS_MAX = 200
TOKEN, CERTIFICATE, SUBJECT, GROUP = "token", "cert", "oidc", "group"
KINDS = (TOKEN, CERTIFICATE, SUBJECT, GROUP)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
_HEX = re.compile(r"(?:[0-9a-f]{2})+\Z")
_READING = (Grant(Verb.READ), Grant(Verb.WATCH))
_LOOKING = (Grant(Verb.METRICS),)

BUILT_IN: Mapping[str, tuple[Grant, ...]] = MappingProxyType(
    {
        "admin": tuple(Grant(verb) for verb in Verb),
        "reader": _READING,
        "writer": (*_READING, Grant(Verb.WRITE)),
        "operator": (*_LOOKING, Grant(Verb.MEMBERS), Grant(Verb.BACKUP)),
        "monitor": _LOOKING,
    }
)
"""Roles that are always there and never change."""


class DocumentError(ValueError):
    """The bytes are no document, or a change of it is not possible; the message says why."""


class MissingError(DocumentError):
    """There is no such role, user or token."""


class TakenError(DocumentError):
    """The name is in use."""


@dataclass(frozen=True, slots=True)
class Held:
    """The grants and the roles of one user."""

    allow: tuple[Grant, ...] = ()
    roles: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TokenRecord:
    """The kept record of a token.

    Attributes:
        id: The id by which the token is found.
        salt: The salt of the digest: see ``doug_wire.auth.tokens``.
        digest: The hash of the secret: see ``doug_wire.auth.tokens``.
        held: The grants and roles of the token.
        created_ms: When the token was made, in milliseconds since the epoch.
        expires_ms: When the token ends; 0 for never.
        used_ms: When the token was last used, as far as that was noted; 0 for never.
    """

    id: str
    salt: bytes
    digest: bytes
    held: Held
    created_ms: int
    expires_ms: int = 0
    used_ms: int = 0


@dataclass(frozen=True, slots=True)
class Document:
    """The roles, users and tokens of a cluster.

    Attributes:
        roles: The roles that are not built in.
        users: The grants and roles of principals, by their names (``cert:NAME``, ``oidc:SUBJECT``, ``group:NAME``,
            ``token:NAME``).
        tokens: The tokens by name.
    """

    roles: Mapping[str, tuple[Grant, ...]] = field(default_factory=dict)
    users: Mapping[str, Held] = field(default_factory=dict)
    tokens: Mapping[str, TokenRecord] = field(default_factory=dict)

    # What principals may do.

    def role(self, name: str) -> tuple[Grant, ...] | None:
        """The grants of a role, or None if there is no such role."""
        return BUILT_IN.get(name) or self.roles.get(name)

    def rights(self, principals: Iterable[str], held: Held | None = None) -> Rights:
        """The rights of a sender with these principals, and with those of the token that it has shown, if any."""
        found: list[Grant] = []
        for each in (held, *(self.users.get(name) for name in principals)):
            if each is not None:
                found.extend(each.allow)
                for role in each.roles:
                    found.extend(self.role(role) or ())
        return Rights(found)

    def by_id(self) -> dict[str, tuple[str, TokenRecord]]:
        """Names and records of all tokens by their ids."""
        return {record.id: (name, record) for name, record in self.tokens.items()}

    # Changes.

    def with_token(self, name: str, record: TokenRecord) -> Document:
        """Adds a token, which may do what its record says and nothing that was given to its name before.

        Raises:
            DocumentError: The name is no name or taken, or the record names a role that does not exist.
        """
        check_name(name, "token")
        if name in self.tokens:
            raise TakenError(f"there is a token {name} already: if its text was lost, revoke it and make it anew")
        self._check_roles(record.held.roles)
        return replace(self, tokens={**self.tokens, name: record}, users=_without(self.users, f"{TOKEN}:{name}"))

    def without_token(self, name: str) -> Document:
        """Removes a token, and the rights that its principal was given.

        Raises:
            MissingError: There is none of this name.
        """
        if name not in self.tokens:
            raise MissingError(f"there is no token {name}")
        return replace(self, tokens=_without(self.tokens, name), users=_without(self.users, f"{TOKEN}:{name}"))

    def without_expired(self, until_ms: int) -> Document:
        """Removes the tokens that had ended by then, and the rights that their principals were given."""
        ended = [name for name, record in self.tokens.items() if 0 < record.expires_ms <= until_ms]
        tokens = {name: record for name, record in self.tokens.items() if name not in ended}
        gone = {f"{TOKEN}:{name}" for name in ended}
        users = {name: held for name, held in self.users.items() if name not in gone}
        return replace(self, tokens=tokens, users=users) if ended else self

    def with_uses(self, used_ms: Mapping[str, int]) -> Document:
        """Notes when tokens were last used; tokens that are gone are left out."""
        tokens = dict(self.tokens)
        for name, at_ms in used_ms.items():
            if name in tokens:
                tokens[name] = replace(tokens[name], used_ms=max(at_ms, tokens[name].used_ms))
        return replace(self, tokens=tokens)

    def with_role(self, name: str, grants: Iterable[Grant]) -> Document:
        """Makes a role, or gives it other grants.

        Raises:
            DocumentError: The name is no name, or that of a built-in role.
        """
        check_name(name, "role")
        if name in BUILT_IN:
            raise TakenError(f"the role {name} is built in and does not change")
        return replace(self, roles={**self.roles, name: tuple(sorted(set(grants)))})

    def without_role(self, name: str) -> Document:
        """Removes a role, and takes it from all that have it.

        Raises:
            MissingError: There is none of this name.
        """
        if name in BUILT_IN:
            raise TakenError(f"the role {name} is built in and does not change")
        if name not in self.roles:
            raise MissingError(f"there is no role {name}")

        users = {user: left for user, held in self.users.items() if (left := _less(held, name)) != Held()}
        tokens = {token: replace(record, held=_less(record.held, name)) for token, record in self.tokens.items()}
        return Document(_without(self.roles, name), users, tokens)

    def with_user(self, principal: str, role: str) -> Document:
        """Gives a principal a role; a token must be there, for whoever makes one of that name later would not know.

        Raises:
            DocumentError: There is no such role or token, or it is no principal's name.
        """
        check_principal(principal)
        kind, _, name = principal.partition(":")
        if kind == TOKEN and name not in self.tokens:
            raise MissingError(f"there is no token {name[:80]!r}")
        self._check_roles((role,))
        held = self.users.get(principal, Held())
        return replace(self, users={**self.users, principal: replace(held, roles=tuple(sorted({*held.roles, role})))})

    def without_user(self, principal: str, role: str) -> Document:
        """Takes a role from a principal, from a token also one that it was made with.

        Raises:
            MissingError: The principal does not have the role.
        """
        held = self.users.get(principal, Held())
        kind, _, name = principal.partition(":")
        record = self.tokens.get(name) if kind == TOKEN else None
        own = record is not None and role in record.held.roles
        if role not in held.roles and not own:
            raise MissingError(f"{principal} does not have the role {role}")
        left, rest = _less(held, role), _without(self.users, principal)
        tokens = self.tokens
        if record is not None and own:
            tokens = {**tokens, name: replace(record, held=_less(record.held, role))}
        return replace(self, users=rest if left == Held() else {**rest, principal: left}, tokens=tokens)

    def _check_roles(self, roles: Iterable[str]) -> None:
        for role in roles:
            if self.role(role) is None:
                raise MissingError(f"there is no role {role}")

    # Bytes.

    def encode(self) -> bytes:
        """The bytes of the document, the same for equal documents.

        Raises:
            DocumentError: The document would be too large.
        """
        view = {
            "format": FORMAT,
            "roles": {name: [str(grant) for grant in grants] for name, grants in self.roles.items()},
            "users": {name: _held_view(held) for name, held in self.users.items()},
            "tokens": {name: _token_view(record) for name, record in self.tokens.items()},
        }
        data = json.dumps(view, sort_keys=True, separators=(",", ":")).encode()
        if len(data) > DOCUMENT_BYTES_MAX:
            raise DocumentError(f"roles, users and tokens take more than {DOCUMENT_BYTES_MAX} bytes together")
        return data


EMPTY = Document()


def _without(mapping: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {each: value for each, value in mapping.items() if each != name}


def _less(held: Held, role: str) -> Held:
    """The same without a role."""
    return replace(held, roles=tuple(each for each in held.roles if each != role))


def _held_view(held: Held) -> dict[str, Any]:
    return {"allow": [str(grant) for grant in held.allow], "roles": list(held.roles)}


def _token_view(record: TokenRecord) -> dict[str, Any]:
    times = {"created": record.created_ms, "expires": record.expires_ms, "used": record.used_ms}
    return {"id": record.id, "salt": record.salt.hex(), "hash": record.digest.hex(), **_held_view(record.held), **times}


def check_name(name: str, what: str) -> None:
    """Refuses a text that cannot be the name of a role or a token.

    Raises:
        DocumentError: The text is no such name.
    """
    if not _NAME.match(name):
        raise DocumentError(
            f"a {what}'s name has 1 to 64 letters, digits, dots, dashes and underscores, not {name[:80]!r}"
        )


def check_principal(principal: str) -> None:
    """Refuses a text that cannot be the name of a principal.

    Raises:
        DocumentError: The text is no such name.
    """
    kind, _, name = principal.partition(":")
    if kind not in KINDS or not 0 < len(principal) <= PRINCIPAL_CHARACTERS_MAX or not name or not name.isprintable():
        kinds = ", ".join(f"{each}:NAME" for each in KINDS)
        raise DocumentError(f"{principal[:80]!r} names nobody; there are {kinds}")


# Reading.


def decode(data: bytes) -> Document:
    """Reads a document.

    Raises:
        DocumentError: The bytes are no document, or contradict themselves.
    """
    if len(data) > DOCUMENT_BYTES_MAX:
        raise DocumentError("the document is too large")
    try:
        view = json.loads(data)
    except (ValueError, RecursionError):
        raise DocumentError("the document is not JSON") from None
    top = _object(view, {"format", "roles", "users", "tokens"})
    if top["format"] != FORMAT:
        raise DocumentError(f"the document has the format {str(top['format'])[:20]}, and only {FORMAT} is known")
    roles = {name: _grants(grants) for name, grants in _mapping(top["roles"]).items()}
    users = {name: _held(held) for name, held in _mapping(top["users"]).items()}
    tokens = {name: _token(record) for name, record in _mapping(top["tokens"]).items()}
    document = Document(roles, users, tokens)
    for name in roles:
        check_name(name, "role")
        if name in BUILT_IN:
            raise DocumentError(f"the role {name} is built in")
    for name in users:
        check_principal(name)
    for name in tokens:
        check_name(name, "token")
    for held in (*users.values(), *(record.held for record in tokens.values())):
        document._check_roles(held.roles)
    if len({record.id for record in tokens.values()}) != len(tokens):
        raise DocumentError("two tokens have one id")
    return document


def _object(view: Any, names: set[str]) -> dict[str, Any]:
    if not isinstance(view, dict) or view.keys() != names:
        raise DocumentError(f"an object with {', '.join(sorted(names))} is expected")
    return view


def _mapping(view: Any) -> dict[str, Any]:
    if not isinstance(view, dict):
        raise DocumentError("an object is expected")
    return view


def _grants(view: Any) -> tuple[Grant, ...]:
    try:
        return tuple(parse_grant(text) for text in _texts(view))
    except GrantError as error:
        raise DocumentError(str(error)) from None


def _texts(view: Any) -> list[str]:
    if not isinstance(view, list) or not all(isinstance(each, str) for each in view):
        raise DocumentError("a list of texts is expected")
    return view


def _held(view: Any) -> Held:
    found = _object(view, {"allow", "roles"})
    return Held(_grants(found["allow"]), tuple(_texts(found["roles"])))


def _token(view: Any) -> TokenRecord:
    found = _object(view, {"id", "salt", "hash", "allow", "roles", "created", "expires", "used"})
    for name in ("id", "salt", "hash"):
        if not isinstance(found[name], str) or not _HEX.match(found[name]):
            raise DocumentError(f"{name} is no hexadecimal number")
    for name in ("created", "expires", "used"):
        if type(found[name]) is not int or not 0 <= found[name] < 1 << 53:
            raise DocumentError(f"{name} is no time")
    if len(found["id"]) != 16 or len(found["hash"]) != 64:
        raise DocumentError("the id or the hash of a token has another length")
    held = _held({"allow": found["allow"], "roles": found["roles"]})
    salt, digest = bytes.fromhex(found["salt"]), bytes.fromhex(found["hash"])
    return TokenRecord(found["id"], salt, digest, held, found["created"], found["expires"], found["used"])
