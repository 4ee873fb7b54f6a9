"""The HTTP entry point of DougDB: routes every key to the Raft cluster that owns it."""

__version__ = "0.2.0"
