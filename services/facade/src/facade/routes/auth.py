"""/v1/auth: who one is and what one may do, and roles, users and tokens for those who look after them.

Must not know how somebody proves who they are, nor where roles, users and tokens are kept. Invariants: (1) a token is
told once, by the answer that made it, and its secret is nowhere in the facade; (2) every change is in the audit log.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Annotated, NamedTuple, Protocol

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from doug_wire.auth import tokens
from doug_wire.auth.document import (
    BUILT_IN,
    EMPTY,
    TOKEN,
    Document,
    DocumentError,
    Held,
    MissingError,
    TakenError,
    TokenRecord,
)
from doug_wire.auth.grants import ALL, KEYED, Grant, GrantError, KeyRange, Rights, Target, Verb, authorize, parse_grant
from doug_wire.scan import after_prefix
from facade.client.access import Access, Caller, current
from facade.client.auth_state import AuthState
from facade.errors import BadRequestError, ProblemError
from facade.models import Problem
from facade.routes.durations import timestamp, ttl_ms
from facade.routes.strict import StrictRoute
from facade.settings import Settings

NAME = Field(min_length=1, max_length=200)
GRANTS_MAX = 256

Tell = Callable[[Caller, str, str], None]


class _View(BaseModel):
    model_config = ConfigDict(extra="forbid")


class WhoamiView(_View):
    """Who asks, and what they may do."""

    principal: str
    mode: list[str]
    allow: list[str]
    expires_at: str | None = None


class CanView(_View):
    """Whether something is allowed to whoever asks."""

    allowed: bool
    principal: str
    verb: str


class SessionView(_View):
    """A browser has signed in; the cookie goes beside it."""

    principal: str
    csrf: str = Field(description="What every request of the session has in Doug-Csrf, beside the cookie")
    expires_at: str


class Session(NamedTuple):
    """A session of a browser that has just begun.

    Attributes:
        csrf: What every request of it has to have in ``Doug-Csrf``.
        set_cookie: The header that gives the browser its cookie.
        expires_s: When it ends, in seconds since the epoch.
    """

    csrf: str
    set_cookie: str
    expires_s: float


class Sessions(Protocol):
    """Begins sessions of browsers, and ends them."""

    def sign_in(self, access: Access, *, secure: bool) -> Session:
        """Begins one of whoever has shown a token; ``secure`` is whether the browser came by TLS.

        Raises:
            BadRequestError: They have shown none.
        """

    def sign_out(self, access: Access, *, secure: bool) -> str:
        """Ends the one that a request came with; returns the header that takes the cookie.

        Raises:
            BadRequestError: It came with none.
        """


class NewToken(_View):
    """A token to be made."""

    name: str = NAME
    allow: list[str] = Field(default_factory=list, max_length=GRANTS_MAX)
    roles: list[str] = Field(default_factory=list, max_length=GRANTS_MAX)
    ttl: str | None = Field(default=None, max_length=32)


class MadeToken(_View):
    """A token that was made; it is never told again."""

    token: str
    name: str
    principal: str
    allow: list[str]
    roles: list[str]
    expires_at: str | None


class TokenView(_View):
    """What is known of a token."""

    name: str
    id: str
    allow: list[str]
    roles: list[str]
    created_at: str
    expires_at: str | None
    last_used_at: str | None


class TokensView(_View):
    """All tokens."""

    tokens: list[TokenView]


class RoleGrants(_View):
    """What a role allows."""

    allow: list[str] = Field(max_length=GRANTS_MAX)


class RoleView(_View):
    """A role."""

    name: str
    allow: list[str]
    built_in: bool


class RolesView(_View):
    """All roles."""

    roles: list[RoleView]


class UserRole(_View):
    """A role of a principal."""

    principal: str = NAME
    role: str = NAME


class UserView(_View):
    """What a principal has."""

    principal: str
    roles: list[str]


class UsersView(_View):
    """All principals that have something, but for tokens."""

    users: list[UserView]


def _problems(*statuses: int) -> dict[int | str, dict[str, object]]:
    return {status: {"model": Problem} for status in (401, 403, *statuses)}


_CHANGES = _problems(400, 404, 409, 503, 504, 507)


def _grants(texts: list[str]) -> tuple[Grant, ...]:
    try:
        return tuple(sorted({parse_grant(text) for text in texts}))
    except GrantError as error:
        raise BadRequestError("bad_auth", f"{error}.") from None


def _shown(grants: tuple[Grant, ...]) -> list[str]:
    return [str(grant) for grant in grants]


def _when(time_ms: int) -> str | None:
    return timestamp(time_ms) if time_ms else None


def _token_view(name: str, record: TokenRecord) -> TokenView:
    return TokenView(
        name=name,
        id=record.id,
        allow=_shown(record.held.allow),
        roles=list(record.held.roles),
        created_at=timestamp(record.created_ms),
        expires_at=_when(record.expires_ms),
        last_used_at=_when(record.used_ms),
    )


def _only(*names: str) -> Callable[[Request], None]:
    def refuse_others(request: Request) -> None:
        given = [name for name, _ in request.query_params.multi_items()]
        for name in given:
            if name not in names or given.count(name) > 1:
                known = ", ".join(names) or "none"
                raise BadRequestError("unknown_parameter", f"Query parameter {name[:64]!r}; known, once each: {known}.")

    return refuse_others


def _disabled() -> BadRequestError:
    detail = "Nobody has to say who they are here: DOUGDB_AUTH_MODE is none."
    return BadRequestError("auth_disabled", detail, status=409)


class _Users:
    """Changes roles, users and tokens."""

    def __init__(self, state: AuthState | None, tell: Tell, now_s: Callable[[], float]) -> None:
        self._state = state
        self._tell = tell
        self._now_s = now_s

    @property
    def state(self) -> AuthState:
        """Where they are.

        Raises:
            BadRequestError: 409; nobody has to say who they are, and so nobody may say who may do what.
        """
        if self._state is None:
            raise _disabled()
        return self._state

    async def change(self, make: Callable[[Document], Document], what: str, name: str) -> Document:
        """Changes them.

        Raises:
            ProblemError: It cannot be done.
        """
        try:
            made = await self.state.change(make)
        except MissingError as error:
            raise BadRequestError("bad_auth", f"{error}.", status=404) from None
        except TakenError as error:
            raise BadRequestError("bad_auth", f"{error}.", status=409) from None
        except DocumentError as error:
            raise BadRequestError("bad_auth", f"{error}.") from None
        self._tell(current.get(), what, name)
        return made

    async def make_token(self, wanted: NewToken, *, first: bool = False) -> MadeToken:
        """Makes a token; ``first`` is whether only one that comes before all others will do."""
        ttl = ttl_ms(wanted.ttl.encode(), may_keep=False) if wanted.ttl is not None else 0
        held = Held(_grants(wanted.allow), tuple(sorted(set(wanted.roles))))
        if held == Held():
            raise BadRequestError("bad_auth", "A token that may do nothing is of no use: name what to allow, or roles.")
        made, now_ms = tokens.mint(), int(self._now_s() * 1000)
        record = TokenRecord(made.id, made.salt, made.digest, held, now_ms, now_ms + ttl if ttl else 0)

        def add(document: Document) -> Document:
            if first and document != EMPTY:
                raise TakenError("there are roles, users or tokens already")
            return document.with_token(wanted.name, record)

        await self.change(add, "token created", wanted.name)
        return MadeToken(
            token=made.text,
            name=wanted.name,
            principal=f"{TOKEN}:{wanted.name}",
            allow=_shown(held.allow),
            roles=list(held.roles),
            expires_at=_when(record.expires_ms),
        )


def _target(verb: Verb, key: str | None, prefix: str | None) -> Target:
    if key is not None and prefix is not None:
        raise BadRequestError("bad_request", "It is asked of one key, or of all with a prefix.")
    if verb not in KEYED:
        if key is not None or prefix is not None:
            raise BadRequestError("bad_request", f"{verb.value} is about no keys.")
        return None
    if key is not None:
        return key.encode()
    if prefix is not None:
        return KeyRange(prefix.encode(), after_prefix(prefix.encode()) or b"")
    raise BadRequestError("bad_request", f"{verb.value} is asked of a key=, or of all keys with a prefix=.")


def make_router(
    settings: Settings,
    state: AuthState | None,
    tell: Tell,
    now_s: Callable[[], float] = time.time,
    sessions: Sessions | None = None,
) -> APIRouter:
    """The routes.

    Args:
        settings: The settings.
        state: Where roles, users and tokens are; None while nobody has to say who they are.
        tell: Is told of every change: who made it, what it was, and of what.
        now_s: The time, in seconds since the epoch.
        sessions: Sessions of browsers; None while nobody has to say who they are.
    """
    routes = APIRouter(tags=["auth"], route_class=StrictRoute)
    users = _Users(state, tell, now_s)
    _add_questions(routes, settings, state)
    _add_sessions(routes, sessions)
    _add_tokens(routes, users)
    _add_roles(routes, users)
    _add_users(routes, users)
    return routes


def _rights(state: AuthState | None) -> Rights:
    return ALL if state is None else current.get().access.rights


def _add_questions(routes: APIRouter, settings: Settings, state: AuthState | None) -> None:
    @routes.get("/v1/auth/whoami", responses=_problems(), dependencies=[Depends(_only())])
    async def whoami() -> WhoamiView:
        """Who sends this, and what they may do."""
        name = "" if state is None else current.get().access.name
        expires = 0
        if state is not None and name.startswith(f"{TOKEN}:"):
            record = state.document.tokens.get(name.removeprefix(f"{TOKEN}:"))
            expires = record.expires_ms if record is not None else 0
        return WhoamiView(
            principal=name,
            mode=list(settings.auth_mode),
            allow=_shown(_rights(state).grants),
            expires_at=_when(expires),
        )

    @routes.get("/v1/auth/can-i", responses=_problems(400), dependencies=[Depends(_only("verb", "key", "prefix"))])
    async def can_i(
        verb: Annotated[Verb, Query(description="What is to be done")],
        key: Annotated[str | None, Query(description="With this key", min_length=1, max_length=1024)] = None,
        prefix: Annotated[str | None, Query(description="With all keys that begin so", max_length=1024)] = None,
    ) -> CanView:
        """Whether whoever sends this may do something."""
        allowed = authorize(_rights(state), verb, _target(verb, key, prefix))
        name = "" if state is None else current.get().access.name
        return CanView(allowed=allowed, principal=name, verb=verb.value)


def _by_tls(request: Request) -> bool:
    """Whether a browser came by TLS, if only to a proxy: then its page says so."""
    return request.url.scheme == "https" or request.headers.get("origin", "").startswith("https://")


def _add_sessions(routes: APIRouter, sessions: Sessions | None) -> None:
    def kept() -> Sessions:
        if sessions is None:
            raise _disabled()
        return sessions

    @routes.post("/v1/auth/session", responses=_problems(400, 409), status_code=201, dependencies=[Depends(_only())])
    async def sign_in(request: Request, response: Response) -> SessionView:
        """Give a browser a session for the token that this is sent with: a cookie, and the word that goes with it."""
        caller = current.get()
        begun = kept().sign_in(caller.access, secure=_by_tls(request))
        response.headers["set-cookie"] = begun.set_cookie
        response.headers["cache-control"] = "no-store"
        expires_at = timestamp(int(begun.expires_s * 1000))
        return SessionView(principal=caller.access.name, csrf=begun.csrf, expires_at=expires_at)

    @routes.delete("/v1/auth/session", responses=_problems(400, 409), status_code=204, dependencies=[Depends(_only())])
    async def sign_out(request: Request, response: Response) -> None:
        """End the session that this is sent with."""
        caller = current.get()
        response.headers["set-cookie"] = kept().sign_out(caller.access, secure=_by_tls(request))


def _add_tokens(routes: APIRouter, users: _Users) -> None:
    @routes.post("/v1/auth/init", responses=_CHANGES, status_code=201, dependencies=[Depends(_only())])
    async def init() -> MadeToken:
        """Make the first token, ``admin``, which may do everything; only while there is nothing else."""
        try:
            return await users.make_token(NewToken(name="admin", roles=["admin"]), first=True)
        except ProblemError as error:
            if error.status != 409 or error.code == "auth_disabled":
                raise
            raise BadRequestError("already_initialised", error.detail, status=409) from None

    @routes.get("/v1/auth/tokens", responses=_problems(409), dependencies=[Depends(_only())])
    async def list_tokens() -> TokensView:
        """All tokens, but for their secrets, which nobody has."""
        held = users.state.document.tokens
        return TokensView(tokens=[_token_view(name, held[name]) for name in sorted(held)])

    @routes.post("/v1/auth/tokens", responses=_CHANGES, status_code=201, dependencies=[Depends(_only())])
    async def create_token(wanted: NewToken) -> MadeToken:
        """Make a token. The answer is the only place where it can be read."""
        return await users.make_token(wanted)

    @routes.delete("/v1/auth/tokens/{name}", responses=_CHANGES, dependencies=[Depends(_only())])
    async def revoke_token(name: str) -> TokensView:
        """End a token, everywhere within two seconds; answers with those that are left."""
        made = await users.change(lambda document: document.without_token(name), "token revoked", name)
        return TokensView(tokens=[_token_view(each, made.tokens[each]) for each in sorted(made.tokens)])


def _roles_view(document: Document) -> RolesView:
    roles = {**document.roles, **BUILT_IN}
    return RolesView(
        roles=[RoleView(name=name, allow=_shown(roles[name]), built_in=name in BUILT_IN) for name in sorted(roles)]
    )


def _add_roles(routes: APIRouter, users: _Users) -> None:
    @routes.get("/v1/auth/roles", responses=_problems(409), dependencies=[Depends(_only())])
    async def list_roles() -> RolesView:
        """All roles."""
        return _roles_view(users.state.document)

    @routes.put("/v1/auth/roles/{name}", responses=_CHANGES, dependencies=[Depends(_only())])
    async def set_role(name: str, wanted: RoleGrants) -> RolesView:
        """Make a role, or give it other grants."""
        grants = _grants(wanted.allow)
        return _roles_view(await users.change(lambda document: document.with_role(name, grants), "role set", name))

    @routes.delete("/v1/auth/roles/{name}", responses=_CHANGES, dependencies=[Depends(_only())])
    async def delete_role(name: str) -> RolesView:
        """Remove a role, and take it from whoever has it."""
        return _roles_view(await users.change(lambda document: document.without_role(name), "role deleted", name))


def _users_view(document: Document) -> UsersView:
    held = document.users
    return UsersView(users=[UserView(principal=name, roles=list(held[name].roles)) for name in sorted(held)])


def _add_users(routes: APIRouter, users: _Users) -> None:
    @routes.get("/v1/auth/users", responses=_problems(409), dependencies=[Depends(_only())])
    async def list_users() -> UsersView:
        """All principals that were given roles."""
        return _users_view(users.state.document)

    @routes.post("/v1/auth/users", responses=_CHANGES, dependencies=[Depends(_only())])
    async def give_role(wanted: UserRole) -> UsersView:
        """Give a principal a role."""
        what, name = "role granted", f"{wanted.role} to {wanted.principal}"
        made = await users.change(lambda document: document.with_user(wanted.principal, wanted.role), what, name)
        return _users_view(made)

    @routes.delete("/v1/auth/users", responses=_CHANGES, dependencies=[Depends(_only("principal", "role"))])
    async def take_role(
        principal: Annotated[str, Query(min_length=1, max_length=200)],
        role: Annotated[str, Query(min_length=1, max_length=200)],
    ) -> UsersView:
        """Take a role from a principal."""
        what, name = "role taken", f"{role} from {principal}"
        return _users_view(await users.change(lambda document: document.without_user(principal, role), what, name))
