"""What a node does with its disks beside the log: flushes and merges in a helper process, scrubbing, room, the lock."""
