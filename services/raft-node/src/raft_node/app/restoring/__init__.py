"""A node's volumes from a backup, offline: what a backup holds, and what is made of it."""
