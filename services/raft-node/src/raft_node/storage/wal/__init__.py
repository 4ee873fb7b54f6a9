"""The write-ahead log: its segments, how they are written, found in, read, and mended at a start."""
