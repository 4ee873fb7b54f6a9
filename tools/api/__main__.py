"""``make fuzz-api``: sends requests that the served OpenAPI allows and others that it forbids, and judges the answers.

All checks of schemathesis and those of ``tools.api.checks`` are made: no defect, nothing undocumented, no bad input
taken, no good input refused. The facade is one over fake nodes that this command starts, or the one that ``--url``
names. With ``--role`` clients must authenticate themselves, and the requests come from a client with that role, or from
a stranger.

The seed is printed, and so is the command that repeats the run. Exit codes: 0 no failure was found; 1 one was; 2 the
run could not be started.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from doug_wire.auth.document import BUILT_IN

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
SERVER = ROOT / "services/facade/tests/serve_fakes.py"
STRANGER = "stranger"
ROLES = (STRANGER, *BUILT_IN)
ENDLESS = ("/v1/watch", "/v1/console/stream")
"""The paths of endless streams. Only fakes end them after a moment, so they are left out with real nodes."""
EXAMPLES_MAX = 1000
REPLACED = "not_a_server_error,positive_data_acceptance,allow_header_conformance,unsupported_method"
"""The first two by healthy_nodes_serve and allowed_requests_are_taken of ``tools.api.checks``, which says why. Which
methods there are, and what ``Allow`` names, is in ``test_openapi_complete.py``: a path that ends with an action is a
key's as well, which OpenAPI cannot tell, and a stranger is not told which methods there are."""
NOTHING = "No test cases were generated"
"""The text that schemathesis prints, with exit code 0, if its time was over before it began."""


@contextlib.contextmanager
def fakes(*, auth: bool, plant: str = "") -> Iterator[tuple[str, dict[str, str]]]:
    """Starts a facade over fake nodes, with a planted fault or without; yields its URL, and tokens by role."""
    command = [sys.executable, str(SERVER), *(["--auth"] if auth else []), "--plant", plant]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin is not None and server.stdout is not None
        try:
            told = json.loads(server.stdout.readline() or "null")
            if told is None:
                raise SystemExit(2)
            yield told["url"], told["tokens"]
        finally:
            server.stdin.close()
            server.wait(30)


def run(
    url: str,
    *,
    seed: int,
    seconds: int,
    token: str | None = None,
    examples: int = EXAMPLES_MAX,
    more: tuple[str, ...] = (),
    role: str = "",
) -> int:
    """One run of schemathesis.

    Args:
        url: The URL of the facade.
        seed: The seed of the generated requests.
        seconds: How long the run may take.
        token: The token of the requests; None for none.
        examples: How many requests of each kind are sent for each operation at most.
        more: Further arguments of schemathesis.
        role: The role of the client, or stranger; empty if nobody has to say who they are.

    Returns:
        0 if no failure was found; 2 if no request was sent either.
    """
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(HERE / "schemathesis.toml")),
        *(
            "run",
            f"{url}/openapi.json",
            "--checks",
            "all",
            "--exclude-checks",
            REPLACED,
            "--seed",
            str(seed),
            "--max-time",
            str(seconds),
        ),
        *("--max-examples", str(examples), "--generation-database", "none", "--request-timeout", "60"),
        # How long it takes to think of a request says nothing about the answers.
        *("--suppress-health-check", "too_slow"),
        *("--continue-on-failure", "--no-color", "--warnings", "off", *more),
    ]
    if token is not None:
        command += ["--header", f"Authorization: Bearer {token}"]
    checks = HERE / {"": "checks.py", STRANGER: "stranger.py"}.get(role, "roles.py")
    environment = os.environ | {"API_CHECKS": str(checks), "no_proxy": "*", "PYTHONPATH": str(ROOT), "API_ROLE": role}
    nothing = False
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(command, env=environment, cwd=folder, stdout=subprocess.PIPE, text=True) as running,
    ):
        assert running.stdout is not None
        for line in running.stdout:
            print(line, end="", flush=True)
            nothing = nothing or NOTHING in line
        return running.wait() or (2 if nothing else 0)


def main() -> int:
    """Reads the arguments and runs it."""
    parser = argparse.ArgumentParser(prog="make fuzz-api", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=int, default=120, help="how long (120)")
    parser.add_argument(
        "--examples", type=int, default=EXAMPLES_MAX, help=f"how many requests of each kind at most ({EXAMPLES_MAX})"
    )
    parser.add_argument("--seed", type=int, help="a seed that was printed; a fresh one without it")
    parser.add_argument("--url", help="a facade that runs; without it one over fake nodes is started")
    parser.add_argument("--token", help="a token for it")
    parser.add_argument("--role", choices=ROLES, help="who sends the requests; nobody has to say it without this")
    parser.add_argument("--include", action="append", default=[], help="only these paths, as /v1/txn; may be repeated")
    parser.add_argument("--plant", default="", help="a fault of the facade over fake nodes, which has to be found")
    arguments = parser.parse_args()
    seed = secrets.randbelow(1 << 31) if arguments.seed is None else arguments.seed
    again = [f"--seed {seed}", f"--seconds {arguments.seconds}"]
    again += [f"--role {arguments.role}"] if arguments.role else []
    print(f'fuzz-api: seed {seed}; again: make fuzz-api ARGS="{" ".join(again)}"', flush=True)
    more = tuple(word for path in arguments.include for word in ("--include-path", path))
    limits = {"seconds": arguments.seconds, "examples": arguments.examples}
    if arguments.url:
        more += tuple(word for path in ENDLESS for word in ("--exclude-path", path))
        return run(arguments.url, seed=seed, token=arguments.token, more=more, **limits)
    with fakes(auth=arguments.role is not None, plant=arguments.plant) as (url, tokens):
        role = arguments.role or ""
        token = tokens.get(role)
        if arguments.plant:
            # A stranger that is served is always the same failure; the others may show in several ways.
            more += ("--max-failures", "1" if arguments.plant == "open" else "6")
        return run(url, seed=seed, token=token, more=more, role=role, **limits)


if __name__ == "__main__":
    sys.exit(main())
