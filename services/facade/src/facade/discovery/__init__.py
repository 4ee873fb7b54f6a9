"""Where the raft-nodes are: their addresses, from the settings, DNS or Kubernetes.

Addresses only. Who leads, which shard owns which key and who is a member of a shard is said by Raft alone; a source
that is wrong or away costs connections, never correctness. Must not know operations or gRPC.

Invariant: a source publishes whole sets of a shard, and never an empty one: while it cannot answer, what it said last
stays in force.
"""
