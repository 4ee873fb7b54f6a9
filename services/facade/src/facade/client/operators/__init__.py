"""The calls of operators to a shard: its leader, its members, its state, and the statuses of its nodes."""
