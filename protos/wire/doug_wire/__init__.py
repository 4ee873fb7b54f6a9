"""The wire formats that both services speak and that protobuf would make slow: see docs/formats.md.

Batches cross the network as one blob of fixed-layout records, because building and reading one protobuf message per
record costs fifty times as much as a blob does. What lives here must be byte-stable and free of I/O.
"""

__version__ = "0.2.0"
