"""The work on a node's disks beside the log: flushes and merges in a helper process, scrubbing, room, the lock."""
