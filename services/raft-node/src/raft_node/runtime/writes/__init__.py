"""Writes of a running node: which wait, which are proposed, what they need before they are applied."""
