"""The log and the LSM tree of a node: everything that lies on its disk.

``wal`` (the Raft log, which is the write-ahead log) and ``engine`` (the replicated state) stand beside each other;
``files`` is the only way to the disk. Nothing here knows Raft's roles, the network, a clock or threads: the methods
that block say so, and ``runtime`` calls those on its own threads. Formats: docs/formats.md.
"""
