"""To come."""


def dev() -> None:
    """Dev."""
