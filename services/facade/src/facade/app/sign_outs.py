"""The sessions that were ended before their time: a browser, or whoever has copied its cookie, may show them again.

Each is remembered until its time is over, for the cookie itself says nothing of a sign-out. So that what is remembered
stays bounded, whoever ends very many has all older ones of theirs ended, too, instead of any of them let in again.
Must not know cookies or signatures. Invariants:

1. A session that was ended never counts again.
2. What is remembered is bounded: ``ENDED_OF_ONE_MAX`` sessions of each of ``PRINCIPALS_MAX`` principals.
3. Sign-outs of one principal end no session of another one, as long as no more principals than that sign out within
   a session's lifetime.

Source: docs/auth.md, Browsers.
"""

from __future__ import annotations

ENDED_OF_ONE_MAX = 64
PRINCIPALS_MAX = 10_000


class _Ended:
    """The ended sessions of one principal.

    Attributes:
        until_s: When each session would have ended by itself, by its id.
        floor_s: All sessions that end by themselves until then have ended.
    """

    __slots__ = ("floor_s", "until_s")

    def __init__(self) -> None:
        self.until_s: dict[str, float] = {}
        self.floor_s = float("-inf")

    @property
    def over_s(self) -> float:
        """When nothing of this counts any more."""
        return max((self.floor_s, *self.until_s.values()))


class SignOuts:
    """Remembers which sessions have ended before their time."""

    def __init__(self) -> None:
        self._ended: dict[str, _Ended] = {}
        self._floor_s = float("-inf")

    def add(self, principal: str, session: str, expires_s: float, now_s: float) -> None:
        """Ends a session.

        Args:
            principal: Whose session it is.
            session: The session's id.
            expires_s: When the session would have ended by itself.
            now_s: The time.
        """
        if principal not in self._ended and len(self._ended) >= PRINCIPALS_MAX:
            self._make_room(now_s)
        ended = self._ended.setdefault(principal, _Ended())
        ended.until_s[session] = expires_s
        if len(ended.until_s) <= ENDED_OF_ONE_MAX:
            return
        ended.until_s = {each: until_s for each, until_s in ended.until_s.items() if until_s > now_s}
        while len(ended.until_s) > ENDED_OF_ONE_MAX:
            # The one that ends first takes the fewest others with it.
            first = min(ended.until_s, key=ended.until_s.__getitem__)
            ended.floor_s = max(ended.floor_s, ended.until_s.pop(first))

    def has(self, principal: str, session: str, expires_s: float) -> bool:
        """Whether a session has ended."""
        if expires_s <= self._floor_s:
            return True
        ended = self._ended.get(principal)
        return ended is not None and (session in ended.until_s or expires_s <= ended.floor_s)

    def _make_room(self, now_s: float) -> None:
        self._ended = {name: ended for name, ended in self._ended.items() if ended.over_s > now_s}
        if len(self._ended) >= PRINCIPALS_MAX:
            # Many at once: to look for one takes as long as to look for all.
            for name in sorted(self._ended, key=lambda name: self._ended[name].over_s)[: PRINCIPALS_MAX // 8]:
                self._floor_s = max(self._floor_s, self._ended.pop(name).over_s)
