"""Who a node is, and who the members of its shard are."""
