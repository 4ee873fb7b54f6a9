"""Snapshots, backups, and the log in front of them: kept, installed, read, and trimmed.

Must not know how they travel: ``raft_node.rpc.snapshots`` does.
"""
