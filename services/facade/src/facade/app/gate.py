"""The gate of a facade: who sends a request, and whether its route is for them at all.

Who somebody is, is proved by a bearer token of ours, by a JWT of an issuer that the settings name, or by a connection's
certificate. What was proved once is remembered under the hash of the header that proved it, so that a request costs a
look into a dict; every change of the users, and every end of a token, reaches what is remembered within a look's time
(``Gate.run``), and with it all requests, streams and watches that are under way.

Must not know what a route does. Invariants:

1. Whoever cannot be told is nobody: an error of any kind ends in a refusal.
2. No answer tells a stranger whether a token exists.
3. Whatever is proved twice is one ``Access``: nobody has more of them than proofs, however they write them.
4. While shard 0 has not been heard for ``DOUGDB_AUTH_STALE_MS``, nobody but the bootstrap token may do anything.

Source: docs/auth.md; RFC 6750; RFC 9110, 11.6.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
import time
import weakref
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from pathlib import Path
from typing import Any, NamedTuple

import structlog

from doug_wire.auth import tokens
from doug_wire.auth.bearers import BearerError, Bearers
from doug_wire.auth.document import CERTIFICATE, TOKEN, DocumentError
from doug_wire.auth.grants import ALL, NOTHING
from doug_wire.auth.remembered import Remembered
from facade.app.audit import Audit
from facade.app.certificates import NONE, Certificate
from facade.app.origins import SAFE, Seen, is_own_page
from facade.app.plain import proof_of
from facade.app.rules import Need, Rule, Rules
from facade.app.sign_ins import Facts, SignIns, set_cookie
from facade.client.access import Access, Caller, check_any, current
from facade.client.auth_state import AuthState
from facade.errors import BadRequestError, NotAppliedError, ProblemError, SettingsError, UnauthenticatedError
from facade.routes.auth import Session
from facade.routes.problem import NOTHING_HERE
from facade.routes.raw import request_id_of
from facade.settings import PREFIX, Settings

SCOPE_CERTIFICATE = "dougdb.certificate"
"""The key in a scope's state under which a connection tells the client's certificate."""
SCOPE_RULE = "dougdb.rule"

REMEMBERED_MAX, REMEMBERED_BYTES_MAX = 10_000, 16 << 20
"""How many proofs are remembered, and how long they may be together: a JWT may name 256 groups."""
BOOTSTRAP = "bootstrap"
BOOTSTRAP_CHARACTERS_MIN = 32
USES_EVERY_S = 60.0
USE_AGE_MS = 600_000
"""How far the noted time of a token's last use may lie behind the true one."""

_VISIBLE = re.compile(rb"[!-~]+")
"""What a header can show as one token."""

_HOW = "Send Authorization: Bearer TOKEN."
_ONE_SPACE = "There is one space before a token, and none in it or behind it."
_WRONG = "The token is not known, or counts no more."
_SIGN_IN = "What the session rests on counts no more: sign in again."
_EXPIRED = "The connection's certificate has expired."

log = structlog.get_logger()


class _Proof(NamedTuple):
    """The proof that an ``Access`` rests on.

    Attributes:
        kind: How the sender has proved who it is.
        key: The token's id, the digest of the bootstrap token, or the mark of the key that signed a JWT; empty for
            certificates.
        principals: The names by which the sender is given rights.
        expires_s: When the proof ends, in seconds since the epoch; 0 for never.
        session: The id of the browser's session that was shown in place of the proof; empty without one.
    """

    kind: str
    key: str
    principals: tuple[str, ...]
    expires_s: float = 0.0
    session: str = ""


class Gate:
    """Finds out who sends a request, and lets it in if its route is for that sender."""

    def __init__(
        self,
        settings: Settings,
        state: AuthState,
        audit: Audit,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Reads the bootstrap token.

        Raises:
            SettingsError: A file is missing or makes no sense.
        """
        self._modes = frozenset(settings.auth_mode)
        self._state = state
        self.audit = audit
        self._clock = clock
        self._rules = Rules()
        self._stale_s = settings.auth_stale_ms / 1000
        self._poll_s = settings.auth_poll_ms / 1000
        self._remembered = Remembered[Caller](REMEMBERED_MAX, REMEMBERED_BYTES_MAX)
        self._proofs: weakref.WeakKeyDictionary[Access, _Proof] = weakref.WeakKeyDictionary()
        self._accesses: weakref.WeakValueDictionary[_Proof, Access] = weakref.WeakValueDictionary()
        self._by_id = state.document.by_id()
        self._used_ms: dict[str, int] = {}
        self._used_told_s = clock()
        self._uses_refused = ""
        self._bootstrap = _Bootstrap(settings.auth_bootstrap_file)
        self._sign_ins = SignIns(settings.auth_session_key_file)
        self._session_s = settings.auth_session_ms / 1000
        self._bearers = Bearers(settings.issuer(), log, clock) if "oidc" in self._modes else None
        if self._bearers is not None:
            self._bearers.on_change = self._forget_bearers
        state.on_change = self._changed

    # Authorization of requests.

    def admit(self, scope: MutableMapping[str, Any]) -> None:
        """Lets a request in: from here on its operations count as those of its sender.

        Raises:
            UnauthenticatedError: The request's sender is not known.
            ForbiddenError: The sender has not the right that the route needs.
            BadRequestError: 404 or 405; there is no rule for the request.
            NotAppliedError: This facade has not read yet who has which rights.
        """
        method, raw_path, path = scope["method"], scope["raw_path"], scope["path"]
        rule = self._rules.find(method, raw_path, path)
        if rule is not None:
            scope[SCOPE_RULE] = rule
            if rule.need is Need.OPEN:
                return
        caller = self._caller(scope, "" if rule is None else rule.route)
        if rule is None:
            raise self._no_rule(method, raw_path, path)
        if not isinstance(rule.need, Need):
            check_any(caller, sorted(rule.need))
        current.set(caller)

    def known(self, proof: bytes, certificate: Certificate) -> Caller | None:
        """The sender of a plain request, if it was proved before, else None; for the short way.

        Args:
            proof: The hash of what ``Authorization`` says; empty without it.
            certificate: The certificate of the connection.
        """
        found = self._remembered.found.get(proof or _key(b"", certificate))
        if found is not None:
            found.access.used = True
        return found

    def done(self, scope: Mapping[str, Any], status: int) -> None:
        """Notes the answer to a request that was let in, in the audit log if its route asks for that."""
        rule: Rule | None = scope.get(SCOPE_RULE)
        if rule is not None and rule.is_admin:
            self.audit.acted(current.get(), scope, status)

    def _no_rule(self, method: str, raw_path: bytes, path: str) -> BadRequestError:
        methods = self._rules.methods(raw_path, path)
        if not methods:
            return BadRequestError("unknown_route", NOTHING_HERE, status=404)
        allow = ((b"allow", ", ".join(methods).encode()),)
        return BadRequestError("method_not_allowed", f"There is no {method[:32]} here.", status=405, headers=allow)

    def _caller(self, scope: MutableMapping[str, Any], route: str) -> Caller:
        address = scope["client"][0] if scope.get("client") else ""
        headers = [value for name, value in scope["headers"] if name == b"authorization"]
        certificate = scope.get("state", {}).get(SCOPE_CERTIFICATE, NONE) if "mtls" in self._modes else NONE
        named = request_id_of(scope).decode(), address, scope["method"], route
        made = Caller(_STRANGER, *named, audit=self.audit.refused, path=scope["path"])
        try:
            if len(headers) > 1:
                raise UnauthenticatedError("There are two Authorization headers.")
            shown = self._sign_ins.read(scope["headers"], made.method, self._clock()) if not headers else None
            if shown is not None:
                return made._replace(access=self._signed_in(shown))
            if not headers and certificate.name:
                _check_page(scope)
            found = self.known(proof_of(headers[0]) if headers else b"", certificate)
            access = self._prove(headers[0] if headers else b"", certificate) if found is None else found.access
        except (UnauthenticatedError, BadRequestError) as error:
            self.audit.unknown(made, error.detail)
            raise
        return made._replace(access=access)

    # Browsers that sign in.

    def sign_in(self, access: Access, *, secure: bool) -> Session:
        """See ``facade.routes.auth.Sessions``."""
        proof = self._proofs.get(access)
        if proof is None or proof.session or proof.kind == CERTIFICATE:
            raise BadRequestError("bad_auth", "A session is begun with a token: send Authorization: Bearer TOKEN.")
        expires_s = min(self._clock() + self._session_s, proof.expires_s or float("inf"))
        key = self._sign_ins.veiled(proof.key) if proof.kind == BOOTSTRAP else proof.key
        begun = self._sign_ins.begin(access.name, proof.kind, key, proof.principals, expires_s)
        self.audit.signed(current.get(), "signed in", access.name)
        return Session(begun.csrf, set_cookie(begun.cookie, secure=secure), expires_s)

    def sign_out(self, access: Access, *, secure: bool) -> str:
        """See ``facade.routes.auth.Sessions``."""
        proof = self._proofs.get(access)
        if proof is None or not proof.session:
            raise BadRequestError("bad_auth", "This was sent with no session that could end.")
        self._sign_ins.end(access.name, proof.session, proof.expires_s, self._clock())
        access.end()
        self.renew()
        self.audit.signed(current.get(), "signed out", access.name)
        return set_cookie("", secure=secure)

    def _signed_in(self, facts: Facts) -> Access:
        """The access of a browser's session, if the proof behind the session still counts.

        Raises:
            UnauthenticatedError: The proof does not count any more.
            NotAppliedError: This facade does not know now who has which rights.
        """
        key = facts.key
        if facts.kind == BOOTSTRAP:
            digest = self._bootstrap.digest.hex()
            if not digest or not hmac.compare_digest(key, self._sign_ins.veiled(digest)):
                raise UnauthenticatedError(_SIGN_IN)
            key = digest
        else:
            self._check_fresh()
            if facts.kind == TOKEN and "token" not in self._modes:
                raise UnauthenticatedError(_SIGN_IN)
            if facts.kind != TOKEN and (self._bearers is None or not self._bearers.counts(key)):
                raise UnauthenticatedError(_SIGN_IN)
        access = self._access(facts.name, _Proof(facts.kind, key, facts.principals, facts.expires_s, facts.id))
        # Dropping remembered callers ends no session: the browser keeps it.
        return self._remember(_key(b"\0session " + facts.id.encode(), NONE), access, sum(map(len, facts.principals)))

    # Proofs.

    def _prove(self, authorization: bytes, certificate: Certificate) -> Access:
        """Finds out who a sender is.

        Raises:
            UnauthenticatedError: The sender cannot be told.
            NotAppliedError: This facade has not read yet who has which rights.
        """
        if not authorization and not certificate.name:
            raise UnauthenticatedError(_HOW)
        name, proof = self._proof(authorization, certificate)
        if proof.kind != BOOTSTRAP:
            self._check_fresh()
        return self._remember(_key(authorization, certificate), self._access(name, proof), len(authorization))

    def _remember(self, shown: bytes, access: Access, size: int) -> Access:
        self._remembered.keep(shown, Caller(access), size)
        access.used = True
        return access

    def _access(self, name: str, proof: _Proof) -> Access:
        """The one ``Access`` that rests on a proof."""
        access = self._accesses.get(proof)
        if access is None or access.ended:
            access = Access(name, NOTHING)
        self._renew(access, proof, self._clock(), anew=True)
        if access.ended:
            raise UnauthenticatedError(_EXPIRED if proof.kind == CERTIFICATE else _WRONG)
        self._accesses[proof], self._proofs[access] = access, proof
        return access

    def _proof(self, authorization: bytes, certificate: Certificate) -> tuple[str, _Proof]:
        if not authorization:
            name = f"{CERTIFICATE}:{certificate.name}"
            return name, _Proof(CERTIFICATE, "", (name,), certificate.expires_s)
        scheme, _, rest = authorization.partition(b" ")
        if scheme.lower() != b"bearer" or not rest:
            raise UnauthenticatedError(_HOW)
        if rest.split() != [rest]:
            raise UnauthenticatedError(_ONE_SPACE)
        text = rest.decode("latin-1")
        if self._bootstrap.is_it(text):
            return BOOTSTRAP, _Proof(BOOTSTRAP, self._bootstrap.digest.hex(), ())
        parsed = tokens.parse(text) if "token" in self._modes else None
        if parsed is not None:
            return self._proof_of_token(*parsed)
        if self._bearers is not None and text.count(".") == 2:
            try:
                bearer = self._bearers.judge(text)
            except BearerError as error:
                raise UnauthenticatedError(f"The JWT does not count: {error}.") from None
            return bearer.name, _Proof("oidc", bearer.mark, bearer.principals, bearer.expires_s)
        raise UnauthenticatedError(_WRONG)

    def _proof_of_token(self, token_id: str, secret: str) -> tuple[str, _Proof]:
        self._check_fresh()
        name, record = self._by_id.get(token_id, ("", None))
        # The hash is compared for an unknown id, too, so that the time reveals nothing.
        salt, digest = (record.salt, record.digest) if record is not None else (b"\0" * 16, b"\0" * 32)
        if not tokens.is_secret(secret, salt, digest) or record is None:
            raise UnauthenticatedError(_WRONG)
        principal = f"{TOKEN}:{name}"
        return principal, _Proof(TOKEN, token_id, (principal,), record.expires_ms / 1000)

    def _check_fresh(self) -> None:
        if not self._is_fresh():
            raise NotAppliedError("auth_unavailable", "Shard 0 was not heard for too long to tell who may do what.")

    def _is_fresh(self) -> bool:
        age_s = self._state.age_s()
        return age_s is not None and age_s <= self._stale_s

    def _renew(self, access: Access, proof: _Proof, now_s: float, *, anew: bool) -> None:
        """Ends an access whose proof has ended; with ``anew`` gives it the rights that count now."""
        if proof.expires_s and proof.expires_s <= now_s:
            access.end()
            return
        if proof.kind == BOOTSTRAP:
            if proof.key == self._bootstrap.digest.hex():
                access.give(ALL)
            else:
                access.end()
            return
        if not anew:
            return
        held = None
        if proof.kind == TOKEN:
            _, record = self._by_id.get(proof.key, ("", None))
            if record is None:
                access.end()
                return
            held = record.held
        access.give(self._state.document.rights(proof.principals, held))

    # As time passes.

    def _changed(self) -> None:
        self._by_id = self._state.document.by_id()
        self.renew(anew=True)

    def renew(self, *, anew: bool = False) -> None:
        """Brings every access up to date with the users, the keys and the time.

        Args:
            anew: Whether the document of users has changed; else no rights have, but some proofs may have ended.
        """
        now_s, fresh = self._clock(), self._is_fresh()
        for access, proof in list(self._proofs.items()):
            if access.ended:
                continue
            if fresh or proof.kind == BOOTSTRAP:
                self._renew(access, proof, now_s, anew=anew)
            else:
                access.end()
        self._remembered.drop_those(lambda caller: caller.access.ended)

    def _forget_bearers(self) -> None:
        """Ends the accesses by JWTs whose key has left the issuer's set; nothing changes for the others."""
        assert self._bearers is not None
        for access, proof in list(self._proofs.items()):
            if proof.kind == "oidc" and not self._bearers.counts(proof.key):
                access.end()
        self.renew()

    async def run(self) -> None:
        """Keeps users, keys and files up to date; ends only by cancellation.

        Each part has a task of its own: an issuer, a file system or a shard that hangs must not keep the others.
        """
        async with asyncio.TaskGroup() as group:
            group.create_task(self._state.run())
            group.create_task(self._keep_up(self._look))
            group.create_task(self._keep_up(self._look_at_bootstrap))
            group.create_task(self._keep_up(self._note_uses))
            if self._bearers is not None:
                group.create_task(self._bearers.run())

    async def _keep_up(self, act: Callable[[], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(self._poll_s)
            await act()

    async def _look(self) -> None:
        self.renew()

    async def _look_at_bootstrap(self) -> None:
        await asyncio.to_thread(self._bootstrap.refresh)
        self.renew()  # The old token ends as the new one begins.

    async def _note_uses(self) -> None:
        """Tells shard 0, now and then, when tokens were last used."""
        now_ms = int(self._clock() * 1000)
        for access, proof in list(self._proofs.items()):
            if access.used:
                access.used = False
                if proof.kind == TOKEN:
                    self._used_ms[proof.principals[0].removeprefix(f"{TOKEN}:")] = now_ms
        if self._clock() - self._used_told_s < USES_EVERY_S or not self._used_ms:
            return
        self._used_told_s = self._clock()
        held = self._state.document.tokens
        news = {
            name: at_ms
            for name, at_ms in self._used_ms.items()
            if name in held and at_ms - held[name].used_ms >= USE_AGE_MS
        }
        self._used_ms.clear()
        if news:
            try:
                await self._state.change(lambda document: document.with_uses(news), to_the_brim=True)
                self._uses_refused = ""
            except (ProblemError, DocumentError) as error:
                if str(error) != self._uses_refused:
                    log.warning("auth.uses_not_noted", reason=str(error))
                self._uses_refused = str(error)


_STRANGER = Access("", NOTHING)


def _check_page(scope: Mapping[str, Any]) -> None:
    """Refuses what a foreign page may have had sent with a certificate, which a browser shows whatever page asks.

    Raises:
        BadRequestError: 403; the request may change something, and does not come from one of our own pages.
    """
    if scope["method"] not in SAFE and not is_own_page(Seen(scope["headers"])):
        detail = "A certificate proves nothing for another site's page: its requests need Authorization."
        raise BadRequestError("cross_origin", detail, status=403)


def _key(authorization: bytes, certificate: Certificate) -> bytes:
    """The key under which a proof is remembered. No header holds a zero byte, so that none stands for a certificate."""
    return proof_of(authorization or b"\0%s %r" % (certificate.name.encode(), certificate.expires_s))


class _NoTokenError(ValueError):
    """The file of the bootstrap token is empty."""


class _Bootstrap:
    """The token of the first hour, in a file that may be replaced at any time; none without a file.

    Attributes:
        digest: The hash of the token; empty while there is none.
    """

    def __init__(self, path: str) -> None:
        """Reads the file.

        Raises:
            SettingsError: The file is there and cannot be read, or its token is too short.
        """
        self._path = Path(path) if path else None
        self.digest = b""
        try:
            self._read()
        except (FileNotFoundError, _NoTokenError) as error:
            log.warning("auth.bootstrap_gone", reason=str(error))
        except (OSError, ValueError) as error:
            raise SettingsError(f"{PREFIX}AUTH_BOOTSTRAP_FILE", f"{path}: {error}") from error

    def _read(self) -> None:
        if self._path is None:
            return
        text = self._path.read_bytes().strip()
        if not text:
            raise _NoTokenError(f"{self._path} is empty")
        if len(text) < BOOTSTRAP_CHARACTERS_MIN or not _VISIBLE.fullmatch(text):
            raise ValueError(f"a token has at least {BOOTSTRAP_CHARACTERS_MIN} visible ASCII characters, on one line")
        self.digest = hashlib.sha256(text).digest()

    def refresh(self) -> None:
        """Reads the file anew; a token that is gone or too short counts no more. Blocking."""
        try:
            self._read()
        except (OSError, ValueError) as error:
            if self.digest:
                log.warning("auth.bootstrap_gone", reason=str(error))
            self.digest = b""

    def is_it(self, text: str) -> bool:
        """Whether a text is the token; takes the same time for every text."""
        found = hashlib.sha256(text.encode()).digest()
        return hmac.compare_digest(found, self.digest)
