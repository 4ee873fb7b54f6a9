"""Load, measurement and judgement of a running DougDB: the benchmarks, and what the integration tests share with them.

It speaks HTTP, reads ``/proc`` and starts commands, so that what it finds does not depend on the code that it judges;
of the services it imports only the judge of histories in ``raft_testing``. Run modules from the repository's root:
``python -m bench.smoke``.
"""
