# Made by tools/blocking.py of aio/locks.py; change that, and run `make client`.
"""Locks and elections: a key that only one can create, that runs out by itself, and that its holder renews.

What they can promise and what they cannot: docs/locks.md. Invariants: those of ``dougdb.leases``; and nothing is
renewed or released that is not the holder's own.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from types import TracebackType
from typing import Self

from dougdb import calls, checks
from dougdb.blocking.runtime import Pace
from dougdb.blocking.sender import Sender
from dougdb.calls import conditions
from dougdb.errors import (
    DougdbError,
    InvalidArgumentError,
    KeyNotFoundError,
    LockLostError,
    LockTimeoutError,
    OutcomeUnknownError,
    PreconditionFailedError,
    UnavailableError,
)
from dougdb.idempotency import AUTO, new_key
from dougdb.leases import (
    CONTENT_TYPE,
    DEFAULT_TTL_S,
    ELECTION_PREFIX,
    LOCK_PREFIX,
    POLL_MAX_S,
    POLL_MIN_S,
    RENEWALS,
    TTL_MIN_S,
    Holder,
    Lease,
    default_owner,
    encode_holder,
    holder_of,
)
from dougdb.operations import Ttl
from dougdb.shapes import Receipt


class Locks(Sender):
    """The calls for locks."""

    def lock(
        self,
        name: str,
        *,
        ttl: Ttl = DEFAULT_TTL_S,
        wait_s: float | None = None,
        owner: str | None = None,
        on_lost: Callable[[], None] | None = None,
    ) -> Lock:
        """A lock that has one holder at a time. Use it in a ``with`` block.

        Args:
            name: The lock's name; its key is ``locks/`` and the name.
            ttl: How long the lock stays taken when its holder is gone. It is renewed three times in that time.
            wait_s: How long to wait for the lock; None for as long as it takes, 0 for not at all.
            owner: The name of the holder, shown to others; None for the machine and the process.
            on_lost: Called once if the lock is lost while it is held.
        """
        return Lock(self, LOCK_PREFIX, name, ttl=ttl, wait_s=wait_s, owner=owner, on_lost=on_lost)

    def elect(
        self,
        name: str,
        *,
        candidate: str | None = None,
        ttl: Ttl = DEFAULT_TTL_S,
        wait_s: float | None = None,
        on_lost: Callable[[], None] | None = None,
    ) -> Lock:
        """An election: a lock whose holder leads, and is found with ``leader``.

        Args:
            name: The name of the election; its key is ``elections/`` and the name.
            candidate: The name of the candidate, shown to others; None for the machine and the process.
            ttl: As for ``lock``.
            wait_s: As for ``lock``.
            on_lost: As for ``lock``.
        """
        return Lock(self, ELECTION_PREFIX, name, ttl=ttl, wait_s=wait_s, owner=candidate, on_lost=on_lost)

    def lock_holder(self, name: str) -> Holder | None:
        """The holder of a lock; None if nobody holds it."""
        return self._holder(LOCK_PREFIX, name)

    def leader(self, name: str) -> Holder | None:
        """The elected leader; None if there is none."""
        return self._holder(ELECTION_PREFIX, name)

    def _holder(self, prefix: str, name: str) -> Holder | None:
        with contextlib.suppress(KeyNotFoundError):
            return holder_of(name, self._call(calls.get(prefix + name)))
        return None


class Lock:
    """A lock, taken by ``with`` or ``acquire``, and then renewed until it is released or lost.

    When it is lost, the end of the block raises ``LockLostError``.
    See ``Locks.lock`` for the arguments.
    """

    def __init__(
        self,
        client: Locks,
        prefix: str,
        name: str,
        *,
        ttl: Ttl,
        wait_s: float | None,
        owner: str | None,
        on_lost: Callable[[], None] | None,
    ) -> None:
        self._ttl_s = checks.ttl_seconds(ttl)
        if self._ttl_s < TTL_MIN_S:
            raise InvalidArgumentError(f"the ttl of a lock is at least {TTL_MIN_S} s, not {self._ttl_s:g} s")
        if not name:
            raise InvalidArgumentError("a lock has a name")
        self.name = name
        self._key = prefix + name
        checks.key_bytes(self._key)
        self._client = client
        self._pace: Pace = client._pace
        self._wait_s = wait_s
        self._owner = default_owner() if owner is None else owner
        self._on_lost = on_lost
        self._nonce = ""
        self._lease: Lease | None = None
        self._was_lost = False
        self._guard = self._pace.background()
        self._background = self._pace.background()

    @property
    def token(self) -> int:
        """The fencing token: greater than that of every earlier holder.

        Raises:
            LockLostError: The lock was never taken.
        """
        if self._lease is None:
            raise LockLostError(f"the lock {self.name} is not held")
        return self._lease.token

    @property
    def held(self) -> bool:
        """Whether the lock is surely held now."""
        return self._lease is not None and self._lease.holds(self._pace.now())

    @property
    def left_s(self) -> float:
        """For how many seconds the lock is surely held if no renewal reaches the store any more."""
        return 0.0 if self._lease is None else self._lease.left_s(self._pace.now())

    def check(self) -> None:
        """Asserts that the lock is held: to be called before any action that must not happen without it.

        Raises:
            LockLostError: The lock is not held.
        """
        if not self.held:
            raise LockLostError(f"the lock {self.name} is not held any more")

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        interrupted = kind is not None and self._background.was_interrupted()
        self.release()
        if self._was_lost and (kind is None or interrupted):
            raise LockLostError(f"the lock {self.name} was lost while it was held") from None

    def acquire(self) -> None:
        """Takes the lock, and begins to renew it.

        Raises:
            LockTimeoutError: Another holder kept the lock for the whole time of waiting.
            UnavailableError: No node could serve the request.
        """
        self._nonce, self._was_lost = new_key(), False
        self._guard, self._background = self._pace.background(), self._pace.background()
        try:
            self._wait_for_it()
        except LockTimeoutError:
            raise
        except BaseException:
            # The interrupted request may have taken the lock.
            self._give_up()
            raise
        self._background.start(self._renew_on)
        self._guard.start(self._watch_end)

    def _wait_for_it(self) -> None:
        """Tries until the lock is held; raises what ``acquire`` does."""
        ends_s = None if self._wait_s is None else self._pace.now() + self._wait_s
        pause_s = POLL_MIN_S
        while True:
            holder = self._try()
            if self.held:
                return
            now_s = self._pace.now()
            if ends_s is not None and now_s >= ends_s:
                held_by = f" by {holder.owner}" if holder is not None and holder.owner else ""
                raise LockTimeoutError(f"the lock {self.name} is held{held_by}")
            wait_s = pause_s * (0.5 + random.random())  # noqa: S311 - nothing depends on its being unknown
            self._pace.sleep(wait_s if ends_s is None else min(wait_s, ends_s - now_s))
            pause_s = min(2 * pause_s, POLL_MAX_S, self._ttl_s / RENEWALS)

    def release(self) -> None:
        """Gives the lock back; does nothing if it is lost already."""
        self._background.stop()
        self._guard.stop()
        lease, self._lease = self._lease, None
        if lease is None or self._was_lost:
            return
        if not lease.holds(self._pace.now()):
            self._was_lost = True
            return
        with contextlib.suppress(DougdbError):
            # A lock that cannot be released expires by itself.
            call = calls.delete(self._key, condition=conditions(lease.revision), token=AUTO)
            self._client._call(call, deadline_s=min(self._ttl_s, 5.0))

    def _give_up(self) -> None:
        """Gives a lock back that may have been taken; one that cannot be given back runs out by itself."""
        with contextlib.suppress(DougdbError):
            value = self._client._call(calls.get(self._key), deadline_s=0.0, timeout_s=1.0)
            if holder_of(self.name, value).document.get("nonce") == self._nonce:
                call = calls.delete(self._key, condition=conditions(value.revision), token=AUTO)
                self._client._call(call, deadline_s=0.0, timeout_s=1.0)

    def _try(self) -> Holder | None:
        """Takes the lock if it is free; otherwise returns its holder, as far as that is known."""
        sent_s = self._pace.now()
        value = encode_holder(self._owner, self._nonce)
        call = calls.put(
            self._key,
            value,
            content_type=CONTENT_TYPE,
            ttl=self._ttl_s,
            condition=conditions(None, if_absent=True),
            token=AUTO,
        )
        try:
            receipt: Receipt = self._client._call(call)
            self._lease = Lease(self._ttl_s, receipt.revision or "0", sent_s)
            return None
        except (PreconditionFailedError, OutcomeUnknownError):
            holder = self._look()
        if holder is not None and holder.document.get("nonce") == self._nonce:
            self._take_over(holder)
        return holder

    def _take_over(self, found: Holder) -> None:
        """Takes the lock that an attempt without an answer has got: nobody knows when, so it counts from a renewal."""
        sent_s = self._pace.now()
        call = calls.touch(self._key, self._ttl_s, condition=conditions(found.revision), token=AUTO)
        with contextlib.suppress(PreconditionFailedError, OutcomeUnknownError, KeyNotFoundError):
            receipt: Receipt = self._client._call(call)
            lease = Lease(self._ttl_s, found.revision, sent_s)
            lease.renewed(receipt.revision or found.revision, sent_s)
            self._lease = lease

    def _look(self, lease: Lease | None = None) -> Holder | None:
        """The holder of the lock, if there is one; with a lease it is asked for only as long as that lasts."""
        limits: dict[str, float] = {}
        if lease is not None:
            limits = {"deadline_s": lease.left_s(self._pace.now()), "timeout_s": self._ttl_s / RENEWALS}
        with contextlib.suppress(KeyNotFoundError):
            return holder_of(self.name, self._client._call(calls.get(self._key), **limits))
        return None

    def _renew_on(self) -> None:
        """Renews the lock until it is to end or is lost."""
        lease = self._lease
        assert lease is not None
        while not self._background.wait(lease.pause_s(self._pace.now())):
            try:
                self._renew(lease)
            except DougdbError:
                self._lose(lease)
            if not lease.holds(self._pace.now()):
                self._lose(lease)
                return

    def _watch_end(self) -> None:
        """Tells that the lock is lost as soon as its time is over, also while a renewal is under way."""
        lease = self._lease
        assert lease is not None
        while not self._guard.wait(lease.left_s(self._pace.now())):
            if not lease.holds(self._pace.now()):
                self._lose(lease)
                return

    def _renew(self, lease: Lease) -> None:
        """Renews the lock once, trying for as long as it is held.

        Raises:
            LockLostError: Another holder has the lock, or nobody.
            UnavailableError: The lock could not be renewed in time.
            OutcomeUnknownError: The lock may or may not have been renewed.
        """
        sent_s = self._pace.now()
        call = calls.touch(self._key, self._ttl_s, condition=conditions(lease.revision), token=AUTO)
        try:
            receipt: Receipt = self._client._call(
                call, deadline_s=lease.left_s(sent_s), timeout_s=self._ttl_s / RENEWALS
            )
            lease.renewed(receipt.revision or lease.revision, sent_s)
        except (PreconditionFailedError, OutcomeUnknownError, KeyNotFoundError):
            # An earlier attempt may have been applied; the revision is then a different one.
            holder = self._look(lease)
            if holder is None or holder.document.get("nonce") != self._nonce:
                raise LockLostError(f"the lock {self.name} is somebody else's") from None
            lease.revision = holder.revision
        except UnavailableError:
            if not lease.holds(self._pace.now()):
                raise

    def _lose(self, lease: Lease) -> None:
        if not lease.lose():
            return
        self._was_lost = True
        if self._on_lost is not None:
            self._on_lost()
        self._background.interrupt()
