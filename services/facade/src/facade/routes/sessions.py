"""The session of a request: its token, read, and a map that is as new as the one that the token was made by.

Must not know what the request does. Invariant: a token that cannot be kept is refused before anything is done.

Source: docs/api.md, Consistency.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from facade.client.fanout import Outcome
from facade.client.modes import LINEARIZABLE, ReadMode
from facade.client.receipts import SESSION, Headers, Receipt, of_batch
from facade.client.router import Router
from facade.client.sessions import Seen, Session
from facade.routes.options import RequestOptions


async def begin_session(router: Router, options: RequestOptions) -> Session | None:
    """Reads the session token of a request; None without one.

    Raises:
        BadRequestError: The text is no token, or one of another cluster.
        NotAppliedError: The map is not loaded, or older than the token and cannot be loaded in time.
    """
    return None if options.session is None else await read_session(router, options.session)


async def read_session(router: Router, token: bytes) -> Session:
    """Reads a session token; raises what ``begin_session`` does."""
    router.directory.check_loaded()
    session = router.directory.sessions.read(token)
    await router.upkeep.catch_up(session)
    return session


def session_header(router: Router, session: Session | None, seen: Sequence[Seen]) -> Headers:
    """The header with the session token that goes with an answer of several shards."""
    token = router.directory.sessions.add(session, seen)
    return ((SESSION, token),) if token else ()


Answered = Iterable[tuple[Receipt, bool]]
"""The receipts of outcomes, and whether each is of linearizable reads or writes."""


def seen_by(answered: Answered) -> list[Seen]:
    """How far the outcomes of a batch show the logs of shards, once for each shard and kind."""
    newest: dict[tuple[int, bool], Seen] = {}
    for receipt, strong in answered:
        seen = Seen(receipt.shard, receipt.entry, strong)
        place = (seen.shard, seen.strong)
        if place not in newest or newest[place].entry < seen.entry:
            newest[place] = seen
    # Linearizable reads and writes first: they replace indexes that a partial token leaves out.
    return sorted(newest.values(), key=lambda each: not each.strong)


def receipt_of(answered: Answered, mode: ReadMode) -> Headers:
    """The headers that name the nodes that have carried out a batch, and how fresh what they read is."""
    return (*mode.headers, *of_batch(answered, local=mode is not LINEARIZABLE))


def receipts_of(outcomes: Sequence[Outcome]) -> list[tuple[Receipt, bool]]:
    """The receipts of outcomes, each once, and whether it is of linearizable reads or writes: many share theirs."""
    told = dict.fromkeys([(outcome.receipt, outcome.strong) for outcome in outcomes])
    return [(receipt, strong) for receipt, strong in told if receipt is not None]
