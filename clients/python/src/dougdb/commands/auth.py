"""``dougctl auth``: shows the caller's rights, and changes the tokens, roles and users of a cluster."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.table import Table

from dougdb.access import AccessClient
from dougdb.commands.common import (
    ExitCode,
    JsonOption,
    fail,
    print_json,
    print_table,
    printable,
    remote,
    tls_of,
    url_of,
)

app = typer.Typer(help="Manage who may do what: tokens, roles, users.", no_args_is_help=True)
token_app = typer.Typer(help="Make, list and revoke the tokens that clients send.", no_args_is_help=True)
role_app = typer.Typer(help="Manage roles and the principals that have them.", no_args_is_help=True)
app.add_typer(token_app, name="token")
app.add_typer(role_app, name="role")

AllowOption = Annotated[
    list[str] | None,
    typer.Option(
        "--allow",
        metavar="VERB[:PREFIX]",
        help="read:PREFIX, write:PREFIX, watch:PREFIX (read:* is all keys), admin:members, admin:backup, admin:auth or "
        "metrics; repeatable.",
    ),
]
NameArgument = Annotated[str, typer.Argument(help="The name.", show_default=False)]
PrincipalArgument = Annotated[
    str, typer.Argument(help="token:NAME, cert:NAME, oidc:SUBJECT or group:NAME.", show_default=False)
]


KEY_VERBS = ("read", "write", "watch")
OTHER_VERBS = ("metrics", "admin:members", "admin:backup", "admin:auth")


@app.callback()
def auth() -> None:
    """Manage who may do what: tokens, roles, users."""


def _client(context: typer.Context) -> AccessClient:
    try:
        return AccessClient(url_of(context), **tls_of(context))
    except ValueError as error:
        fail(str(error), ExitCode.USAGE)


def _show_token(made: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(made)
        return
    # The token alone goes to stdout, so that it can be kept without being looked at.
    print(made["token"])
    allowed = ", ".join([*made["allow"], *(f"role {role}" for role in made["roles"])])
    until = f", until {made['expires_at']}" if made["expires_at"] else ""
    typer.echo(f"{made['principal']} may: {printable(allowed)}{until}. The token is shown this once.", err=True)


@app.command()
@remote
def init(context: typer.Context, as_json: JsonOption = False) -> None:
    """Make the first token, admin, which may do everything. DOUGDB_TOKEN must be the bootstrap token."""
    with _client(context) as client:
        _show_token(client.init(), as_json=as_json)


@app.command()
@remote
def whoami(context: typer.Context, as_json: JsonOption = False) -> None:
    """Show your principal and your rights."""
    with _client(context) as client:
        found = client.whoami()
    if as_json:
        print_json(found)
        return
    print(printable(found["principal"]) or "anyone: nobody has to say who they are here")
    for grant in found["allow"]:
        print(f"  {printable(grant)}")


@app.command("can-i")
@remote
def can_i(
    context: typer.Context,
    *,
    verb: Annotated[str, typer.Argument(help="read, write, watch, admin:members, ...", show_default=False)],
    key: Annotated[str | None, typer.Argument(help="The key.", show_default=False)] = None,
    prefix: Annotated[
        str | None, typer.Option("--prefix", help="All keys that begin with this, instead of a key.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Check whether you may use a verb: prints yes with exit code 0, no with exit code 1."""
    if key is not None and prefix is not None:
        fail("give a KEY or --prefix", ExitCode.USAGE)
    if verb in KEY_VERBS and key is None and prefix is None:
        fail(f"{verb} what? give a KEY, or --prefix", ExitCode.USAGE)
    if verb in OTHER_VERBS and (key is not None or prefix is not None):
        fail(f"{verb} is not about keys: leave KEY and --prefix out", ExitCode.USAGE)
    if verb not in (*KEY_VERBS, *OTHER_VERBS):
        fail(f"a verb is one of {', '.join((*KEY_VERBS, *OTHER_VERBS))}, not {verb!r}", ExitCode.USAGE)
    with _client(context) as client:
        allowed = client.can_i(verb, key=key, prefix=prefix)
    if as_json:
        print_json({"allowed": allowed})
    else:
        print("yes" if allowed else "no")
    if not allowed:
        raise typer.Exit(ExitCode.FAILURE)


@token_app.command("create")
@remote
def create_token(
    context: typer.Context,
    *,
    name: NameArgument,
    allow: AllowOption = None,
    role: Annotated[list[str] | None, typer.Option("--role", help="A role of the token; repeatable.")] = None,
    ttl: Annotated[
        str | None, typer.Option("--ttl", help="How long the token is valid: 12h, 30d; for ever if left out.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make a token and print it. It cannot be shown again."""
    with _client(context) as client:
        _show_token(client.create_token(name, allow=allow, roles=role, ttl=ttl), as_json=as_json)


@token_app.command("list")
@remote
def list_tokens(context: typer.Context, as_json: JsonOption = False) -> None:
    """List all tokens without their secrets, with their own grants and those of their roles."""
    with _client(context) as client:
        found = client.tokens()
        grants = {role["name"]: role["allow"] for role in client.roles()}
        given = {user["principal"]: user["roles"] for user in client.users()}
    # A token may also have been given roles after it was made, and has what its roles may.
    for token in found:
        names = [*token["roles"], *given.get(f"token:{token['name']}", ())]
        token["all_roles"] = list(dict.fromkeys(names))
        may = [*token["allow"], *(grant for role in token["all_roles"] for grant in grants.get(role, ()))]
        token["may"] = list(dict.fromkeys(may))
    if as_json:
        print_json({"tokens": found})
        return
    table = Table("NAME", "MAY", "ROLES", "EXPIRES", "LAST USED", box=None)
    for token in found:
        roles, allow = ", ".join(token["all_roles"]), ", ".join(token["may"])
        ends = f"expired {token['expires_at']}" if token.get("expired") else token["expires_at"] or "never"
        when = (ends, token["last_used_at"] or "")
        table.add_row(token["name"], printable(allow), roles, *when)
    print_table(table)


@token_app.command("revoke")
@remote
def revoke_token(context: typer.Context, name: NameArgument, as_json: JsonOption = False) -> None:
    """Revoke a token; within two seconds all facades refuse it."""
    with _client(context) as client:
        left = client.revoke_token(name)
    if as_json:
        print_json({"revoked": name, "tokens": left})
    else:
        print("OK")


def _show_roles(found: list[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        print_json({"roles": found})
        return
    table = Table("ROLE", "MAY", "", box=None)
    for role in found:
        table.add_row(role["name"], printable(", ".join(role["allow"])), "built in" if role["built_in"] else "")
    print_table(table)


def _show_users(found: list[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        print_json({"users": found})
        return
    table = Table("PRINCIPAL", "ROLES", box=None)
    for user in found:
        table.add_row(printable(user["principal"]), ", ".join(user["roles"]))
    print_table(table)


@role_app.command("list")
@remote
def list_roles(context: typer.Context, as_json: JsonOption = False) -> None:
    """List all roles with their grants."""
    with _client(context) as client:
        _show_roles(client.roles(), as_json=as_json)


@role_app.command("create")
@remote
def set_role(
    context: typer.Context, *, name: NameArgument, allow: AllowOption = None, as_json: JsonOption = False
) -> None:
    """Make a role, or replace its grants."""
    if not allow:
        fail("say what the role may do: --allow read:config/", ExitCode.USAGE)
    with _client(context) as client:
        _show_roles(client.set_role(name, allow), as_json=as_json)


@role_app.command("delete")
@remote
def delete_role(context: typer.Context, name: NameArgument, as_json: JsonOption = False) -> None:
    """Delete a role, and take it from all principals that have it."""
    with _client(context) as client:
        _show_roles(client.delete_role(name), as_json=as_json)


@role_app.command("users")
@remote
def list_users(context: typer.Context, as_json: JsonOption = False) -> None:
    """List the principals that were given roles; roles that tokens were made with are not listed."""
    with _client(context) as client:
        _show_users(client.users(), as_json=as_json)


@role_app.command("grant")
@remote
def grant_role(
    context: typer.Context, *, name: NameArgument, principal: PrincipalArgument, as_json: JsonOption = False
) -> None:
    """Give a principal a role."""
    with _client(context) as client:
        _show_users(client.grant_role(name, principal), as_json=as_json)


@role_app.command("revoke")
@remote
def take_role(
    context: typer.Context, *, name: NameArgument, principal: PrincipalArgument, as_json: JsonOption = False
) -> None:
    """Take a role from a principal."""
    with _client(context) as client:
        _show_users(client.take_role(name, principal), as_json=as_json)
