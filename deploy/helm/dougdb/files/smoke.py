"""Checks a running cluster through its facade: python smoke.py URL SHARDS. Needs nothing but Python.

On every shard: it has a leader, and a key can be put, read in both consistencies, and deleted. Exit code 1 and a reason
if not. A facade that is not ready yet, and a shard that is electing, are waited for. ``DOUGDB_TOKEN`` is sent where it
is set.
"""

from __future__ import annotations

import json
import os
import sys
import time
import urllib.error
import urllib.request
import uuid

WAIT_S = 60.0
TIMEOUT_S = 10.0
KEYS_MAX = 2000


class Failed(Exception):  # noqa: N818 - it becomes the message
    """The cluster does not do what it should."""


def call(method: str, url: str, body: bytes | None = None) -> tuple[int, dict[str, str], bytes]:
    """One request; an answer with an error status is an answer."""
    token = os.environ.get("DOUGDB_TOKEN", "")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    request = urllib.request.Request(url, data=body, headers=headers, method=method)  # noqa: S310 - of the operator
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310
            return answer.status, dict(answer.headers), answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, dict(error.headers), error.read()


def wait_for_leaders(url: str, shards: int) -> None:
    """Returns once every shard has a leader."""
    until = time.monotonic() + WAIT_S
    while True:
        reason = "the facade does not answer"
        try:
            status, _, body = call("GET", f"{url}/v1/cluster")
            reason = f"/v1/cluster answers {status}"
            if status == 200:
                found = json.loads(body)["shards"]
                led = [shard["id"] for shard in found if any(node["role"] == "leader" for node in shard["nodes"])]
                reason = f"{len(found)} of {shards} shards are known, with a leader: {led}"
                if len(found) == shards == len(led):
                    return
        except OSError as error:
            reason = f"the facade does not answer: {error}"
        if time.monotonic() > until:
            raise Failed(reason)
        time.sleep(1)


def expect(what: str, answer: tuple[int, dict[str, str], bytes], status: int, body: bytes | None = None) -> None:
    """Raises if the answer is another one."""
    if answer[0] != status or (body is not None and answer[2] != body):
        raise Failed(f"{what}: expected {status} {body!r}, got {answer[0]} {answer[2][:200]!r}")


def read_until(what: str, url: str, body: bytes) -> None:
    """An eventual read may be a moment behind; it must not stay there."""
    until = time.monotonic() + TIMEOUT_S
    while True:
        answer = call("GET", url)
        if answer[0] == 200 and answer[2] == body:
            return
        if time.monotonic() > until:
            expect(what, answer, 200, body)
        time.sleep(0.1)


def check_shard(shard: str, url: str, value: bytes) -> None:
    """Reads and deletes the key that was put."""
    expect(f"shard {shard}: linearizable get", call("GET", url), 200, value)
    read_until(f"shard {shard}: eventual get", f"{url}?consistency=eventual", value)
    expect(f"shard {shard}: delete", call("DELETE", url), 204)
    expect(f"shard {shard}: get after delete", call("GET", url), 404)


def check(url: str, shards: int) -> None:
    """Checks every shard."""
    wait_for_leaders(url, shards)
    run, done = uuid.uuid4().hex, set[str]()
    for number in range(KEYS_MAX):
        key = f"{url}/v1/kv/helm-test/{run}/{number}"
        value = f"value-{run}-{number}".encode()
        answer = call("PUT", key, value)
        expect("put", answer, 200)
        shard = {name.lower(): text for name, text in answer[1].items()}["doug-shard"]
        if shard in done:
            expect("delete", call("DELETE", key), 204)
            continue
        check_shard(shard, key, value)
        done.add(shard)
        print(f"shard {shard}: put, linearizable and eventual get, delete: ok")
        if len(done) == shards:
            return
    raise Failed(f"no key of {KEYS_MAX} was of another shard than {sorted(done)}")


def main() -> int:
    """Runs the command line."""
    if len(sys.argv) != 3 or not sys.argv[2].isdigit():
        print("usage: smoke.py URL SHARDS", file=sys.stderr)
        return 2
    try:
        check(sys.argv[1].rstrip("/"), int(sys.argv[2]))
    except (Failed, OSError, KeyError, ValueError) as error:
        print(f"FAILED: {error}", file=sys.stderr)
        return 1
    print("every shard has a leader and serves")
    return 0


if __name__ == "__main__":
    sys.exit(main())
