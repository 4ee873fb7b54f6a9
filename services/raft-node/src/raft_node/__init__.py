"""One replica of a DougDB shard: Raft, the write-ahead log and the SSTables."""

__version__ = "0.2.0"
