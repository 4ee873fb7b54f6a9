"""``dougctl auth``, every command of it, against a facade over fake nodes whose clients have to say who they are."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from tools.api.__main__ import fakes
from typer.testing import CliRunner

from doug_wire.auth.document import BUILT_IN
from dougdb.cli import app

pytestmark = [pytest.mark.integration, pytest.mark.light, pytest.mark.seconds]

RUNNER = CliRunner()


class Person:
    """Somebody with dougctl and a token."""

    def __init__(self, url: str, token: str) -> None:
        self._environment = {"DOUGDB_URL": url, "DOUGDB_TOKEN": token, "COLUMNS": "200"}

    def runs(self, *words: str) -> Any:
        return RUNNER.invoke(app, list(words), env=self._environment)

    def succeeds(self, *words: str) -> str:
        done = self.runs(*words)
        assert done.exit_code == 0, (words, done.output)
        return str(done.stdout)

    def tells(self, *words: str) -> Any:
        return json.loads(self.succeeds(*words, "--json"))


@pytest.fixture(scope="module")
def made() -> Iterator[tuple[Person, str, Any]]:
    """Whoever has the bootstrap token, the facade's URL, and what the first ``auth init`` told."""
    with fakes(auth=True) as (url, tokens):
        bootstrap = Person(url, tokens["bootstrap"])
        refused = bootstrap.runs("auth", "init")
        assert (refused.exit_code, "already" in refused.stderr) == (1, True), "not beside other tokens"
        for name in BUILT_IN:
            bootstrap.succeeds("auth", "token", "revoke", name)
        yield bootstrap, url, bootstrap.tells("auth", "init")


@pytest.fixture
def admin(made: tuple[Person, str, Any]) -> Person:
    """Whoever has the first token."""
    return Person(made[1], made[2]["token"])


@pytest.fixture
def url(made: tuple[Person, str, Any]) -> str:
    return made[1]


def test_the_first_token_may_do_everything_and_is_made_once(made: tuple[Person, str, Any], admin: Person) -> None:
    bootstrap, _, told = made
    assert (told["principal"], told["roles"]) == ("token:admin", ["admin"])
    assert bootstrap.runs("auth", "init").exit_code == 1
    assert admin.tells("auth", "whoami")["principal"] == "token:admin"
    for verb in ("admin:auth", "admin:members", "admin:backup", "metrics"):
        assert admin.succeeds("auth", "can-i", verb) == "yes\n"
    assert admin.tells("auth", "can-i", "write", "--prefix", "") == {"allowed": True}


def test_a_token_is_told_once_and_may_do_what_it_was_made_for(admin: Person, url: str) -> None:
    granted = ("--allow", "read:config/", "--allow", "write:app/", "--role", "monitor", "--ttl", "12h")
    told = admin.tells("auth", "token", "create", "app", *granted)
    assert (told["allow"], told["roles"]) == (["read:config/", "write:app/"], ["monitor"])
    assert told["expires_at"] is not None
    app_ = Person(url, told["token"])
    for words, allowed in (
        (("read", "config/a"), True), (("read", "app/a"), False), (("write", "app/a"), True),
        (("write", "--prefix", "app/"), True), (("write", "--prefix", "ap"), False), (("metrics",), True),
        (("admin:auth",), False),
    ):  # fmt: skip
        done = app_.runs("auth", "can-i", *words)
        assert (done.exit_code, done.stdout) == ((0, "yes\n") if allowed else (1, "no\n")), words
    assert app_.runs("put", "app/a", "v").exit_code == 0
    refused = app_.runs("put", "config/a", "v")
    assert (refused.exit_code, "write" in refused.stderr) == (1, True)
    (listed,) = [each for each in admin.tells("auth", "token", "list")["tokens"] if each["name"] == "app"]
    assert listed["may"] == ["read:config/", "write:app/", "metrics"]
    for shown in (admin.succeeds("auth", "token", "list"), json.dumps(listed)):
        assert told["token"].rpartition("_")[2] not in shown
    text = admin.runs("auth", "token", "create", "plain", "--allow", "read:*")
    assert text.stdout.startswith("doug_") and text.stdout.count("\n") == 1, "the token alone, so that it can be kept"
    assert "shown this once" in text.stderr and text.stdout.strip() not in text.stderr
    again = admin.runs("auth", "token", "create", "app", "--allow", "read:*")
    assert (again.exit_code, again.stdout) == (1, "")
    assert admin.succeeds("auth", "token", "revoke", "app") == "OK\n"
    assert admin.tells("auth", "token", "revoke", "plain")["revoked"] == "plain"
    assert app_.runs("auth", "whoami").exit_code == 1
    assert admin.runs("auth", "token", "revoke", "app").exit_code == 1


def test_roles_are_made_given_taken_and_deleted(admin: Person, url: str) -> None:
    person = Person(url, admin.tells("auth", "token", "create", "person", "--allow", "metrics")["token"])

    def roles() -> dict[str, list[str]]:
        return {each["name"]: each["allow"] for each in admin.tells("auth", "role", "list")["roles"]}

    def may() -> bool:
        return bool(person.runs("auth", "can-i", "write", "jobs/a").exit_code == 0)

    assert BUILT_IN.keys() == roles().keys()
    assert admin.runs("auth", "role", "create", "jobs").exit_code == 2, "a role that may do nothing is of no use"
    admin.succeeds("auth", "role", "create", "jobs", "--allow", "write:jobs/", "--allow", "read:jobs/")
    assert roles()["jobs"] == ["read:jobs/", "write:jobs/"]
    assert not may()
    for principal in ("token:person", "cert:ann", "oidc:bob", "group:ops"):
        admin.succeeds("auth", "role", "grant", "jobs", principal)
    users = {each["principal"]: each["roles"] for each in admin.tells("auth", "role", "users")["users"]}
    assert users == {each: ["jobs"] for each in ("token:person", "cert:ann", "oidc:bob", "group:ops")}
    assert may()
    admin.succeeds("auth", "role", "revoke", "jobs", "token:person")
    assert not may()
    admin.succeeds("auth", "role", "grant", "jobs", "token:person")
    assert may()
    admin.succeeds("auth", "role", "create", "jobs", "--allow", "read:jobs/")
    assert not may(), "its grants were replaced"
    assert "cert:ann" in admin.succeeds("auth", "role", "users") and "jobs" in admin.succeeds("auth", "role", "list")
    admin.succeeds("auth", "role", "delete", "jobs")
    assert BUILT_IN.keys() == roles().keys() and admin.tells("auth", "role", "users") == {"users": []}
    for refused in (
        ("role", "grant", "jobs", "cert:ann"), ("role", "delete", "jobs"), ("role", "delete", "admin"),
        ("role", "create", "admin", "--allow", "metrics"), ("role", "grant", "admin", "nobody"),
        ("role", "revoke", "reader", "cert:ann"), ("token", "create", "x"), ("token", "create", "x", "--allow", "all"),
        ("token", "create", "x", "--role", "jobs"), ("token", "create", "x", "--allow", "metrics", "--ttl", "soon"),
    ):  # fmt: skip
        done = admin.runs("auth", *refused)
        assert done.exit_code in (1, 2) and done.stdout == "" and done.stderr.startswith("dougctl: "), (
            refused,
            done.output,
        )


def test_who_may_not_change_users_is_told_which_right_is_missing(admin: Person, url: str) -> None:
    reader = Person(url, admin.tells("auth", "token", "create", "looker", "--role", "reader")["token"])
    assert reader.tells("auth", "whoami") == {
        **admin.tells("auth", "whoami"), "principal": "token:looker", "allow": ["read:*", "watch:*"],
    }  # fmt: skip
    for refused in (
        ("token", "list"), ("token", "create", "x", "--allow", "read:*"), ("token", "revoke", "looker"),
        ("role", "list"), ("role", "users"), ("role", "create", "x", "--allow", "read:*"), ("role", "delete", "x"),
        ("role", "grant", "admin", "token:looker"), ("role", "revoke", "reader", "token:looker"), ("init",),
    ):  # fmt: skip
        done = reader.runs("auth", *refused)
        assert (done.exit_code, "admin:auth" in done.stderr) == (1, True), (refused, done.output)
    assert reader.runs("auth", "can-i", "admin:auth").exit_code == 1
