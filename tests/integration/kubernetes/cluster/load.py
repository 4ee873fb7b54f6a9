"""A client that runs within the cluster: python -c LOAD HOST PORT RATE CLIENTS SEED [AUTHORITY]. Needs Python alone.

Puts and gets of a fixed rate, half of each, on keep-alive connections; with an authority, as PEM, over HTTPS with a
check of the server's name. It says ``started``, goes on until a line comes on stdin (or that ends, or `SECONDS_MAX` is
over), reads every key once more, and prints what it did and saw as one line of JSON: ``{"operations": [[client, kind,
key, value, call, returned, status], ...], "late": n, "connections": n}``. Times are of one monotonic clock, in seconds;
``returned`` is null, and ``status`` a text, when no whole answer came. ``connections`` is how many were opened, without
that of the last look. ``slow`` tells of each answer that took more than `SLOW_S` where its time went: ``[call,
milliseconds, those of them for a connection, the answer's Server-Timing, the node that answered]``.

Invariants:
    1. A request is sent once. A connection that the server has closed while it was idle is replaced before the request.
    2. A written value is unique in the whole run.
    3. A key is used for a bounded number of operations, so that each judgement stays small.
"""

from __future__ import annotations

import http.client
import itertools
import json
import random
import select
import socket
import ssl
import sys
import threading
import time

SECONDS_MAX = 7200.0
TIMEOUT_S = 15.0
CONNECT_S = 1.0
SLOW_S = 0.1
OPERATIONS_PER_KEY = 200


class Client:
    """One keep-alive connection to some pod of the Service."""

    def __init__(self, host: str, port: int, seed: int, context: ssl.SSLContext | None) -> None:
        self.host, self.port, self.context = host, port, context
        self.random = random.Random(seed)
        self.opened = 0
        self.connect_s = 0.0
        self.told: tuple[str, str] = "", ""
        self.connection: http.client.HTTPConnection | None = None

    def connect(self) -> http.client.HTTPConnection:
        """Opens a connection to an address of the Service that takes it, as a name with many addresses is used."""
        found = sorted({one[4][0] for one in socket.getaddrinfo(self.host, self.port, proto=socket.IPPROTO_TCP)})
        self.random.shuffle(found)
        reason: OSError = OSError("the name has no address")
        for address in found:
            connection = http.client.HTTPConnection(str(address), self.port, timeout=CONNECT_S)
            try:
                connection.connect()
                connection.sock.settimeout(TIMEOUT_S)
                if self.context is not None:
                    # The name, not the address, is what the certificate is good for.
                    connection.sock = self.context.wrap_socket(connection.sock, server_hostname=self.host)
            except OSError as error:
                connection.close()
                reason = error
                continue
            self.opened += 1
            return connection
        raise reason

    def request(self, method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
        """One exchange; how long a connection took for it, and what the answer's headers tell, is kept."""
        self.connect_s, self.told = 0.0, ("", "")
        connection = self.connection
        if connection is not None and select.select([connection.sock], [], [], 0)[0]:
            # Readable while nothing was asked: the server has closed it.
            connection.close()
            connection = None
        self.connection = None
        if connection is None:
            began_s = time.monotonic()
            connection = self.connect()
            self.connect_s = time.monotonic() - began_s
        try:
            connection.request(method, path, body)
            answer = connection.getresponse()
            seen = answer.status, answer.read()
            self.told = answer.getheader("Server-Timing", ""), answer.getheader("Doug-Served-By", "")
        except BaseException:
            connection.close()
            raise
        if answer.will_close:
            connection.close()
        else:
            self.connection = connection
        return seen


class Load:
    """All clients and what they did."""

    def __init__(self, host: str, port: int, rate: float, clients: int, seed: int, authority: str = "") -> None:
        self.rate, self.seed = rate, seed
        context = ssl.create_default_context(cadata=authority) if authority else None
        self.clients = [Client(host, port, seed + name, context) for name in range(clients)]
        self.reader = Client(host, port, seed, context)
        self.operations: list[list[object]] = []
        self.slow: list[tuple[float, float, float, str, str]] = []
        self.keys: list[str] = []
        self.late = 0
        self.stopped = threading.Event()
        self.numbers = itertools.count()
        self.lock = threading.Lock()

    def key(self) -> tuple[int, str]:
        """A number that no operation had before, and the key of this operation."""
        with self.lock:
            number = next(self.numbers)
            if number % OPERATIONS_PER_KEY == 0:
                self.keys.append(f"rolling/{self.seed}/{len(self.keys)}")
            return number, self.keys[-1]

    def operate(self, client: Client, name: int, kind: str, key: str, value: str | None) -> None:
        """One operation, recorded."""
        began_s = time.monotonic()
        record: list[object] = [name, kind, key, value, began_s, None, "unknown"]
        self.operations.append(record)
        try:
            body = value.encode() if kind == "put" and value is not None else None
            status, answer = client.request(kind.upper(), f"/v1/kv/{key}", body)
        except (OSError, http.client.HTTPException) as error:
            record[6] = f"{type(error).__name__}: {error}"
            return
        ended_s = time.monotonic()
        record[5], record[6] = ended_s, status
        if ended_s - began_s > SLOW_S:
            self.slow.append((began_s, 1000 * (ended_s - began_s), 1000 * client.connect_s, *client.told))
        if kind == "get" and status == 200:
            record[3] = answer.decode()

    def work(self, name: int, began_s: float) -> None:
        """One client: its share of the rate, at fixed times, whether answers are quick or not."""
        client = self.clients[name]
        every_s = len(self.clients) / self.rate
        due_s = began_s + name / self.rate
        while not self.stopped.wait(max(0.0, due_s - time.monotonic())):
            number, key = self.key()
            kind = "put" if client.random.random() < 0.5 else "get"
            self.operate(client, name, kind, key, str(number) if kind == "put" else None)
            due_s += every_s
            if due_s < time.monotonic() - 1:
                # More than a second behind: the rate is not kept, which the report has to say.
                self.late += 1
                due_s = time.monotonic()

    def run(self) -> None:
        """Runs until it is told to stop, then reads every key once more."""
        began_s = time.monotonic()
        threads = [threading.Thread(target=self.work, args=(name, began_s)) for name in range(len(self.clients))]
        for thread in threads:
            thread.start()
        print("started", flush=True)
        threading.Thread(target=self.listen, daemon=True).start()
        self.stopped.wait(SECONDS_MAX)
        self.stopped.set()
        for thread in threads:
            thread.join()
        ended_s = time.monotonic()
        requests, connections = len(self.operations), sum(client.opened for client in self.clients)
        for key in self.keys:
            self.operate(self.reader, len(self.clients), "get", key, None)
        report = {
            "operations": self.operations,
            "slow": sorted(self.slow, key=lambda one: one[1], reverse=True),
            "late": self.late,
            "requests": requests,
            "connections": connections,
            "seconds": ended_s - began_s,
        }
        print(json.dumps(report), flush=True)

    def listen(self) -> None:
        """Waits for the word to stop."""
        sys.stdin.readline()
        self.stopped.set()


if __name__ == "__main__":
    Load(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]), *sys.argv[6:]).run()
