"""/v1/auth: tells clients who they are and what they may do; changes roles, users and tokens for administrators.

Must not know how clients are authenticated, nor where roles, users and tokens are kept. Invariants: (1) a token is
told once, by the answer that made it, and its secret is nowhere in the facade; (2) every change is in the audit log.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
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
from facade.routes.strict import JsonRoute
from facade.settings import Settings

NAME = Field(min_length=1, max_length=200)
GRANTS_MAX = 256
_NAMES_TOGETHER = 3
"""How many tokens a line of the audit log names: each has up to 64 characters, and what a line names is cut at 256."""

Tell = Callable[[Caller, str, str, Sequence[str]], None]


class _View(BaseModel):
    model_config = ConfigDict(extra="forbid")


class WhoamiView(_View):
    """The sender of the request and its rights."""

    principal: str
    mode: list[str]
    allow: list[str]
    expires_at: str | None = None


class CanView(_View):
    """Whether the sender of the request may do something."""

    allowed: bool
    principal: str
    verb: str


class SessionView(_View):
    """A session that has begun; its cookie is in Set-Cookie."""

    principal: str
    csrf: str = Field(
        description="The value that every request of the session must send in Doug-Csrf, beside the cookie"
    )
    expires_at: str


class Session(NamedTuple):
    """A session of a browser that has just begun.

    Attributes:
        csrf: The value that every request of the session must send in ``Doug-Csrf``.
        set_cookie: The value of the header ``Set-Cookie`` that gives the browser its cookie.
        expires_s: When the session ends, in seconds since the epoch.
    """

    csrf: str
    set_cookie: str
    expires_s: float


class Sessions(Protocol):
    """Begins and ends sessions of browsers."""

    def sign_in(self, access: Access, *, secure: bool) -> Session:
        """Begins a session of the sender, who must have sent a token; ``secure`` tells whether the browser used TLS.

        Raises:
            BadRequestError: The request has no token.
        """

    def sign_out(self, access: Access, *, secure: bool) -> str:
        """Ends the session of a request; returns the value of ``Set-Cookie`` that removes the cookie.

        Raises:
            BadRequestError: The request has no session.
        """


class NewToken(_View):
    """The token that is to be made."""

    name: str = NAME
    allow: list[str] = Field(default_factory=list, max_length=GRANTS_MAX)
    roles: list[str] = Field(default_factory=list, max_length=GRANTS_MAX)
    ttl: str | None = Field(default=None, max_length=32)


class MadeToken(_View):
    """A token that was made; no other answer contains its secret."""

    token: str
    name: str
    principal: str
    allow: list[str]
    roles: list[str]
    expires_at: str | None


class TokenView(_View):
    """A token without its secret."""

    name: str
    id: str
    allow: list[str]
    roles: list[str]
    created_at: str
    expires_at: str | None
    expired: bool = Field(description="Whether it has ended; it makes room for others once there is none")
    last_used_at: str | None


class TokensView(_View):
    """All tokens."""

    tokens: list[TokenView]


class RoleGrants(_View):
    """The grants of a role."""

    allow: list[str] = Field(max_length=GRANTS_MAX)


class RoleView(_View):
    """A role."""

    name: str
    allow: list[str]
    built_in: bool


class RolesView(_View):
    """List all roles."""

    roles: list[RoleView]


class UserRole(_View):
    """A role of a principal."""

    principal: str = NAME
    role: str = NAME


class UserView(_View):
    """A principal with its roles."""

    principal: str
    roles: list[str]


class UsersView(_View):
    """All principals that were given roles; tokens are left out."""

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


def _token_view(name: str, record: TokenRecord, now_s: float) -> TokenView:
    return TokenView(
        name=name,
        id=record.id,
        allow=_shown(record.held.allow),
        roles=list(record.held.roles),
        created_at=timestamp(record.created_ms),
        expires_at=_when(record.expires_ms),
        expired=0 < record.expires_ms <= now_s * 1000,
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

    def tokens(self, document: Document) -> TokensView:
        """All tokens of a document."""
        held, now_s = document.tokens, self._now_s()
        return TokensView(tokens=[_token_view(name, held[name], now_s) for name in sorted(held)])

    @property
    def state(self) -> AuthState:
        """The document of roles, users and tokens.

        Raises:
            BadRequestError: 409; clients are not authenticated, so that anybody could change it.
        """
        if self._state is None:
            raise _disabled()
        return self._state

    async def change(
        self, make: Callable[[Document], Document], what: str, name: str, may: Sequence[str] = ()
    ) -> Document:
        """Changes the document, and notes the change in the audit log, with what somebody may do by it from now on.

        Raises:
            ProblemError: The change is refused, or may or may not have been made.
        """

        def dropped(names: Sequence[str]) -> None:
            for start in range(0, len(names), _NAMES_TOGETHER):
                some = ", ".join(names[start : start + _NAMES_TOGETHER])
                self._tell(current.get(), "ended tokens dropped", some, ())

        try:
            made = await self.state.change(make, dropped=dropped)
        except MissingError as error:
            raise BadRequestError("bad_auth", f"{error}.", status=404) from None
        except TakenError as error:
            raise BadRequestError("bad_auth", f"{error}.", status=409) from None
        except DocumentError as error:
            raise BadRequestError("bad_auth", f"{error}.") from None
        self._tell(current.get(), what, name, may)
        return made

    async def make_token(self, wanted: NewToken, *, first: bool = False) -> MadeToken:
        """Makes a token; with ``first`` only if there is none yet."""
        ttl = ttl_ms(wanted.ttl.encode(), may_keep=False) if wanted.ttl is not None else 0
        held = Held(_grants(wanted.allow), tuple(sorted(set(wanted.roles))))
        if held == Held():
            raise BadRequestError("bad_auth", "A token that may do nothing is of no use: name what to allow, or roles.")
        made, now_ms = tokens.mint(), int(self._now_s() * 1000)
        record = TokenRecord(made.id, made.salt, made.digest, held, now_ms, now_ms + ttl if ttl else 0)

        def add(document: Document) -> Document:
            if first and document != EMPTY:
                raise TakenError("there are roles, users or tokens already; make one more token, with the role admin")
            return document.with_token(wanted.name, record)

        may = [*_shown(held.allow), *(f"role {role}" for role in held.roles)]
        await self.change(add, "token created", wanted.name, may)
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
    """Makes the routes.

    Args:
        settings: The settings.
        state: Holds roles, users and tokens; None if clients are not authenticated.
        tell: Called with every change: who made it, what was done, to what, and what that may do from now on.
        now_s: The time, in seconds since the epoch.
        sessions: The sessions of browsers; None if clients are not authenticated.
    """
    routes = APIRouter(tags=["auth"], route_class=JsonRoute)
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
        """Read the principal of this request and its rights."""
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
        verb: Annotated[Verb, Query(description="The verb to check")],
        key: Annotated[
            str | None, Query(description="The key to check; not together with prefix", min_length=1, max_length=1024)
        ] = None,
        prefix: Annotated[
            str | None, Query(description="The prefix to check: all keys that begin with it", max_length=1024)
        ] = None,
    ) -> CanView:
        """Check whether the sender of this request may use a verb, on a key or on a prefix of keys."""
        allowed = authorize(_rights(state), verb, _target(verb, key, prefix))
        name = "" if state is None else current.get().access.name
        return CanView(allowed=allowed, principal=name, verb=verb.value)


def _by_tls(request: Request) -> bool:
    """Whether a browser used TLS, if only to a proxy; in that case the origin of its page is https."""
    return request.url.scheme == "https" or request.headers.get("origin", "").startswith("https://")


def _add_sessions(routes: APIRouter, sessions: Sessions | None) -> None:
    def kept() -> Sessions:
        if sessions is None:
            raise _disabled()
        return sessions

    @routes.post("/v1/auth/session", responses=_problems(400, 409), status_code=201, dependencies=[Depends(_only())])
    async def sign_in(request: Request, response: Response) -> SessionView:
        """Begin a session for the token of this request: a cookie, and the value of Doug-Csrf that goes with it."""
        caller = current.get()
        begun = kept().sign_in(caller.access, secure=_by_tls(request))
        response.headers["set-cookie"] = begun.set_cookie
        response.headers["cache-control"] = "no-store"
        expires_at = timestamp(int(begun.expires_s * 1000))
        return SessionView(principal=caller.access.name, csrf=begun.csrf, expires_at=expires_at)

    @routes.delete("/v1/auth/session", responses=_problems(400, 409), status_code=204, dependencies=[Depends(_only())])
    async def sign_out(request: Request, response: Response) -> None:
        """End the session of this request."""
        caller = current.get()
        response.headers["set-cookie"] = kept().sign_out(caller.access, secure=_by_tls(request))


def _add_tokens(routes: APIRouter, users: _Users) -> None:
    @routes.post("/v1/auth/init", responses=_CHANGES, status_code=201, dependencies=[Depends(_only())])
    async def init() -> MadeToken:
        """Make the first token, ``admin``, which may do everything; refused once anything else exists."""
        try:
            return await users.make_token(NewToken(name="admin", roles=["admin"]), first=True)
        except ProblemError as error:
            if error.status != 409 or error.code == "auth_disabled":
                raise
            raise BadRequestError("already_initialised", error.detail, status=409) from None

    @routes.get("/v1/auth/tokens", responses=_problems(409), dependencies=[Depends(_only())])
    async def list_tokens() -> TokensView:
        """List all tokens, without their secrets, which are not stored."""
        return users.tokens(users.state.document)

    @routes.post("/v1/auth/tokens", responses=_CHANGES, status_code=201, dependencies=[Depends(_only())])
    async def create_token(wanted: NewToken) -> MadeToken:
        """Make a token. No other answer contains its secret."""
        return await users.make_token(wanted)

    @routes.delete("/v1/auth/tokens/{name}", responses=_CHANGES, dependencies=[Depends(_only())])
    async def revoke_token(name: str) -> TokensView:
        """Revoke a token, on all facades within two seconds; answers with the tokens that are left."""
        return users.tokens(await users.change(lambda document: document.without_token(name), "token revoked", name))


def _roles_view(document: Document) -> RolesView:
    roles = {**document.roles, **BUILT_IN}
    return RolesView(
        roles=[RoleView(name=name, allow=_shown(roles[name]), built_in=name in BUILT_IN) for name in sorted(roles)]
    )


def _add_roles(routes: APIRouter, users: _Users) -> None:
    @routes.get("/v1/auth/roles", responses=_problems(409), dependencies=[Depends(_only())])
    async def list_roles() -> RolesView:
        """List all roles."""
        return _roles_view(users.state.document)

    @routes.put("/v1/auth/roles/{name}", responses=_CHANGES, dependencies=[Depends(_only())])
    async def set_role(name: str, wanted: RoleGrants) -> RolesView:
        """Make a role, or replace its grants."""
        grants = _grants(wanted.allow)
        made = await users.change(lambda document: document.with_role(name, grants), "role set", name, _shown(grants))
        return _roles_view(made)

    @routes.delete("/v1/auth/roles/{name}", responses=_CHANGES, dependencies=[Depends(_only())])
    async def delete_role(name: str) -> RolesView:
        """Delete a role, and take it from all principals that have it."""
        return _roles_view(await users.change(lambda document: document.without_role(name), "role deleted", name))


def _users_view(document: Document) -> UsersView:
    held = document.users
    return UsersView(users=[UserView(principal=name, roles=list(held[name].roles)) for name in sorted(held)])


def _add_users(routes: APIRouter, users: _Users) -> None:
    @routes.get("/v1/auth/users", responses=_problems(409), dependencies=[Depends(_only())])
    async def list_users() -> UsersView:
        """List all principals that were given roles."""
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
