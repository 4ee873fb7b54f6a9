"""JWTs of clients that call a node themselves: whose count, what they may do, and how that ends."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import grpc
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from doug.v1 import doug_pb2
from doug_wire.auth import bearers as bearers_module
from doug_wire.auth.bearers import Bearer, Bearers
from doug_wire.auth.grants import parse_grant
from doug_wire.auth.issuer import Issuer
from doug_wire.auth.remembered import Remembered
from raft_node.rpc.doug import callers as callers_module
from raft_node.rpc.doug.guests import REMEMBERED_CHARACTERS_MAX, REMEMBERED_MAX
from raft_node.rpc.doug.wanted import DOUG
from raft_testing.guests import Aborted, Shard, shown

pb = doug_pb2
KEY, OTHER = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
DENIED, UNKNOWN = grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED
READ, OUTSIDE = pb.GetRequest(key=b"config/a"), pb.GetRequest(key=b"other")


class Lines:
    """A log that nobody reads."""

    def info(self, event: str, **fields: Any) -> None:
        pass

    error = info


def signed(key: ec.EllipticCurvePrivateKey = KEY, kid: str = "one", **claims: Any) -> str:
    # Some are made when the tests are collected, and shown once the run comes to them.
    lasts_s = 86_400
    usual = {
        "iss": "https://issuer",
        "aud": "dougdb",
        "sub": "bob",
        "exp": int(time.time()) + lasts_s,
        "groups": ["ops"],
    }
    return jwt.encode(usual | claims, key, "ES256", headers={"kid": kid})


class Rig:
    """A node that takes JWTs, and the file of the issuer's keys."""

    def __init__(self, folder: Path) -> None:
        self.place = folder / "jwks.json"
        self.publish("one", KEY)
        self.bearers = Bearers(Issuer("https://issuer", "dougdb", str(self.place)), Lines())
        self.shard = Shard(modes=("token", "oidc"), bearers=self.bearers)
        self.shard.early_s = time.time() - self.shard.now_s
        role = self.shard.document.with_role("r", [parse_grant("read:config/")])
        self.shard.becomes(role.with_user("group:ops", "r"))

    def publish(self, kid: str, key: ec.EllipticCurvePrivateKey) -> None:
        """Makes this key the issuer's only one."""
        public = json.loads(jwt.algorithms.ECAlgorithm(jwt.algorithms.ECAlgorithm.SHA256).to_jwk(key.public_key()))
        self.place.write_text(json.dumps({"keys": [{**public, "kid": kid, "alg": "ES256", "use": "sig"}]}))

    async def reads(self, text: str, request: pb.GetRequest = READ) -> Any:
        """The status of a read with a JWT; None if it is served."""
        return await self.shard.calls(shown(text), "Get", request)


@pytest.fixture
async def rig(tmp_path: Path) -> Rig:
    made = Rig(tmp_path)
    await made.bearers.read()
    return made


async def test_a_jwt_counts_at_a_node_as_at_a_facade(rig: Rig) -> None:
    """Its principal and its groups have the rights that the shard's document gives them."""
    assert (await rig.reads(signed()), await rig.reads(signed(), OUTSIDE)) == (None, DENIED)
    assert await rig.reads(signed(groups=[])) is DENIED
    rig.shard.becomes(rig.shard.document.with_user("oidc:bob", "reader"))
    assert await rig.reads(signed(groups=[]), OUTSIDE) is None
    assert await rig.reads(rig.shard.makes("app", "read:*"), OUTSIDE) is None, "a token of ours counts beside"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (signed(OTHER), "its signature is wrong"),
        (signed(kid="two"), "no key of the issuer has signed it"),
        (signed(aud="another"), "it is meant for another audience"),
        (signed(exp=int(time.time()) - 3600), "it has expired"),
        ("a.b.c", "it is no JWT"),
    ],
)
async def test_who_shows_a_jwt_that_does_not_count_is_told_why(rig: Rig, text: str, why: str) -> None:
    context: Any = shown(text)
    with pytest.raises(Aborted, match=f"the JWT does not count: {why}. At a node a token"):
        await rig.shard.callers.admit(context, DOUG, "Get", READ)
    assert context.status is UNKNOWN
    assert text not in str(rig.shard.lines)


async def test_a_node_without_an_issuer_says_so() -> None:
    shard = Shard(modes=("token", "oidc"))
    context: Any = shown(signed())
    with pytest.raises(Aborted, match=r"knows no issuer.*DOUGDB_AUTH_OIDC_JWKS.*At a node a token \(.*\) counts"):
        await shard.callers.admit(context, DOUG, "Get", READ)
    assert context.status is UNKNOWN
    without = Shard(modes=("token",))
    assert await without.calls(shown(signed()), "Get", READ) is UNKNOWN


async def test_a_jwt_is_judged_once_and_ends_with_its_key_and_its_time(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, judged = signed(), list[str]()
    judge = rig.bearers.judge

    def counted(text: str) -> Bearer:
        judged.append(text)
        return judge(text)

    monkeypatch.setattr(rig.bearers, "judge", counted)
    assert [await rig.reads(text) for _ in range(5)] == [None] * 5
    assert len(judged) == 1, "a signature costs a node more than everything else about a call"
    rig.publish("two", OTHER)
    await rig.bearers.read()
    assert (await rig.reads(text), await rig.reads(signed(OTHER, "two"))) == (UNKNOWN, None)
    short = signed(OTHER, "two", exp=int(time.time()) + 60)
    assert await rig.reads(short) is None
    rig.shard.early_s += 60 + bearers_module.LEEWAY_S + 1
    judged.clear()
    await rig.reads(short)
    assert judged == [short], "what has ended is judged anew"


async def test_what_is_kept_of_jwts_is_bounded(rig: Rig) -> None:
    rig.shard.guests._remembered = Remembered(3, REMEMBERED_CHARACTERS_MAX)
    for number in range(10):
        assert await rig.reads(signed(jti=str(number))) is None
        assert len(rig.shard.guests._remembered.found) <= 3
    await rig.reads(signed(OTHER))
    assert len(rig.shard.guests._remembered.found) <= 3, "and nothing is kept of what does not count"


async def test_what_is_kept_of_long_jwts_is_bounded(rig: Rig) -> None:
    """One may name 256 groups, and ten thousand were kept: hundreds of megabytes."""
    texts = [signed(jti=str(number), groups=["ops", "g" * 190] * 20) for number in range(6)]
    rig.shard.guests._remembered = Remembered(REMEMBERED_MAX, 2 * len(texts[0]) + 1)
    held = []
    for text in texts:
        assert await rig.reads(text) is None
        held.append(len(rig.shard.guests._remembered.found))
    assert held == [1, 2, 1, 2, 1, 2]


async def test_what_lasts_ends_with_the_key_of_its_jwt(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callers_module, "ATTEND_S", 0.001)
    rig.shard.becomes(rig.shard.document.with_role("w", [parse_grant("watch:*")]).with_user("oidc:bob", "w"))
    context: Any = shown(signed())
    attend = await rig.shard.callers.admit(context, DOUG, "Watch", pb.WatchRequest())
    assert attend is not None
    begun = asyncio.Event()

    async def watch() -> None:
        begun.set()
        await asyncio.Event().wait()

    serving = asyncio.ensure_future(attend(watch()))
    async with asyncio.timeout(60):
        await begun.wait()
        rig.publish("two", OTHER)
        await rig.bearers.read()
        with pytest.raises(Aborted):
            await serving
    assert context.status is UNKNOWN
