"""Who may do what, in a real cluster: the steps of docs/kubernetes.md from a first token to an application's own.

One release is used in the order of these tests: with the first token, by an application, upgraded, and after the first
token is gone. Skipped with podman.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from functools import partial

import pytest
from bench.http11 import HttpError, fetch
from integration.kubernetes.cluster.driver import wait_for
from integration.kubernetes.cluster.helm import HELM_S, Release, namespace
from integration.kubernetes.cluster.kubectl import POD_NETWORK
from integration.kubernetes.cluster.scenarios.test_changes import trusted
from integration.kubernetes.cluster.scenarios.test_procedures import DOCUMENT, block, typed

BEGIN = "kubectl -n dougdb create secret generic dougdb-bootstrap"
FIRST, OWN = "dougdb-bootstrap", "backup-token"
BACKED_UP = ("--set", "backup.enabled=true")
MADE = ("dougdb-tls", "dougdb-session")
"""The Secrets that the chart makes by itself, once."""


def steps() -> list[str]:
    """The document's commands, without their remarks."""
    return [line.partition(" #")[0].strip() for line in block(BEGIN).splitlines()]


def asked_for() -> tuple[str, ...]:
    """The options of helm in the document."""
    (line,) = (line for line in steps() if line.startswith("helm "))
    return tuple(line.partition(" ... ")[2].split())


@pytest.fixture(scope="module")
def release(kind: str, tools: None) -> Iterator[Release]:
    if kind != "kubectl" or not os.environ.get(POD_NETWORK):
        pytest.skip("needs a real cluster whose pods are in reach, as make test-kube has it")
    if not shutil.which("bash") or not shutil.which("openssl"):
        pytest.skip("there is no bash, or no openssl")
    with namespace("guarded") as one:
        typed(one, steps()[0], {})
        one.deploy(*asked_for(), *BACKED_UP)
        one.secure = trusted(one)
        one.token = one.kubectl("get", "secret", FIRST, "--output", "go-template={{.data.token | base64decode}}")
        wait_for(lambda: one.put("config/colour", "green") == 200, HELM_S, "a put with the first token")
        try:
            yield one
        finally:
            print(one.shown())


def about_dougctl() -> str:
    """The document's paragraph on dougctl with TLS and tokens."""
    text = DOCUMENT.read_text()
    return text[text.index("With `tls.mode` other than `disabled`, every dougctl of this page needs") :].partition(
        "\n\n"
    )[0]


def ctl(release: Release, *words: str) -> str:
    """Calls dougctl in a facade's pod with the first token, as the document says."""
    found = re.search(r"`(--url \S+ --ca-file \S+)`(?s:.)*?`(--token-file \S+)`", about_dougctl())
    assert found
    options = " ".join(found.groups()).replace(".dougdb.svc", f".{release.namespace}.svc").split()
    return release.ctl(*options, *words)


def made(release: Release, *words: str) -> str:
    """The token that dougctl tells."""
    told = re.search(r"doug_\S+", ctl(release, *words))
    assert told
    return told[0]


def status(release: Release, token: str, method: str, path: str) -> int:
    """What somebody with this token is answered; 0 when nobody answers."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        answer = fetch(
            8080, method, path, host=release.address, headers=headers, timeout_s=15, secure=release.secure
        )  # fmt: skip
    except HttpError:
        return 0
    return answer.status


def addresses(release: Release) -> dict[str, str]:
    """The facades' pods and their addresses."""
    return {name: one["status"]["podIP"] for name, one in release.pods("facade").items()}


def known(release: Release, address: str, token: str) -> bool:
    """Whether one facade knows whose a token is."""
    headers = {"Authorization": f"Bearer {token}"}
    path = "/v1/auth/whoami"
    answer = fetch(8080, "GET", path, host=address, headers=headers, timeout_s=15, secure=release.secure)
    assert answer.status in (200, 401), answer
    return answer.status == 200


def unknown(release: Release, address: str, token: str) -> bool:
    """Whether one facade does not know it."""
    return not known(release, address, token)


def outcome(release: Release, job: str) -> str:
    """How a job has ended; empty while it has not."""
    conditions = release.json("get", "job", job)["status"].get("conditions", [])
    return next((one["type"] for one in conditions if one["type"] in ("Complete", "Failed")), "")


def backs_up(release: Release, job: str) -> None:
    """A backup by the CronJob succeeds."""
    release.kubectl("create", "job", "--from=cronjob/dougdb-backup", job)
    ended = wait_for(partial(outcome, release, job), HELM_S, "the backup to end")
    told = release.kubectl("logs", f"job/{job}", check=False)
    assert ended == "Complete" and "1 shards" in told, told


@pytest.fixture(scope="module")
def application(release: Release) -> str:
    """The token of an application that may only read `config/`, made as the document has it."""
    (line,) = (line for line in steps() if line.startswith("dougctl "))
    return made(release, *line.split()[1:])


def test_strangers_are_refused(release: Release) -> None:
    for token in ("", "nobody", f"{release.token}x"):
        for method, path in (("GET", "/v1/kv/config/colour"), ("PUT", "/v1/kv/x"), ("GET", "/metrics")):
            assert status(release, token, method, path) == 401, (token, path)


def test_an_application_reads_what_it_was_allowed_to_and_nothing_else(release: Release, application: str) -> None:
    for pod, address in addresses(release).items():
        # Every facade learns of a token within two seconds.
        wait_for(partial(known, release, address, application), HELM_S, f"{pod} to know the token")
    for method, path in (("PUT", "/v1/kv/config/colour"), ("GET", "/v1/kv/other"), ("GET", "/metrics")):
        assert status(release, application, method, path) == 403, (method, path)


def test_a_session_of_one_facade_counts_at_every_other(release: Release) -> None:
    """The chart gives all of them one key to sign with."""
    first, other = addresses(release).values()
    headers = {"Authorization": f"Bearer {release.token}"}
    path = "/v1/auth/session"
    begun = fetch(8080, "POST", path, host=first, headers=headers, timeout_s=15, secure=release.secure)
    assert begun.status == 201, begun
    session = {"Cookie": begun.headers["set-cookie"].partition(";")[0], "Doug-Csrf": begun.json()["csrf"]}
    for address in (first, other):
        known = fetch(
            8080, "GET", "/v1/auth/whoami", host=address, headers=session, timeout_s=15, secure=release.secure
        )
        assert (known.status, known.json()["principal"]) == (200, begun.json()["principal"])


def test_the_charts_own_test_and_its_backups_show_the_first_token(release: Release) -> None:
    run = release.helm("test", "dougdb", "--logs")
    assert run.returncode == 0, run.stdout + run.stderr
    backs_up(release, "first")


def test_an_upgrade_with_the_same_values_makes_no_other_secrets(release: Release) -> None:
    """Another authority would cut the nodes off from each other, another key would sign everybody out."""

    def secrets() -> dict[str, dict[str, str]]:
        return {name: release.json("get", "secret", name)["data"] for name in MADE}

    runs, before = release.runs(), secrets()
    release.deploy(*asked_for(), *BACKED_UP)
    manifest = release.helm("get", "manifest", "dougdb").stdout
    assert release.kubectl("diff", "--filename", "-", text=manifest) == ""
    assert (release.runs(), secrets()) == (runs, before)


def test_the_first_token_can_go(release: Release, application: str) -> None:
    """Who needs one has got one of its own; facades go on without the first one, and start without it."""
    administrator = made(release, "auth", "token", "create", "operator", "--role", "admin")
    own = made(release, "auth", "token", "create", "backups", "--allow", "admin:backup")
    release.kubectl("create", "secret", "generic", OWN, f"--from-literal=token={own}")
    release.deploy(*asked_for(), *BACKED_UP, "--set", f"auth.backupTokenSecret={OWN}")
    release.kubectl("delete", "secret", FIRST)
    first, release.token = release.token, administrator
    for pod, address in addresses(release).items():
        wait_for(partial(unknown, release, address, first), HELM_S, f"{pod} to refuse the first token")
    release.kubectl("rollout", "restart", "deployment/dougdb-facade", "statefulset/dougdb-s0")
    release.settled()
    wait_for(lambda: release.put("config/colour", "red") == 200, HELM_S, "a put by the administrator")
    assert status(release, application, "GET", "/v1/kv/config/colour") == 200
    assert status(release, application, "PUT", "/v1/kv/config/colour") == 403
    assert status(release, first, "GET", "/v1/kv/config/colour") == 401
    backs_up(release, "own")
