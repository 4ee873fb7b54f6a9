"""JWTs that others issue: which count, and which do not."""

from __future__ import annotations

import http.client
import io
import json
import socket
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from doug_wire.auth import bearers as module
from doug_wire.auth.bearers import BearerError, Bearers, HttpsOnly, Source, keys_of
from doug_wire.auth.issuer import Issuer

KEY, OTHER = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())


class Lines:
    """A log that nobody reads."""

    def info(self, event: str, **fields: Any) -> None:
        pass

    error = info


def key_set(key: ec.EllipticCurvePrivateKey, kid: str) -> str:
    public = json.loads(jwt.algorithms.ECAlgorithm(jwt.algorithms.ECAlgorithm.SHA256).to_jwk(key.public_key()))
    return json.dumps({"keys": [{**public, "kid": kid, "alg": "ES256", "use": "sig"}]})


def token(key: Any = KEY, algorithm: str = "ES256", kid: str = "one", **claims: Any) -> str:
    now = int(time.time())
    all_claims = {"iss": "https://issuer", "aud": "dougdb", "sub": "bob", "exp": now + 60, "groups": ["ops"]} | claims
    return jwt.encode({n: v for n, v in all_claims.items() if v is not None}, key, algorithm, headers={"kid": kid})


@pytest.fixture
async def bearers(tmp_path: Path) -> Bearers:
    place = tmp_path / "jwks.json"
    place.write_text(key_set(KEY, "one"))
    found = Bearers(Issuer("https://issuer", "dougdb", str(place)), Lines())
    await found.read()
    return found


async def test_a_token_of_the_issuer_counts(bearers: Bearers) -> None:
    found = bearers.judge(token())
    assert (found.name, found.principals) == ("oidc:bob", ("oidc:bob", "group:ops"))


async def test_groups_that_nobody_can_name_say_nothing(bearers: Bearers) -> None:
    found = bearers.judge(token(groups=["", "a\nb", "x" * 1000, 7, None, ["ops"], "\u202e", "ops"]))
    assert found.principals == ("oidc:bob", "group:ops")


async def test_no_other_token_counts(bearers: Bearers) -> None:
    wrong = [
        token(OTHER),
        token(kid="two"),
        token(iss="https://other"),
        token(aud="other"),
        token(aud=None),
        token(exp=int(time.time()) - 3600),
        token(exp=None),
        token(exp=10**400),
        token(exp="9" * 400),
        token(exp=str(int(time.time()) + 60)),
        token(exp=1 << 53),
        token(exp=float("inf")),
        token(sub=None),
        token(groups="ops"),
        token("x" * 64, "HS256"),
        token(None, "none"),
        "a.b.c",
        "x" * 20_000,
        token()[:-4] + "AAAA",
    ]
    for each in wrong:
        with pytest.raises(BearerError):
            bearers.judge(each)


async def test_the_refusal_says_why_and_repeats_nothing_of_the_token(bearers: Bearers) -> None:
    now_s = int(time.time())
    for each, why in (
        (token(exp=now_s - 3600), "it has expired"),
        (token(nbf=now_s + 3600), "its time has not come"),
        (token(aud="secret-audience"), "it is meant for another audience"),
        (token(iss="https://secret-issuer"), "another issuer has made it"),
        (token(exp=None), "a claim is missing: exp, iss, aud, or the one that names the principal"),
        (token()[:-8] + "AAAAAAAA", "its signature is wrong"),
        (token(iat="secret-time"), "its content is not that of a JWT"),
    ):
        with pytest.raises(BearerError) as refused:
            bearers.judge(each)
        assert str(refused.value) == why


async def test_a_key_that_leaves_the_set_counts_no_more(bearers: Bearers, tmp_path: Path) -> None:
    changes: list[int] = []
    bearers.on_change = lambda: changes.append(1)
    (tmp_path / "jwks.json").write_text(key_set(OTHER, "two"))
    await bearers.read()
    assert changes == [1]
    assert bearers.judge(token(OTHER, kid="two")).name == "oidc:bob"
    with pytest.raises(BearerError):
        bearers.judge(token())
    (tmp_path / "jwks.json").write_text("{}")
    await bearers.read()
    assert bearers.judge(token(OTHER, kid="two")).name == "oidc:bob", "a set that cannot be read leaves the old one"


@pytest.mark.parametrize("kid", ["", "one"])
async def test_keys_that_share_an_id_all_count_while_they_are_changed(
    bearers: Bearers, tmp_path: Path, kid: str
) -> None:
    old, new = (json.loads(key_set(key, kid))["keys"][0] for key in (KEY, OTHER))
    if not kid:
        del old["kid"], new["kid"]
    for keys, counting in (([old], [KEY]), ([old, new], [KEY, OTHER]), ([new], [OTHER])):
        (tmp_path / "jwks.json").write_text(json.dumps({"keys": keys}))
        await bearers.read()
        for key in counting:
            bearer = bearers.judge(token(key, kid=kid))
            assert bearer.name == "oidc:bob" and bearers.counts(bearer.mark)
    with pytest.raises(BearerError):
        bearers.judge(token(KEY, kid=kid))


async def test_a_key_without_a_name_that_is_new_is_fetched(bearers: Bearers, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = []
    monkeypatch.setattr(bearers, "_wanted", SimpleNamespace(set=lambda: wanted.append(1)))
    with pytest.raises(BearerError, match="signature"):
        bearers.judge(token(OTHER))
    assert wanted


@pytest.mark.parametrize("kid", ["", "one"])
def test_so_many_keys_of_an_id_count(kid: str) -> None:
    own = json.loads(key_set(KEY, kid))["keys"]
    assert len(keys_of(json.dumps({"keys": own * 100}).encode())[kid]) == module.KEYS_OF_AN_ID_MAX


@pytest.mark.parametrize(
    "raw", [b"", b"[]", b"{}", b'{"keys":[]}', b'{"keys":[{"kty":"oct","k":"AAAA"}]}', b" " * (2 << 20)]
)
def test_what_is_no_set_of_keys_is_refused(raw: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        keys_of(raw)


@pytest.mark.parametrize("algorithm", ["none", "HS256", "RSA-OAEP", "ES256", [], {}, 5, None])
@pytest.mark.parametrize(
    "key", [{"n": "AQAB", "e": "AQAB"}, {"n": 5}, {}, {"d": 5}, {"n": "AQAB", "e": "AQAB", "d": "AQAB"}]
)
def test_a_key_of_another_kind_is_left_out_and_spoils_no_other(algorithm: object, key: dict[str, object]) -> None:
    own = json.loads(key_set(KEY, "one"))["keys"]
    found = keys_of(json.dumps({"keys": [{"kty": "RSA", "kid": "other", "alg": algorithm, **key}, *own]}).encode())
    assert "one" in found and "other" not in found


@pytest.mark.parametrize("error", [http.client.BadStatusLine("garbage"), http.client.IncompleteRead(b"{"), OSError()])
async def test_whatever_the_server_says_leaves_the_old_keys(
    bearers: Bearers, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(source: Source) -> bytes:
        raise error

    monkeypatch.setattr(Source, "read", fail)
    await bearers.read()
    assert bearers.judge(token()).name == "oidc:bob"


async def test_a_server_that_drips_is_left_in_time(bearers: Bearers, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped = threading.Event()

    def drip(source: Source) -> bytes:
        stopped.wait(60)
        return b""

    monkeypatch.setattr(Source, "read", drip)
    monkeypatch.setattr(Source, "stop", lambda source: stopped.set())
    monkeypatch.setattr(module, "READ_ALL_S", 0.0)
    await bearers.read()
    assert stopped.is_set()
    assert bearers.judge(token()).name == "oidc:bob"


def test_a_source_that_is_stopped_ends_its_connection() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        source = Source("https://issuer/keys", "")
        source.connected(ours)
        source.stop()
        assert theirs.recv(1) == b""


@pytest.mark.parametrize("place", ["http://issuer/keys", "HTTP://issuer/keys", "ftp://issuer/keys", "file:///keys"])
def test_keys_come_from_a_path_or_over_https(place: str) -> None:
    """Anything else would be taken for the name of a file that is not there, and nobody would be let in."""
    mistake = Issuer("https://issuer", "dougdb", place).mistake()
    assert mistake is not None
    assert mistake[0] == "AUTH_OIDC_JWKS"


async def test_a_scheme_in_capitals_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    class Opener:
        def open(self, place: str, timeout: float) -> io.BytesIO:
            asked.append(place)
            return io.BytesIO(b"keys")

    monkeypatch.setattr(urllib.request, "build_opener", lambda *handlers: Opener())
    assert Source("HTTPS://issuer/keys", "").read() == b"keys"
    assert asked == ["HTTPS://issuer/keys"]


def test_a_redirect_leads_to_https_alone() -> None:
    request, headers = urllib.request.Request("https://issuer/keys"), http.client.HTTPMessage()
    followed = HttpsOnly().redirect_request(request, io.BytesIO(), 302, "Found", headers, "https://other/keys")
    assert followed is not None
    assert followed.full_url == "https://other/keys"
    for place in ("http://issuer/keys", "ftp://issuer/keys"):
        with pytest.raises(urllib.error.URLError):
            HttpsOnly().redirect_request(request, io.BytesIO(), 302, "Found", headers, place)
