"""Checkpoints of one state, as files: made, received, checked, and put in the place of another state."""
