"""Load, measurement and judgement of a running DougDB: the benchmarks, and the parts that integration tests share.

It speaks HTTP, reads ``/proc`` and starts commands, so that its results do not depend on the code that it judges;
of the services it imports only the judge of histories in ``raft_testing``. Run modules from the repository's root:
``python -m bench.smoke``.
"""
