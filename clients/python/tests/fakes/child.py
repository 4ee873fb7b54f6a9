"""A stand-in for a node or a facade: serves a status, logs JSON lines, and stops when it is told to.

As the real programs do, it reads its settings from the environment, ends on SIGTERM and at the end of its stdin, and
logs one JSON object per line to stderr. FAKE_IGNORE_TERM, FAKE_EXIT and FAKE_WARN name the child that misbehaves.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

NAME = os.environ.get("DOUGDB_NODE_ID") or os.environ["DOUGDB_FACADE_ID"]


def log(level: str, event: str, **fields: object) -> None:
    print(json.dumps({"event": event, "level": level, "timestamp": "now", **fields}), file=sys.stderr, flush=True)


def cluster() -> dict[str, object]:
    shards = []
    for shard, nodes in json.loads(os.environ["DOUGDB_NODES"]).items():
        roles = ["leader"] + ["follower"] * (len(nodes) - 1)
        pairs = zip(nodes.items(), roles, strict=True)
        shards.append(
            {"id": int(shard), "nodes": [{"id": n, "address": a, "admin": "", "role": r} for (n, a), r in pairs]}
        )
    return {"shards": shards}


class Answers(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = b"{}" if self.path == "/readyz" else json.dumps(cluster()).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


def stop(*_: object) -> None:
    log("info", "stopped")
    os._exit(0)


def main() -> None:
    if os.environ.get("FAKE_EXIT", "").startswith(NAME + "="):
        log("error", "node.refused", reason="wal/1.wal: damaged at offset 7: the checksum does not fit")
        sys.exit(int(os.environ["FAKE_EXIT"].partition("=")[2]))
    ignored = os.environ.get("FAKE_IGNORE_TERM") == NAME
    signal.signal(signal.SIGTERM, signal.SIG_IGN if ignored else stop)
    if "DOUGDB_LISTEN" in os.environ:
        port = int(os.environ["DOUGDB_LISTEN"].split(",")[0].rpartition(":")[2])
        server = ThreadingHTTPServer(("127.0.0.1", port), Answers)
        threading.Thread(target=server.serve_forever, daemon=True).start()
    else:
        for purpose in ("CLIENT", "PEER", "ADMIN"):
            host, port_text = os.environ[f"DOUGDB_{purpose}_LISTEN"].split(":")
            listener = socket.create_server((host, int(port_text)))
            assert listener
            globals()[purpose] = listener
        if NAME.endswith("-0"):
            log("info", "raft.became_leader", term=1)
    log("info", "started", pid=os.getpid())
    if os.environ.get("FAKE_WARN") == NAME:
        log("warning", "disk.slow", fsync_ms=900)
    while sys.stdin.buffer.read(1):
        time.sleep(0)
    stop()


if __name__ == "__main__":
    main()
