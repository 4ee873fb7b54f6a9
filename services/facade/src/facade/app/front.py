"""What all connections of a facade share.

Must not know routes. It is made once and handed to every connection.
"""

from __future__ import annotations

from facade.app.hosts import Hosts
from facade.settings import Settings


class Front:
    """What all connections share.

    Attributes:
        hosts: The names under which the facade may be asked.
    """

    def __init__(self, settings: Settings) -> None:
        """Reads the settings."""
        self.hosts = Hosts(settings.allowed_hosts)
