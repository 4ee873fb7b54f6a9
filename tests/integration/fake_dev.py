"""A stand-in for ``dougctl dev``: sleeping processes with pid files and a facade that always reports leaders.

Started with the options of ``dougctl dev``. ``--broken`` ends at once with exit code 3, ``--mute`` never gets ready.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import FrameType

SLEEPER = [sys.executable, "-S", "-c", "import time; time.sleep(600)"]


def main() -> int:
    parser = argparse.ArgumentParser()
    for name in ("--shards", "--nodes", "--port", "--base-port"):
        parser.add_argument(name, type=int)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--broken", action="store_true")
    parser.add_argument("--mute", action="store_true")
    options = parser.parse_args()
    if options.broken:
        print("a port is taken")
        return 3
    run = options.data / "run"
    run.mkdir(parents=True, exist_ok=True)
    children = []
    shards = []
    for shard in range(options.shards):
        nodes = []
        for node in range(options.nodes):
            name = f"shard-{shard}-{node}"
            child = subprocess.Popen(SLEEPER, start_new_session=True)
            children.append(child)
            (run / f"{name}.pid").write_text(f"{child.pid}\n")
            (run / f"{name}.log").write_text(f"{name} sleeps\n")
            nodes.append(
                {
                    "id": name,
                    "address": f"127.0.0.1:{options.base_port + 2 * node}",
                    "admin": f"http://127.0.0.1:{options.base_port + 2 * node + 1}",
                    "role": "follower" if node else "leader",
                    "term": 3 + shard,
                    "commit_index": 7,
                    "applied_index": 7,
                    "last_log_index": 7,
                }
            )
        shards.append({"id": shard, "nodes": nodes})

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            documents = {
                "/v1/cluster": {"shards": shards},
                "/v1/partitions": {
                    "epoch": 1,
                    "slots": [{"from": 0, "to": 511, "shard": 0}, {"from": 512, "to": 1023, "shard": 1}],
                },
            }
            body = json.dumps(documents.get(self.path, {})).encode()
            self.send_response(503 if options.mute else 200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    def stop(number: int, frame: FrameType | None) -> None:
        for child in children:
            child.kill()
            child.wait()
        sys.exit(0)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    server = ThreadingHTTPServer(("127.0.0.1", options.port), Handler)
    server.daemon_threads = True
    print(f"http://127.0.0.1:{options.port}", flush=True)
    server.serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main())
