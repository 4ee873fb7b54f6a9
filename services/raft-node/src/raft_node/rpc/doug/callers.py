"""The callers of Doug and Admin where clients have to say who they are: facades, the cluster's nodes, and guests.

A facade has judged a request before it sends it on, and a node calls for the cluster; both are told by the names in
their certificates, which the authority has signed. A guest has another certificate of that authority. It shows a token,
or, where certificates are a proof, that one, and is judged here, by the rule that facades judge by. Invariants:

1. Whoever cannot be told is refused, also on a connection without TLS.
2. A method without a rule is served to nobody.
3. A guest is served only if it may do every part of what a call asks for, and as long as it may; of a batch it is
   served the operations that it may do.
4. No guest takes more than its part of the node (``raft_node.rpc.doug.guest_limits``).
5. A facade is believed for whom it calls, and nobody else is; that gives no right, and is told to the log alone.
6. The log tells who was refused, in a bounded number of lines; never what a call was about, never a token.

Source: docs/auth.md.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Iterable
from typing import Any, NoReturn

import grpc
import grpc.aio

from doug_stream.limits import Bucket
from doug_wire.auth.certificates import shown_to_grpc
from doug_wire.idempotency import identity_of
from doug_wire.on_behalf import Behalf, read
from doug_wire.on_behalf import shown as as_shown
from raft_node.errors import NotLeaderError, UnavailableError
from raft_node.rpc.doug.acts import ACTS, Acts
from raft_node.rpc.doug.guest_limits import GuestLimits, TooMuchError
from raft_node.rpc.doug.guests import BEARERS, CERTIFICATES, TOKENS, Guest, Guests, Shown, UnprovenError
from raft_node.rpc.doug.operations import forbidden, identity
from raft_node.rpc.doug.wanted import IN_PARTS, LASTING, RULES, Wanted, wanted
from raft_node.rpc.raft.certificate_names import names_of

Context = grpc.aio.ServicerContext[Any, Any]
Attend = Callable[[Awaitable[Any]], Awaitable[Any]]
"""Waits for the answer to a call, and ends the call when its caller may not make it any more."""

LINES_BURST = 100
LINES_PER_S = 1.0
NAME_CHARACTERS_MAX = 256
ATTEND_S = 0.5
"""How often it is looked whether a guest may still do what it is doing."""
UNSURE_S = 1.5
"""For how long a guest's call goes on while nobody can tell whether it still may."""
SLICE = 200
"""How many parts of a call are judged in one turn of the event loop."""
AUTHORIZATION = "authorization"
_SCHEME = "bearer "
_PROOFS = {
    TOKENS: "a token (dougctl auth token)",
    CERTIFICATES: "a certificate with a name",
    BEARERS: "a JWT of the issuer",
}


class Callers:
    """Admits facades and nodes by their certificates, and guests by what they show.

    Attributes:
        caller_of: Gives the address of a caller.
        limits: What guests may ask of this node.
    """

    def __init__(
        self,
        names: Iterable[str],
        tell: Callable[..., object],
        clock: Callable[[], float] = time.monotonic,
        guests: Guests | None = None,
        limits: GuestLimits | None = None,
        facades: Iterable[str] = (),
    ) -> None:
        """Begins without having refused anybody.

        Args:
            names: The names of facades and nodes.
            tell: The log, which is told of callers that are refused.
            clock: Gives seconds that never go back.
            guests: Tells who a client is; None where nothing that a client could show is a proof here.
            limits: What guests may ask of this node; None for what they may everywhere.
            facades: The names of facades, which are believed for whom they call.
        """
        self._names = frozenset(name.lower() for name in names)
        self._tell = tell
        self._clock = clock
        self._guests = guests
        self._lines = Bucket(LINES_BURST, LINES_PER_S)
        self._left_out = 0
        self._facades = frozenset(name.lower() for name in facades)
        self._acts = Acts(tell, clock)
        self.limits = limits or GuestLimits(clock=clock)
        self.caller_of: Callable[[Any], str] = lambda context: str(context.peer())

    async def admit(self, context: Context, service: str, method: str, request: Any = None) -> Attend | None:
        """Aborts a call that its caller may not make; gRPC's exception leaves this function.

        Returns:
            What has to wait for the answer to a call of a guest or of an operator; None for others.
        """
        call = f"/{service}/{method}"
        names = names_of(context)
        shown = names or ()
        if method not in RULES.get(service, {}):
            await self._forbid(context, call, shown, "there is no rule for this method")
        if not self._names.isdisjoint(shown):
            if (service, method) not in ACTS:
                return None
            believed = not self._facades.isdisjoint(shown)
            behalf = read(context.invocation_metadata() or ()) if believed else Behalf()
            return self._noting(context, shown, (method, request), behalf)
        guests = self._guests
        if guests is None or names is None:
            await self._unknown(context, call, shown)
        proof = _shown_by(context)
        try:
            guest = await self._find(context, call, shown, proof, request)
            end = self.limits.begin(guest.name, self.caller_of(context), (service, method), request)
        except TooMuchError as error:
            await self._limited(context, error)
        try:
            parts = wanted(service, method, request)
            if (service, method) in IN_PARTS:
                forbidden.set(await self._judge_each(context, call, shown, guest, parts))
            else:
                await self._judge(context, call, shown, guest, parts)
        except BaseException:
            end()
            raise
        identity.set(identity_of(guest.name))
        return self._attendance(context, shown, (service, method), request, proof, guest, end)

    async def _find(self, context: Context, call: str, shown: Collection[str], proof: Shown, request: Any) -> Guest:
        """Who calls; aborts the call of whom nobody can tell.

        Raises:
            TooMuchError: Too many wait to be told already, or the address has tried too often.
        """
        assert self._guests is not None
        told = self.limits.arrive(self.caller_of(context), request)
        try:
            return await self._guests.find(proof)
        except (NotLeaderError, UnavailableError) as error:
            await self._unsure(context, error)
        except UnprovenError as error:
            self.limits.stranger(self.caller_of(context))
            await self._unknown(context, call, shown, str(error))
        finally:
            told()

    def _attendance(
        self,
        context: Context,
        shown: Collection[str],
        asked: tuple[str, str],
        request: Any,
        proof: Shown,
        guest: Guest,
        end: Callable[[], None],
    ) -> Attend:
        """What waits for the answer to a guest's call, ends it once it may not go on, and gives back its room."""
        assert self._guests is not None
        guests, call = self._guests, "/" + "/".join(asked)
        sure_s = self._clock()

        async def still() -> None:
            nonlocal sure_s
            asked_s = self._clock()
            try:
                known = await guests.find(proof)
            except UnprovenError as error:
                await self._unknown(context, call, shown, str(error))
            except (NotLeaderError, UnavailableError):
                # An election is no reason to end what is allowed; nor may the right be taken for granted for long.
                if self._clock() - sure_s < UNSURE_S:
                    return
                await self._unsure(context, UnavailableError("nobody can tell any more who may do what"))
            sure_s = asked_s
            if asked not in IN_PARTS:
                await self._judge(context, call, shown, known, wanted(*asked, request))
            elif known.rights.grants != guest.rights.grants:
                detail = f"the rights of {guest.name} have changed; some of this may have been done"
                await self._forbid(context, call, shown, detail, guest.name)

        async def attend(answer: Awaitable[Any]) -> Any:
            if asked in ACTS:
                behalf = Behalf(as_shown(guest.name))
                answer = self._noting(context, shown, (asked[1], request), behalf)(answer)
            try:
                return await (_attended(answer, still) if asked in LASTING else answer)
            finally:
                end()

        return attend

    def _noting(self, context: Context, shown: Collection[str], asked: tuple[str, Any], behalf: Behalf) -> Attend:
        """What waits for the answer to a call of an operator, and tells the log of it."""
        address = self.caller_of(context)
        return lambda answer: self._acts.attend(answer, behalf, asked, address, shown)

    async def _limited(self, context: Context, error: TooMuchError) -> NoReturn:
        """Aborts a call of a client that asks for more than its part, and says when it may ask again."""
        # The second is what gRPC's own clients go by that have a policy of retries.
        wait = (("retry-after", str(error.wait_s)), ("grpc-retry-pushback-ms", str(error.wait_s * 1000)))
        metadata = (("doug-code", "OVERLOADED"), *wait)
        await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"OVERLOADED: {error}", metadata)

    async def _unsure(self, context: Context, error: NotLeaderError | UnavailableError) -> NoReturn:
        """Aborts a call of a guest because this node cannot tell what it may do."""
        if isinstance(error, NotLeaderError):
            metadata = (
                ("doug-code", "NOT_LEADER"),
                ("doug-leader-id", error.leader_id),
                ("doug-leader-address", error.leader_address),
            )
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, f"NOT_LEADER: {error}", metadata)
        await context.abort(grpc.StatusCode.UNAVAILABLE, f"UNAVAILABLE: {error}", (("doug-code", "UNAVAILABLE"),))

    async def _unknown(self, context: Context, call: str, shown: Collection[str], why: str = "") -> NoReturn:
        """Refuses a caller of whom nobody can tell who they are, and says why if that is known."""
        modes = () if self._guests is None else self._guests.proofs
        counts = " or ".join(words for mode, words in _PROOFS.items() if mode in modes) or "nothing"
        found = why or "what was shown proves nothing here"
        detail = f"{found}. At a node {counts} counts; everything else does at facades alone"
        await self._abort(context, call, shown, grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED", detail)

    async def _judge(
        self, context: Context, call: str, shown: Collection[str], guest: Guest, parts: Iterable[Wanted]
    ) -> None:
        """Aborts the call if the guest may not do every part of it."""
        for number, part in enumerate(parts, 1):
            if not part.is_allowed(guest.rights):
                right = " or ".join(sorted(verb.value for verb in part.verbs))
                detail = f"{guest.name} does not have the right {right}" if right else "no client may call this method"
                await self._forbid(context, call, shown, detail, guest.name)
            if number % SLICE == 0:
                await asyncio.sleep(0)

    async def _judge_each(
        self, context: Context, call: str, shown: Collection[str], guest: Guest, parts: Iterable[Wanted]
    ) -> frozenset[int]:
        """The places of the parts of a call that the guest may not do; the log has one line for all of them."""
        refused = []
        for place, part in enumerate(parts):
            if not part.is_allowed(guest.rights):
                refused.append(place)
            if place % SLICE == SLICE - 1:
                await asyncio.sleep(0)
        if refused:
            self._note(context, call, shown, "FORBIDDEN", guest.name, len(refused))
        return frozenset(refused)

    async def _forbid(
        self, context: Context, call: str, shown: Collection[str], detail: str, principal: str = ""
    ) -> NoReturn:
        await self._abort(context, call, shown, grpc.StatusCode.PERMISSION_DENIED, "FORBIDDEN", detail, principal)

    async def _abort(
        self,
        context: Context,
        call: str,
        shown: Collection[str],
        status: grpc.StatusCode,
        code: str,
        detail: str,
        principal: str = "",
    ) -> NoReturn:
        """Refuses a call, and tells the log of it."""
        self._note(context, call, shown, code, principal)
        await context.abort(status, f"{code}: {detail}", (("doug-code", code),))

    def _note(
        self, context: Context, call: str, shown: Collection[str], code: str, principal: str, operations: int = 0
    ) -> None:
        """Tells the log who was refused what, unless there are too many lines.

        Args:
            context: The call.
            call: The path of its method.
            shown: The names in the caller's certificate.
            code: Why it was refused.
            principal: Whom it was refused; empty where nobody can tell.
            operations: How many operations of a batch were refused, whose others were not; 0 if all of the call was.
        """
        if self._lines.take(self._clock()):
            left_out, self._left_out = self._left_out, 0
            self._tell(
                "caller.refused",
                outcome=code.lower(),
                address=self.caller_of(context),
                certificate=", ".join(sorted(shown))[:NAME_CHARACTERS_MAX],
                principal=principal,
                method=call,
                left_out=left_out,
                **({"operations": operations} if operations else {}),
            )
        else:
            self._left_out += 1


def _shown_by(context: Context) -> Shown:
    """What a call shows: its bearer token, or without any metadata that says so its connection's certificate."""
    found = [value for name, value in context.invocation_metadata() or () if name == AUTHORIZATION]
    if not found:
        return Shown(certificate=shown_to_grpc(context.auth_context()))
    if len(found) != 1 or not isinstance(found[0], str) or not found[0].lower().startswith(_SCHEME):
        return Shown("")
    return Shown(found[0][len(_SCHEME) :])


async def _attended(answer: Awaitable[Any], still: Callable[[], Awaitable[None]]) -> Any:
    """Waits for the answer to a call, and asks ``still`` now and then, whose exception ends it."""
    serving = asyncio.ensure_future(answer)
    try:
        while not (await asyncio.wait((serving,), timeout=ATTEND_S))[0]:
            await still()
        return serving.result()
    finally:
        if not serving.done():
            serving.cancel()
            await asyncio.wait((serving,))
