"""The changes of the shards, followed once for all clients of a facade."""
