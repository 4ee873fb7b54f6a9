"""The issuer of JWTs, as the settings of a facade or a node name it.

Must not know JWTs: this is read where none are a proof, too.
"""

from __future__ import annotations

from typing import NamedTuple

PREFIX = "AUTH_OIDC_"
"""What the names of these settings begin with, behind that of all settings."""


class Issuer(NamedTuple):
    """Whose JWTs count, and what they say.

    Attributes:
        name: The claim ``iss``.
        audience: The audience that a JWT must name.
        jwks: The https URL or the file of the issuer's keys.
        jwks_ca_file: The file with the authority of that URL's certificate; empty for the system's.
        claim: The claim that names the principal.
        groups_claim: The claim that lists its groups.
    """

    name: str = ""
    audience: str = ""
    jwks: str = ""
    jwks_ca_file: str = ""
    claim: str = "sub"
    groups_claim: str = "groups"

    @property
    def is_named(self) -> bool:
        """Whether the settings name an issuer at all."""
        return bool(self.name or self.audience or self.jwks)

    def mistake(self) -> tuple[str, str] | None:
        """What is wrong with it: the end of the setting's name, and why; None if nothing is."""
        for end, value in (("ISSUER", self.name), ("AUDIENCE", self.audience), ("JWKS", self.jwks)):
            if not value:
                return PREFIX + end, "it is needed for JWTs"
        if "://" in self.jwks and not is_https(self.jwks):
            return f"{PREFIX}JWKS", "keys are read from a file, by its path, or over https"
        return None


def is_https(place: str) -> bool:
    """Whether a place is a URL of https; schemes are the same in capitals (RFC 3986, 3.1)."""
    return place.lower().startswith("https:")
