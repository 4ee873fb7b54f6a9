"""Bearer tokens that others issue: JWTs of an OpenID provider, and of Kubernetes for its service accounts.

A JWT counts if a key of the issuer's set has signed it, by an algorithm of public keys, and if it names the issuer, the
audience, and an end that lies ahead. Must not know what its principal may do. Invariants:

1. The algorithm is that of the key, never what the token says alone; ``none`` and shared secrets are none here.
2. A key that leaves the set counts no more once the set was read anew; a set that cannot be read leaves the old one.

Source: RFC 7519; RFC 8725 (best practices); OpenID Connect Core 1.0, 3.1.3.7.
"""

from __future__ import annotations

import asyncio
import ssl
import time
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jwt
import orjson
import structlog

from doug_wire.auth.document import GROUP, SUBJECT, DocumentError, check_principal
from facade.errors import SettingsError
from facade.settings import PREFIX, Settings

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
TOKEN_CHARACTERS_MAX = 16 << 10
SET_BYTES_MAX = 1 << 20
GROUPS_MAX = 256
READ_EVERY_S = 60.0
READ_AGAIN_S = 5.0
READ_TIMEOUT_S = 5.0
LEEWAY_S = 30

log = structlog.get_logger()


class BearerError(Exception):
    """This JWT does not count; the message says why, and holds nothing of it."""


class Bearer(NamedTuple):
    """Whom a JWT is about.

    Attributes:
        name: The principal.
        principals: It and its groups.
        expires_s: When it ends, in seconds since the epoch.
    """

    name: str
    principals: tuple[str, ...]
    expires_s: float


class Bearers:
    """Judges JWTs.

    Attributes:
        on_change: Called when the issuer's keys are others.
    """

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.time) -> None:
        """Reads nothing yet.

        Raises:
            SettingsError: It is not said whose tokens count.
        """
        for name in ("issuer", "audience", "jwks"):
            if not getattr(settings, f"auth_oidc_{name}"):
                raise SettingsError(f"{PREFIX}AUTH_OIDC_{name.upper()}", "it is needed with DOUGDB_AUTH_MODE=oidc")
        self._issuer, self._audience = settings.auth_oidc_issuer, settings.auth_oidc_audience
        self._place, self._ca_file = settings.auth_oidc_jwks, settings.auth_oidc_jwks_ca_file
        if self._place.startswith("http:"):
            raise SettingsError(f"{PREFIX}AUTH_OIDC_JWKS", "keys are read from a file or over https")
        self._claim, self._groups_claim = settings.auth_oidc_claim, settings.auth_oidc_groups_claim
        self._clock = clock
        self._keys: dict[str, jwt.PyJWK] = {}
        self._raw = b""
        self._read_s = float("-inf")
        self.on_change: Callable[[], None] = lambda: None
        self._wanted = asyncio.Event()

    def judge(self, text: str) -> Bearer:
        """Whom a JWT is about.

        Raises:
            BearerError: It does not count.
        """
        if len(text) > TOKEN_CHARACTERS_MAX:
            raise BearerError("the token is too long")
        try:
            header = jwt.get_unverified_header(text)
        except jwt.PyJWTError:
            raise BearerError("it is no JWT") from None
        key = self._keys.get(str(header.get("kid", "")))
        if key is None:
            self._wanted.set()
            raise BearerError("no key of the issuer has signed it")
        if header.get("alg") != key.algorithm_name or key.algorithm_name not in ALGORITHMS:
            raise BearerError("it is signed by another algorithm than its key's")
        try:
            claims = jwt.decode(
                text,
                key,
                algorithms=[key.algorithm_name],
                issuer=self._issuer,
                audience=self._audience,
                leeway=LEEWAY_S,
                options={"require": ["exp", "iss", "aud", self._claim], "verify_sub": self._claim == "sub"},
            )
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError) as error:
            raise BearerError(f"it does not count: {type(error).__name__}") from None
        return self._bearer(claims)

    def _bearer(self, claims: Mapping[str, Any]) -> Bearer:
        name = f"{SUBJECT}:{claims[self._claim]}"
        groups = claims.get(self._groups_claim, [])
        if not isinstance(claims[self._claim], str):
            raise BearerError("its principal is no text")
        if not isinstance(groups, list) or len(groups) > GROUPS_MAX:
            raise BearerError("its groups are no list, or too many")
        principals = (name, *(f"{GROUP}:{group}" for group in groups if isinstance(group, str)))
        try:
            check_principal(name)
        except DocumentError:
            raise BearerError("its principal is no name") from None
        return Bearer(name, principals, float(claims["exp"]) + LEEWAY_S)

    # The issuer's keys.

    async def run(self) -> None:
        """Keeps the issuer's keys new; ends only by cancellation."""
        while True:
            try:
                async with asyncio.timeout(READ_EVERY_S):
                    await self._wanted.wait()
            except TimeoutError:
                pass
            wait_s = self._read_s + READ_AGAIN_S - self._clock()
            if wait_s > 0:
                # Whoever makes up key ids must not have us ask the issuer all the time.
                await asyncio.sleep(wait_s)
            self._wanted.clear()
            await self.read()

    async def read(self) -> None:
        """Reads the issuer's keys once."""
        self._read_s = self._clock()
        try:
            raw = await asyncio.to_thread(self._fetch)
            keys = keys_of(raw)
        except (OSError, ValueError, jwt.PyJWTError) as error:
            log.error("auth.keys_not_read", place=self._place, reason=str(error))
            return
        if raw == self._raw:
            return
        self._raw, self._keys = raw, keys
        log.info("auth.keys_read", place=self._place, keys=len(keys))
        self.on_change()

    def _fetch(self) -> bytes:
        if not self._place.startswith("https:"):
            return Path(self._place).read_bytes()[: SET_BYTES_MAX + 1]
        context = ssl.create_default_context(cafile=self._ca_file or None)
        with urllib.request.urlopen(  # noqa: S310 - https alone, see above
            self._place, timeout=READ_TIMEOUT_S, context=context
        ) as answer:
            found: bytes = answer.read(SET_BYTES_MAX + 1)
            return found


def keys_of(raw: bytes) -> dict[str, jwt.PyJWK]:
    """The keys of a JSON Web Key Set that can sign, by their ids; a key without one has the empty id.

    Raises:
        ValueError: It is no set of keys.
    """
    if len(raw) > SET_BYTES_MAX:
        raise ValueError("the set of keys is too large")
    document = orjson.loads(raw)
    if not isinstance(document, dict) or not isinstance(document.get("keys"), list):
        raise ValueError("it is no JSON Web Key Set")
    found: dict[str, jwt.PyJWK] = {}
    for each in document["keys"]:
        if not isinstance(each, dict) or each.get("kty") not in ("RSA", "EC", "OKP") or each.get("use", "sig") != "sig":
            continue
        try:
            key = jwt.PyJWK(each)
        except jwt.PyJWTError:
            continue  # A kind of key that is not known here; others may be.
        found[str(each.get("kid", ""))] = key
    if not found:
        raise ValueError("the set has no key that can sign")
    return found
