"""The settings of the Raft core, in ticks and bytes.

The core knows no seconds: the driver decides how long a tick is (10 ms by default) and turns its settings into these.
Pre-vote and check-quorum are no settings: they are always on.
"""

from __future__ import annotations

from dataclasses import dataclass

from raft_node.errors import SettingsError


@dataclass(frozen=True, slots=True)
class RaftConfig:
    """The settings of the core: how patient it is, and how much it may hold.

    Attributes:
        election_timeout_ticks: The shortest election timeout; also how long a leader that was heard protects its term.
        election_timeout_ticks_max: The timeout is drawn anew each time from [shortest, this); also how long a leader
            goes on without having heard from a quorum.
        heartbeat_ticks: The time after which a peer that was sent nothing is sent a heartbeat.
        inflight_appends_max: AppendEntries per peer that wait for an answer. One makes the largest batches; a long way
            between the nodes wants more.
        inflight_bytes_max: Bytes of AppendEntries per peer that wait for an answer.
        append_bytes_max: An AppendEntries ends with the entry that reaches this size.
        committed_bytes_max: A chunk of committed entries ends with the entry that reaches this size.
        uncommitted_bytes_max: Proposals are refused while so much is in the log that was not yet applied.
        cache_bytes_max: Entries that are stored and applied stay in memory up to this size, objects counted.
        reads_waiting_max: Linearizable reads are refused while so many wait for a round.
        trail_ticks: For how long entries are gathered at most for voters without which a quorum answers in time; 0:
            everything is sent to everybody at once.
        lease_ticks: For how long after a confirmed round a leader serves reads without another one; 0: never. With
            leases a voter also keeps its vote for the shortest election timeout after its own start. All members of a
            shard must count the same election timeout.
    """

    election_timeout_ticks: int = 15
    election_timeout_ticks_max: int = 30
    heartbeat_ticks: int = 5
    inflight_appends_max: int = 1
    inflight_bytes_max: int = 4 << 20
    append_bytes_max: int = 1 << 20
    committed_bytes_max: int = 1 << 20
    uncommitted_bytes_max: int = 16 << 20
    cache_bytes_max: int = 4 << 20
    reads_waiting_max: int = 1 << 16
    trail_ticks: int = 0
    lease_ticks: int = 0

    def __post_init__(self) -> None:
        """Refuses values that contradict each other.

        Raises:
            SettingsError: Two values contradict each other.
        """
        if not 0 < self.heartbeat_ticks < self.election_timeout_ticks < self.election_timeout_ticks_max:
            raise SettingsError(
                f"heartbeat ({self.heartbeat_ticks} ticks) < shortest ({self.election_timeout_ticks}) < longest"
                f" election timeout ({self.election_timeout_ticks_max}) must hold"
            )
        if not 0 <= self.trail_ticks < self.heartbeat_ticks:
            raise SettingsError(
                f"entries may trail for less than a heartbeat interval ({self.heartbeat_ticks} ticks), not for"
                f" {self.trail_ticks}"
            )
        if not 0 <= self.lease_ticks < self.election_timeout_ticks:
            # Voters count in whole ticks, so what they promise may be short by almost one.
            raise SettingsError(
                f"a lease ({self.lease_ticks} ticks) must be shorter than the shortest election timeout"
                f" ({self.election_timeout_ticks})"
            )
        for name in (
            "inflight_appends_max",
            "inflight_bytes_max",
            "append_bytes_max",
            "committed_bytes_max",
            "uncommitted_bytes_max",
            "cache_bytes_max",
            "reads_waiting_max",
        ):
            if getattr(self, name) < 1:
                raise SettingsError(f"{name} must be positive")
