"""The composition root of the facade: builds all parts, serves, and stops in order."""
