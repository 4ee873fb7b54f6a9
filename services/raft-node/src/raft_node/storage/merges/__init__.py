"""Flushes and merges: which, by whom, and how their outcome is made durable."""
