"""The gate by itself: what it remembers, what it ends, and what does not end it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from doug_wire.auth import tokens
from doug_wire.auth.bearers import Bearers, Key
from doug_wire.auth.document import EMPTY, Document, DocumentError, Held, TokenRecord
from doug_wire.auth.grants import Grant, Verb
from facade.app import certificates
from facade.app import gate as gate_module
from facade.app.audit import Audit
from facade.app.certificates import NONE, Certificate
from facade.app.gate import USES_EVERY_S, Gate
from facade.app.plain import proof_of
from facade.client.access import Access
from facade.errors import ProblemError, SettingsError, UnauthenticatedError
from facade.settings import Settings

MINTED = tokens.mint()
RECORD = TokenRecord(MINTED.id, MINTED.salt, MINTED.digest, Held((Grant(Verb.READ, b""),)), 1, 2_000_000)
BOOTSTRAP = b"b" * 40


class State:
    """What shard 0 holds, without a shard."""

    def __init__(self) -> None:
        self.document = EMPTY.with_token("app", RECORD).with_user("cert:alice", "reader")
        self.age = 0.0
        self.on_change: Callable[[], None] = lambda: None
        self.runs = asyncio.Event()
        self.refuses: Exception | None = None

    def age_s(self) -> float:
        return self.age

    async def run(self) -> None:
        self.runs.set()
        await asyncio.Event().wait()

    async def change(self, make: Callable[[Document], Document], *, to_the_brim: bool = False) -> Document:
        assert to_the_brim, "uses take the room that is kept for them"
        if self.refuses is not None:
            raise self.refuses
        return make(self.document)


class Rig:
    """A gate with a clock and a state of the test's."""

    def __init__(self, **settings: Any) -> None:
        self.now_s = 1000.0
        self.state = State()
        modes = settings.pop("auth_mode", ("token", "mtls"))
        values = Settings(nodes={0: {"n": "127.0.0.1:1"}}, auth_mode=modes, **settings)
        audit = Audit("", CollectorRegistry(), self.clock)
        self.gate = Gate(values, cast(Any, self.state), audit, self.clock)
        self.gate._poll_s = 0.0

    def clock(self) -> float:
        return self.now_s


def header(text: str = MINTED.text, before: str = "Bearer ") -> bytes:
    return f"{before}{text}".encode()


async def test_a_token_has_one_access_however_it_is_written() -> None:
    gate = Rig().gate
    first = gate._prove(header(), NONE)
    assert gate._prove(header(before="bEARER "), NONE) is first
    assert len(gate._proofs) == 1
    assert all(len(key) == 32 for key in gate._remembered.found), "no header is kept"
    found = gate.known(proof_of(header()), NONE)
    assert found is not None
    assert found.access is first
    for spaces in (2, 3, 8000):
        with pytest.raises(UnauthenticatedError, match="one space"):
            gate._prove(header(before="Bearer" + " " * spaces), NONE)
    for wrong in (header() + b" ", header(before="Bearer \t"), header() + b"\t", b"Bearer ", b"Bearer"):
        with pytest.raises(UnauthenticatedError):
            gate._prove(wrong, NONE)
    assert len(gate._remembered.found) == 2


async def test_what_is_remembered_is_bounded_in_number_and_length(monkeypatch: pytest.MonkeyPatch) -> None:
    """A JWT may have sixteen kilobytes, all of them names of groups, and ten thousand of those count."""
    ways = [header(before=before) for before in ("Bearer ", "bearer ", "bEARER ", "BEARER ")]
    monkeypatch.setattr(gate_module, "REMEMBERED_BYTES_MAX", 2 * len(ways[0]) + 1)
    gate, held = Rig().gate, []
    for way in ways:
        gate._prove(way, NONE)
        held.append(len(gate._remembered.found))
    assert held == [1, 2, 1, 2]
    assert gate.known(proof_of(ways[-1]), NONE) is not None


async def test_a_browser_that_asks_often_has_nobody_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of its requests was counted as one more proof, until everybody had to prove anew who they are."""
    monkeypatch.setattr(gate_module, "REMEMBERED_BYTES_MAX", 200)
    gate = Rig().gate
    begun = gate._sign_ins.begin("token:app", "token", MINTED.id, ("token:app",), 1500.0)
    gate._prove(header(), NONE)
    for _ in range(100):
        gate._signed_in(begun.facts)
    assert gate.known(proof_of(header()), NONE) is not None


async def test_a_certificate_ends_on_a_connection_that_stays_open() -> None:
    rig = Rig()
    alice = Certificate("alice", 1060.0)
    access = rig.gate._prove(b"", alice)
    assert access.rights.grants
    rig.now_s = 1061.0
    rig.gate.renew()
    assert access.ended
    assert rig.gate.known(b"", alice) is None
    with pytest.raises(UnauthenticatedError, match="expired"):
        rig.gate._prove(b"", alice)
    assert not rig.gate._prove(b"", Certificate("alice", 2000.0)).ended


def test_a_certificate_is_read_with_its_end() -> None:
    told = {"subject": ((("commonName", "alice"),),), "notAfter": "Jan  1 00:01:00 1970 GMT"}
    assert certificates.read(told) == Certificate("alice", 60.0)
    for bad in ({}, {"notAfter": "never"}, {"notAfter": "Jan  1 00:00:00 1970 GMT"}):
        assert certificates.read({"subject": told["subject"], **bad}) == NONE
    assert certificates.read({"notAfter": told["notAfter"]}) == NONE


async def test_rights_follow_the_document_and_ends_the_clock() -> None:
    rig = Rig()
    access = rig.gate._prove(header(), NONE)
    rig.state.document = rig.state.document.with_user("token:app", "monitor")
    rig.state.on_change()
    assert Grant(Verb.METRICS) in access.rights.grants
    rig.now_s = 2000.0
    rig.gate.renew()
    assert access.ended


@pytest.mark.parametrize("kind", ["token", "oidc"])
async def test_sessions_do_not_outlive_the_mode_that_they_began_with(tmp_path: Path, kind: str) -> None:
    """Facades behind one address share a key, and one of them was started anew with other modes."""
    key = tmp_path / "session.key"
    key.write_bytes(b"k" * 32)
    oidc = {"auth_oidc_issuer": "i", "auth_oidc_audience": "a", "auth_oidc_jwks": str(tmp_path / "keys")}

    def shown(rig: Rig) -> Access:
        if rig.gate._bearers is not None:
            rig.gate._bearers._keys = {"one": (Key(cast(Any, None), "mark"),)}
        name = "token:app" if kind == "token" else "oidc:bob"
        begun = rig.gate._sign_ins.begin(name, kind, MINTED.id if kind == "token" else "mark", (name,), 1500.0)
        given = [(b"cookie", f"dougdb-session={begun.cookie}".encode()), (b"doug-csrf", begun.csrf.encode())]
        scope = {
            "type": "http",
            "method": "GET",
            "path": "/",
            "headers": given,
            "client": ("127.0.0.1", 1),
            "state": {},
        }
        return rig.gate._caller(scope, "").access

    both = {"auth_session_key_file": str(key), **oidc}
    assert not shown(Rig(auth_mode=("token", "oidc"), **both)).ended
    assert not shown(Rig(auth_mode=(kind,), **both)).ended
    for modes in (("oidc",) if kind == "token" else ("token",)), ("mtls",):
        with pytest.raises(UnauthenticatedError, match="sign in again"):
            shown(Rig(auth_mode=modes, **both))


@pytest.mark.parametrize("held", [None, b"", b" \n"])
def test_a_facade_starts_without_its_bootstrap_file(tmp_path: Path, held: bytes | None) -> None:
    path = tmp_path / "bootstrap"
    if held is not None:
        path.write_bytes(held)

    async def start() -> Rig:
        return Rig(auth_bootstrap_file=str(path))

    with capture_logs() as logs:
        rig = asyncio.run(start())
    assert [line["event"] for line in logs] == ["auth.bootstrap_gone"]
    assert not rig.gate._bootstrap.is_it("")
    path.write_bytes(BOOTSTRAP)
    rig.gate._bootstrap.refresh()
    assert rig.gate._bootstrap.is_it(BOOTSTRAP.decode())


@pytest.mark.parametrize(
    "held", [b"short", b"\xff" * 40, BOOTSTRAP + b"\n" + BOOTSTRAP, b"DOUGDB_TOKEN = " + BOOTSTRAP]
)
async def test_a_bootstrap_file_that_makes_no_sense_is_an_error(tmp_path: Path, held: bytes) -> None:
    """Nobody could show what stands on two lines, or has a space: a facade would start that lets nobody in."""
    (tmp_path / "token").write_bytes(held)
    for name in ("token", "."):
        with pytest.raises(SettingsError):
            Rig(auth_bootstrap_file=str(tmp_path / name))


async def test_neither_an_issuer_nor_a_file_system_that_hangs_keeps_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hang(bearers: Bearers) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(Bearers, "read", hang)
    oidc = {"auth_oidc_issuer": "i", "auth_oidc_audience": "a", "auth_oidc_jwks": str(tmp_path / "keys")}
    rig = Rig(auth_mode=("token", "oidc"), **oidc)
    access = rig.gate._prove(header(), NONE)
    hangs, free = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def refresh() -> None:
        loop.call_soon_threadsafe(hangs.set)
        free.wait(60)

    ended = asyncio.Event()
    monkeypatch.setattr(rig.gate._bootstrap, "refresh", refresh)
    task = asyncio.create_task(rig.gate.run())
    try:
        async with asyncio.timeout(60):
            await rig.state.runs.wait()
            await hangs.wait()
            with access.followed(ended.set):
                rig.state.age = 1e9
                await ended.wait()
    finally:
        free.set()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert access.ended


async def test_uses_that_cannot_be_noted_end_nothing_and_are_told_once() -> None:
    rig = Rig()
    rig.now_s = 1_000_000.0
    rig.state.document = EMPTY.with_token("app", TokenRecord(*MINTED[1:], RECORD.held, 1))
    rig.state.on_change()
    with capture_logs() as logs:
        for error in (
            DocumentError("full"),
            DocumentError("full"),
            ProblemError("a", "away"),
            ProblemError("a", "away"),
        ):
            rig.state.refuses = error
            rig.gate._prove(header(), NONE)
            rig.now_s += USES_EVERY_S
            await rig.gate._note_uses()
    assert [line["reason"] for line in logs] == ["full", "away"]
