"""Keys and tokens change while clients ask: no request of anybody who counts before and after fails."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

pytestmark = pytest.mark.seconds

Make = Callable[..., Awaitable[Any]]
OLD, NEW = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
FIRST, SECOND = "first-" + "1" * 32, "second-" + "2" * 32


def key_set(**keys: Ed25519PrivateKey) -> str:
    shown = {kid: json.loads(jwt.algorithms.OKPAlgorithm.to_jwk(key.public_key())) for kid, key in keys.items()}
    return json.dumps({"keys": [{**public, "kid": kid, "alg": "EdDSA"} for kid, public in shown.items()]})


def token(key: Ed25519PrivateKey, kid: str) -> str:
    claims = {"iss": "https://issuer", "aud": "dougdb", "sub": "bob", "exp": int(time.time()) + 600}
    return jwt.encode(claims, key, "EdDSA", headers={"kid": kid})


WAYS: tuple[tuple[str, str, bytes | None], ...] = (
    ("PUT", "/v1/kv/k", b"v"),
    ("GET", "/v1/kv/k", None),
    ("POST", "/v1/batch", b'{"operations":[{"op":"put","key":"a","value":"v"}]}'),
)


class Load:
    """Clients that ask all the time, by the short way and by others, each with the proof that counts for it."""

    def __init__(self, facade: Any, proofs: dict[str, str]) -> None:
        self.facade = facade
        self.proofs = proofs
        self.answers: Counter[tuple[str, int]] = Counter()
        self._over = False

    async def __aenter__(self) -> Load:
        for proof in self.proofs.values():
            await self.facade.http.put("/v1/kv/k", content=b"v", headers={"authorization": f"Bearer {proof}"})
        self._tasks = [asyncio.create_task(self._ask(name, way)) for name in self.proofs for way in range(3)]
        await self.goes_on()
        return self

    async def __aexit__(self, *details: object) -> None:
        self._over = True
        await asyncio.gather(*self._tasks)

    async def _ask(self, name: str, way: int) -> None:
        method, path, body = WAYS[way]
        while not self._over:
            headers = {"authorization": f"Bearer {self.proofs[name]}", "content-type": "application/json"}
            answer = await self.facade.http.request(method, path, content=body, headers=headers)
            status = answer.status_code
            if way == 2 and status == 200:
                status = answer.json()["results"][0]["status"]
            self.answers[name, status] += 1

    async def goes_on(self) -> None:
        """Returns once everybody has had some more answers."""
        before = {name: self._of(name) for name in self.proofs}
        await self.facade.until(
            lambda: all(self._of(name) >= before[name] + 9 for name in before), "everybody is answered", 30.0
        )

    def _of(self, name: str) -> int:
        return sum(count for (who, _), count in self.answers.items() if who == name)


async def test_keys_of_the_issuer_are_replaced_under_load(make_facade: Make, tmp_path: Path) -> None:
    place, boot = tmp_path / "jwks.json", tmp_path / "bootstrap"
    place.write_text(key_set(old=OLD))
    boot.write_text(FIRST)
    facade = await make_facade(
        nodes=1,
        auth_mode="oidc",
        auth_oidc_issuer="https://issuer",
        auth_oidc_audience="dougdb",
        auth_oidc_jwks=str(place),
        auth_bootstrap_file=str(boot),
        auth_poll_ms=50,
    )
    await facade.use_sockets()
    await facade.until(lambda: facade.state.age_s() is not None, "the users are known")
    await facade.until(lambda: facade.gate._bearers._keys, "the keys are known")
    await facade.state.change(lambda document: document.with_user("oidc:bob", "writer").with_user("oidc:bob", "reader"))
    watched: list[str] = []

    async def watch() -> None:
        headers = {"authorization": f"Bearer {load.proofs['bob']}"}
        async with facade.http.stream("GET", "/v1/watch?prefix=k", headers=headers) as answer:
            async for line in answer.aiter_lines():
                watched.append(line)

    async with Load(facade, {"bob": token(OLD, "old")}) as load:
        watching = asyncio.create_task(watch())
        await facade.until(lambda: any("put" in line for line in watched), "the watch sees the load")
        for following in (key_set(old=OLD, new=NEW), key_set(new=NEW, old=OLD)):
            place.write_text(following)
            await facade.gate._bearers.read()
            await load.goes_on()
        assert not watching.done(), "nothing ends for who counts still"
        load.proofs["bob"] = token(NEW, "new")
        await load.goes_on()
        await load.goes_on()
        place.write_text(key_set(new=NEW))
        await facade.gate._bearers.read()
        await load.goes_on()
        await asyncio.wait_for(watching, 60)
    assert set(load.answers) == {("bob", 200)}
    assert any("refused" in line for line in watched), "it came by the key that is gone"


async def test_the_bootstrap_token_is_replaced_under_load_of_others(make_facade: Make, tmp_path: Path) -> None:
    boot = tmp_path / "bootstrap"
    boot.write_text(FIRST)
    facade = await make_facade(nodes=1, auth_mode="token", auth_bootstrap_file=str(boot), auth_poll_ms=50)
    await facade.use_sockets()
    await facade.until(lambda: facade.state.age_s() is not None, "the users are known")
    headers = {"authorization": f"Bearer {FIRST}"}
    wanted = {"name": "app", "allow": ["read:*", "write:*"]}
    made = await facade.http.post("/v1/auth/tokens", json=wanted, headers=headers)
    async with Load(facade, {"app": made.json()["token"]}) as load:
        boot.write_text(SECOND)
        headers = {"authorization": f"Bearer {SECOND}"}
        async with asyncio.timeout(60):
            while (await facade.http.get("/metrics", headers=headers)).status_code != 200:
                await asyncio.sleep(0.01)
        await load.goes_on()
        assert (await facade.http.get("/metrics", headers={"authorization": f"Bearer {FIRST}"})).status_code == 401
        boot.unlink()
        await load.goes_on()
    assert set(load.answers) == {("app", 200)}
