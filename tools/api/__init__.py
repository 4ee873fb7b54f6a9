"""``make fuzz-api``: schemathesis over the OpenAPI that a facade serves; see ``tools.api.__main__``."""
