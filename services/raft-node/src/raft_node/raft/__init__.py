"""The Raft protocol as a pure function of messages and ticks.

This package decides; it never acts. It has no clock, disk, network, task, log line or randomness of its own: time comes
in as ticks, randomness as an injected ``Randomness``, and everything that must happen leaves in a ``Ready``.
Reference: D. Ongaro and J. Ousterhout, "In Search of an Understandable Consensus Algorithm" (the paper), and
D. Ongaro's thesis. ``docs/raft.md`` maps sections to functions.
"""
