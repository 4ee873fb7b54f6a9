"""Reads of a running node: rounds with the leader, how fresh a replica is, look-ups, scans and watches."""
