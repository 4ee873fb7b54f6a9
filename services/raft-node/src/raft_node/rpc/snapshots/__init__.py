"""Snapshots and backups on the wire: the messages, who sends, who receives."""
