"""Tokens of service accounts, as a real API server makes them: a facade with the mode ``oidc`` knows whose they are.

docs/auth.md, Kubernetes service accounts. Skipped with podman.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from integration.kubernetes.cluster.helm import Release, namespace
from integration.kubernetes.cluster.kubectl import find_kubectl

from doug_wire.auth.bearers import BearerError, Bearers
from doug_wire.auth.issuer import Issuer

pytestmark = pytest.mark.first_day

AUDIENCE = "dougdb"


@pytest.fixture(scope="module")
def release(kind: str, tools: None) -> Iterator[Release]:
    if kind != "kubectl":
        pytest.skip("needs a real API server")
    with namespace("accounts") as one:
        yield one


def told(*words: str) -> str:
    """What kubectl prints."""
    return subprocess.run([find_kubectl(), *words], capture_output=True, text=True, timeout=60, check=True).stdout


async def test_a_service_account_is_a_principal(release: Release, tmp_path: Path) -> None:
    keys = tmp_path / "jwks.json"
    keys.write_text(told("get", "--raw", "/openid/v1/jwks"))
    issuer = json.loads(told("get", "--raw", "/.well-known/openid-configuration"))["issuer"]
    told("create", "serviceaccount", "app", "--namespace", release.namespace)

    def token(audience: str) -> str:
        words = ("--namespace", release.namespace, "--audience", audience, "--duration", "10m")
        return told("create", "token", "app", *words).strip()

    bearers = Bearers(Issuer(issuer, AUDIENCE, str(keys)), structlog.get_logger())
    await bearers.read()
    name = f"oidc:system:serviceaccount:{release.namespace}:app"
    assert bearers.judge(token(AUDIENCE)).name == name
    with pytest.raises(BearerError):
        bearers.judge(token("somebody-else"))
    header, claims, signature = token(AUDIENCE).split(".")
    with pytest.raises(BearerError):
        bearers.judge(".".join((header, claims, signature[:-4] + "AAAA")))
