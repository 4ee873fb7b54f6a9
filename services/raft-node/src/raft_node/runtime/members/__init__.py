"""The identity of a node, and the members of its shard."""
