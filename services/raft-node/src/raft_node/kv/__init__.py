"""The replicated state machine: what a committed command means.

It is a pure function of the log: no clock, no randomness, no set order. Everything it knows lies in one keyspace of the
storage engine, so that the SSTables up to an applied index are the whole state.
"""
