"""The composition root: builds all parts of a node, runs them, and stops them in order."""
