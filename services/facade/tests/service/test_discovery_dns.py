"""Discovery by DNS, against a small name server; which source is chosen; and what the facade does when a node moves."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import dns.asyncresolver
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest
from free_ports import free_port
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from facade.discovery.choice import mode_of
from facade.discovery.dns import DnsDiscovery
from facade.discovery.metrics import DiscoveryMetrics
from facade.discovery.targets import Target, Targets
from facade.errors import SettingsError
from facade.settings import Settings

pytestmark = pytest.mark.seconds

DOMAIN = "cluster.local"

MakeFacade = Callable[..., Awaitable[Any]]


class FakeDns(asyncio.DatagramProtocol):
    """A name server for headless Services: SRV records whose targets are pods."""

    def __init__(self) -> None:
        self.port = free_port()
        self.pods: dict[str, list[str]] = {}
        """Pod names by Service, or whole names, with a dot behind them; an absent Service is NXDOMAIN."""
        self.broken = False
        """Answers SERVFAIL."""
        self.questions = 0
        self.transport: asyncio.DatagramTransport | None = None

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self.transport, _ = await loop.create_datagram_endpoint(lambda: self, ("127.0.0.1", self.port))

    def resolver(self) -> dns.asyncresolver.Resolver:
        resolver = dns.asyncresolver.Resolver(configure=False)
        resolver.nameservers, resolver.port = ["127.0.0.1"], self.port
        resolver.search = [dns.name.from_text(DOMAIN)]
        resolver.ndots = 5
        return resolver

    def datagram_received(self, data: bytes, address: Any) -> None:
        query = dns.message.from_wire(data)
        response = dns.message.make_response(query)
        question = query.question[0]
        assert question.rdtype == dns.rdatatype.SRV
        self.questions += 1
        service = question.name.to_text().removeprefix("_client._tcp.").removesuffix(f".{DOMAIN}.")
        if self.broken:
            response.set_rcode(dns.rcode.SERVFAIL)
        elif service not in self.pods:
            response.set_rcode(dns.rcode.NXDOMAIN)
        else:
            names = [pod if pod.endswith(".") else f"{pod}.{service}.{DOMAIN}." for pod in self.pods[service]]
            targets = [f"0 50 21000 {name}" for name in names]
            if targets:
                response.answer.append(dns.rrset.from_text(question.name, 5, "IN", "SRV", *targets))
        assert self.transport is not None
        self.transport.sendto(response.to_wire(), address)


@pytest.fixture
async def server() -> AsyncIterator[FakeDns]:
    server = FakeDns()
    await server.start()
    yield server
    assert server.transport is not None
    server.transport.close()


async def until(condition: Callable[[], bool], what: str) -> None:
    try:
        async with asyncio.timeout(60):
            while not condition():
                await asyncio.sleep(0.005)
    except TimeoutError:
        pytest.fail(what)


@contextlib.asynccontextmanager
async def polling(server: FakeDns, refresh_s: float = 0.02) -> AsyncIterator[tuple[DnsDiscovery, dict[int, Any]]]:
    names = {0: "s0.ns.svc", 1: "s1.ns.svc"}
    metrics = DiscoveryMetrics(CollectorRegistry())
    discovery = DnsDiscovery(names, "client", metrics, refresh_s=refresh_s, pause_s=0.01, resolver=server.resolver())
    known: dict[int, Any] = {}

    def publish(targets: Targets) -> None:
        known.update(targets)

    task = asyncio.create_task(discovery.run(publish))
    try:
        yield discovery, known
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_pods_are_dialled_by_their_names_and_the_last_good_set_is_kept(server: FakeDns) -> None:
    with capture_logs() as logs:
        async with polling(server) as (_, known):
            await until(lambda: server.questions >= 4, "names that do not exist yet are asked for again")
            assert known == {}
            server.pods = {"s0.ns.svc": ["s0-0", "s0-1"]}
            first = {"s0-0": Target("s0-0.s0.ns.svc:21000"), "s0-1": Target("s0-1.s0.ns.svc:21000")}
            await until(lambda: known == {0: first}, "the shard that has a name is found alone")
            server.pods["s1.ns.svc"] = ["s1-0"]
            await until(lambda: 1 in known, "the other one is found")
            for trouble in ("SERVFAIL", "NXDOMAIN", "no records"):
                server.broken = trouble == "SERVFAIL"
                server.pods = {} if trouble == "NXDOMAIN" else {"s0.ns.svc": [], "s1.ns.svc": []}
                asked = server.questions
                await until(lambda asked=asked: server.questions > asked + 4, "it goes on asking")  # type: ignore[misc]
                assert known[0] == first, trouble
            server.pods = {"s0.ns.svc": ["s0-1", "s0-2"], "s1.ns.svc": ["s1-0"]}
            await until(lambda: sorted(known[0]) == ["s0-1", "s0-2"], "it follows changes again")
    assert [(entry["event"], entry["shard"]) for entry in logs if entry["shard"] == 1] == [
        ("discovery.failing", 1), ("discovery.recovered", 1), ("discovery.failing", 1), ("discovery.recovered", 1),
    ], "each change is told once"  # fmt: skip


async def test_strange_targets_are_no_end_of_it(server: FakeDns) -> None:
    """The root stands for "there is none" (RFC 2782), and labels of names may have any bytes."""
    async with polling(server) as (_, known):
        server.pods = {"s0.ns.svc": ["."], "s1.ns.svc": ["\\255-0.elsewhere.", "short."]}
        strange = {"\\255-0": Target("\\255-0.elsewhere:21000"), "short": Target("short:21000")}
        await until(lambda: known == {1: strange}, "what has a name is found")
        server.pods["s0.ns.svc"] = ["s0-0", "."]
        first = {"s0-0": Target("s0-0.s0.ns.svc:21000")}
        await until(lambda: known == {0: first, 1: strange}, "it goes on asking")


async def test_it_asks_at_once_when_it_is_hurried(server: FakeDns) -> None:
    server.pods = {"s0.ns.svc": ["s0-0"], "s1.ns.svc": ["s1-0"]}
    async with polling(server, refresh_s=600) as (discovery, known):
        await until(lambda: len(known) == 2, "it knows")
        server.pods["s0.ns.svc"] = ["s0-1"]
        discovery.hurry()
        await until(lambda: "s0-1" in known[0], "it has asked again")


def test_which_source_is_used(tmp_path: Path) -> None:
    token = tmp_path / "token"
    inside = {"KUBERNETES_SERVICE_HOST": "10.96.0.1"}
    nodes = {0: {"n": "127.0.0.1:1"}}
    names = {0: "s0.ns.svc"}
    assert mode_of(Settings(nodes=nodes), inside, token) == "static"
    everything = Settings(discovery="auto", nodes=nodes, dns_names=names)
    assert mode_of(everything, inside, token) == "dns", "a pod without a service account"
    token.write_text("secret")
    assert mode_of(everything, inside, token) == "kubernetes"
    assert mode_of(everything, {}, token) == "dns"
    assert mode_of(Settings(discovery="auto", nodes=nodes), {}, token) == "static"
    assert mode_of(Settings(discovery="dns", dns_names=names), inside, token) == "dns"
    assert mode_of(Settings(discovery="kubernetes"), {}, token) == "kubernetes"
    with pytest.raises(SettingsError, match="neither DOUGDB_DNS_NAMES nor DOUGDB_NODES"):
        mode_of(Settings(discovery="auto"), {}, token)


# What the facade does with what it is told.


def told(facade: Any) -> dict[int, dict[str, Target]]:
    return {s: {n: Target(a) for n, a in nodes.items()} for s, nodes in facade.cluster.addresses().items()}


async def test_a_node_that_moves_is_found_at_its_new_address(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=3)
    shard, leader = facade.cluster.shards[0], facade.cluster.shards[0].nodes[0]
    assert (await facade.http.put("/v1/kv/k", content=b"1")).status_code == 200
    old = facade.router.shards[0].nodes[leader.id]
    # Its old address goes on listening and never answers, as that of a machine that was cut off.
    leader.silent = True
    moved = type(leader)(shard, 0, free_port())
    await moved.start()
    shard.nodes[0] = shard.leader = moved
    facade.router.upkeep.update(told(facade))
    answer = await facade.http.put("/v1/kv/k", content=b"2")
    assert (answer.status_code, answer.headers["doug-served-by"]) == (200, leader.id)
    assert old.retired
    assert (len(leader.batches), len(moved.batches)) == (1, 1)
    assert facade.router.shards[0].listed[0].address == moved.address
    leader.silent = False
    await leader.stop()
    await moved.stop()


async def test_a_write_under_way_to_an_address_that_is_given_up_is_unknown_at_once(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=1, request_timeout_ms=8000)
    leader = facade.cluster.shards[0].nodes[0]
    leader.silent = True
    write = asyncio.create_task(facade.http.put("/v1/kv/k", content=b"1"))
    read = asyncio.create_task(facade.http.get("/v1/kv/k"))
    link = facade.router.shards[0].nodes[leader.id].link
    await facade.until(lambda: len(link.in_flight) == 2 and leader.batches, "both are under way")
    moved = type(leader)(leader.shard, 0, free_port())
    await moved.start()
    leader.shard.nodes[0] = leader.shard.leader = moved
    facade.router.upkeep.update(told(facade))
    assert ((await write).status_code, (await write).json()["outcome"]) == (504, "unknown")
    assert (await read).status_code == 404, "a read is simply asked again"
    leader.silent = False
    await leader.stop()
    await moved.stop()


async def test_a_node_that_is_told_by_its_address_instead_of_its_name_stays_connected(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=1)
    await facade.http.put("/v1/kv/k", content=b"1")
    node = facade.router.shards[0].nodes["shard-0-0"]
    name = node.address.split(":")[0]
    facade.router.upkeep.update({0: {"shard-0-0": Target("127.0.0.9:1", name)}})
    assert facade.router.shards[0].nodes["shard-0-0"] is node
    assert (await facade.http.put("/v1/kv/k", content=b"2")).status_code == 200
    facade.router.upkeep.update({0: {"shard-0-0": Target("127.0.0.10:1", name)}})
    assert node.retired, "now its address has changed"


async def test_a_node_that_is_no_longer_named_finishes_first(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=3)
    shard, leader = facade.cluster.shards[0], facade.cluster.shards[0].nodes[0]
    await facade.http.put("/v1/kv/k", content=b"1")
    targets = told(facade)
    del targets[0][leader.id]
    facade.router.upkeep.update(targets)
    assert (await facade.http.put("/v1/kv/k", content=b"2")).headers["doug-served-by"] == leader.id
    assert [node.id for node in facade.router.shards[0].listed] == ["shard-0-1", "shard-0-2"]
    known = facade.router.shards[0].nodes[leader.id]
    shard.nodes[1].lead()
    await leader.stop()
    # It is still a member, so a leader may name it again soon: as another one.
    await facade.until(lambda: known.retired, "it is forgotten")
    assert facade.router.shards[0].nodes.get(leader.id) is not known
    assert (await facade.http.put("/v1/kv/k", content=b"3")).status_code == 200
    facade.router.upkeep.update({0: {}})
    assert len(facade.router.shards[0].listed) == 2, "an empty list is not believed"


async def test_shards_and_nodes_may_be_found_one_after_the_other(make_facade: MakeFacade) -> None:
    facade = await make_facade(shards=2, nodes=1, ready=False, discovery="auto")
    targets = told(facade)
    assert (await facade.http.get("/readyz")).status_code == 503
    facade.router.upkeep.update({0: targets[0]})
    await facade.until(lambda: facade.router.map is not None, "the map is loaded")
    answer = await facade.http.get("/readyz")
    assert (answer.status_code, answer.json()["code"]) == (503, "starting"), "the map names a shard that is not found"
    facade.router.upkeep.update({1: targets[1]})
    await facade.until(lambda: facade.router.ready, "it became ready")
    for key in range(8):
        assert (await facade.http.put(f"/v1/kv/{key}", content=b"v")).status_code == 200
    assert sorted(shard["id"] for shard in (await facade.http.get("/v1/cluster")).json()["shards"]) == [0, 1]


async def test_trouble_makes_discovery_look_again(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=1)
    hurried = asyncio.Event()
    facade.router.upkeep.on_unreachable = hurried.set
    await facade.http.put("/v1/kv/k", content=b"1")
    assert not hurried.is_set()
    await facade.cluster.shards[0].nodes[0].stop()
    async with asyncio.timeout(60):
        await hurried.wait()
