"""Clients that call a node themselves: who they are by what they have shown, and what they may do now.

A node judges them by the document of users that its shard holds: shard 0's is the one that counts, the other shards
have copies, which facades bring. Must not know what a call is about, nor Raft.

Invariants:

1. Who may do what is what a quorum has just confirmed; a node that cannot tell serves no guest.
2. A copy counts only while a facade, which has heard shard 0, keeps saying that there is no newer one.
3. A token's text is kept nowhere; of a JWT that counted its hash is, so that its signature is checked once.
4. A JWT whose key has left the issuer's set, or that has ended, counts no more.

Source: docs/auth.md; ADR 17.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable, Collection
from typing import TYPE_CHECKING, NamedTuple

from doug_wire.auth import document as documents
from doug_wire.auth import tokens
from doug_wire.auth.certificates import NONE, Certificate
from doug_wire.auth.document import CERTIFICATE, TOKEN, DocumentError, TokenRecord
from doug_wire.auth.grants import Rights
from doug_wire.auth.remembered import Remembered
from raft_node.errors import UnavailableError
from raft_node.kv.operations.access import Stored

if TYPE_CHECKING:
    from doug_wire.auth.bearers import Bearer, Bearers

TOKENS, CERTIFICATES, BEARERS = "token", "mtls", "oidc"
"""The modes of authentication in which a node judges clients itself."""
LOOK_S = 0.25
"""How old what a quorum has confirmed may be."""
HELD_S = 1.0
"""How long a quorum may take to confirm it: what lasts must not go on unasked while it is waited for."""
COPY_S = 60.0
"""How long a copy counts after a facade has said that it is the newest."""
REMEMBERED_MAX, REMEMBERED_CHARACTERS_MAX = 10_000, 4 << 20
"""How many JWTs are remembered that have counted, and how long they may be together: one may name 256 groups."""


class UnprovenError(Exception):
    """A proof does not count. The message says why, where that may help; it holds nothing of the proof."""


class Shown(NamedTuple):
    """The proof that a client has shown.

    Attributes:
        token: The text of a bearer token; None if there is none. Beside a token a certificate proves nothing.
        certificate: The certificate of the connection.
    """

    token: str | None = None
    certificate: Certificate = NONE


class Guest(NamedTuple):
    """A client that has shown who it is.

    Attributes:
        name: The principal's name, the same as at a facade.
        rights: What the principal may do now.
    """

    name: str
    rights: Rights


class _Users(NamedTuple):
    """The document of users as it was confirmed last."""

    revision: int
    document: documents.Document
    by_id: dict[str, tuple[str, TokenRecord]]


class Guests:
    """Tells who a client is, and what they may do.

    Attributes:
        modes: The modes of authentication, which say what counts as a proof: ``token``, ``mtls``, ``oidc``.
        held: Gives the document that this shard holds, once a quorum has confirmed it; raises NotLeaderError or
            UnavailableError.
    """

    def __init__(
        self,
        held: Callable[[], Awaitable[Stored]],
        *,
        is_copy: bool,
        modes: Collection[str] = (TOKENS,),
        bearers: Bearers | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """Begins without a document.

        Args:
            held: See the attribute.
            modes: See the attribute.
            bearers: Judges JWTs; None where the settings name no issuer.
            is_copy: Whether the shard holds a copy, which another shard's document may be ahead of.
            clock: Gives seconds that never go back.
            wall_clock: Gives seconds since the epoch, by which tokens expire.
        """
        self._held = held
        self._is_copy = is_copy
        self.modes = modes
        self._clock = clock
        self._wall_clock = wall_clock
        self._bearers = bearers
        self._remembered = Remembered["Bearer"](REMEMBERED_MAX, REMEMBERED_CHARACTERS_MAX)
        """By the hash of a JWT's text, whose it is."""
        self._users: _Users | None = None
        self._looked_s = float("-inf")
        self._told_s = float("-inf")

    @property
    def proofs(self) -> Collection[str]:
        """The modes in which a proof can count here."""
        return [mode for mode in self.modes if mode != BEARERS or self._bearers is not None]

    def told(self) -> None:
        """A facade, which has just heard shard 0, says that this shard holds the newest document."""
        self._told_s = self._clock()

    async def find(self, shown: Shown) -> Guest:
        """Who has shown this.

        Raises:
            UnprovenError: It is no proof here, is not known, or counts no more.
            NotLeaderError: Only the leader can tell, and another node is that, or none.
            UnavailableError: It is not known here now who may do what.
        """
        if shown.token is None:
            return await self._by_certificate(shown.certificate)
        # No token of ours has a dot.
        if BEARERS in self.modes and shown.token.count(".") == 2:
            return await self._by_bearer(shown.token)
        return await self._by_token(shown.token)

    async def _by_bearer(self, text: str) -> Guest:
        if self._bearers is None:
            raise UnprovenError("this node knows no issuer of JWTs: DOUGDB_AUTH_OIDC_JWKS and the like are not set")
        digest = hashlib.sha256(text.encode()).digest()
        bearer = self._remembered.found.get(digest)
        if bearer is None or bearer.expires_s <= self._wall_clock() or not self._bearers.counts(bearer.mark):
            self._remembered.drop(digest)
            bearer = self._judged(self._bearers, text)
            self._remembered.keep(digest, bearer, len(text))
        users = await self._confirmed()
        return Guest(bearer.name, users.document.rights(bearer.principals))

    @staticmethod
    def _judged(bearers: Bearers, text: str) -> Bearer:
        from doug_wire.auth.bearers import BearerError  # noqa: PLC0415  # Whoever made the judge has imported it.

        try:
            return bearers.judge(text)
        except BearerError as error:
            raise UnprovenError(f"the JWT does not count: {error}") from None

    async def _by_certificate(self, certificate: Certificate) -> Guest:
        if CERTIFICATES not in self.modes or not certificate.name:
            raise UnprovenError
        if certificate.expires_s <= self._wall_clock():
            raise UnprovenError("the certificate has expired")
        users = await self._confirmed()
        principal = f"{CERTIFICATE}:{certificate.name}"
        return Guest(principal, users.document.rights((principal,)))

    async def _by_token(self, text: str) -> Guest:
        parsed = tokens.parse(text) if TOKENS in self.modes else None
        if parsed is None:
            raise UnprovenError
        token_id, secret = parsed
        users = await self._confirmed()
        name, record = users.by_id.get(token_id, ("", None))
        # The hash is compared for an unknown id, too, so that the time reveals nothing.
        salt, digest = (record.salt, record.digest) if record is not None else (b"\0" * 16, b"\0" * 32)
        if not tokens.is_secret(secret, salt, digest) or record is None:
            raise UnprovenError
        if record.expires_ms and record.expires_ms <= self._wall_clock() * 1000:
            raise UnprovenError
        principal = f"{TOKEN}:{name}"
        return Guest(principal, users.document.rights((principal,), record.held))

    async def _confirmed(self) -> _Users:
        now_s = self._clock()
        if self._is_copy and now_s - self._told_s > COPY_S:
            raise UnavailableError("no facade has told yet whether the copy of who may do what is the newest")
        if self._users is not None and now_s - self._looked_s < LOOK_S:
            return self._users
        try:
            async with asyncio.timeout(HELD_S):
                held = await self._held()
        except TimeoutError:
            raise UnavailableError("no quorum has confirmed in time who may do what") from None
        if self._users is None or held.revision != self._users.revision:
            self._users = self._read(held)
        self._looked_s = now_s
        return self._users

    @staticmethod
    def _read(held: Stored) -> _Users:
        try:
            document = documents.decode(held.document) if held.revision else documents.EMPTY
        except DocumentError as error:
            raise UnavailableError(f"this node does not understand who may do what: {error}") from None
        return _Users(held.revision, document, document.by_id())
