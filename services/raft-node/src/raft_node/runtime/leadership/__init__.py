"""Leadership that moves to another node: why, to whom, and what waits meanwhile."""
