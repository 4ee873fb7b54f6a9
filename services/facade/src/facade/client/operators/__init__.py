"""What operators ask of a shard: its leader, its members, its state, and what its nodes say."""
