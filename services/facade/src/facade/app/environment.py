"""Reads the settings from the environment, and says what is wrong with them by the name of the variable.

Must not know what the settings are for.
"""

from __future__ import annotations

from pydantic import ValidationError
from pydantic_settings import SettingsError as MalformedError

from facade.errors import SettingsError
from facade.settings import PREFIX, Settings


def load() -> Settings:
    """Reads the settings.

    Raises:
        SettingsError: A setting is missing or makes no sense; the message names it.
    """
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = PREFIX + str(first["loc"][0]).upper() if first["loc"] else PREFIX + "*"
        raise SettingsError(name, str(first["msg"]).removeprefix("Value error, ")) from error
    except MalformedError as error:
        # Only settings in JSON can be malformed; pydantic names the field only in the text of its message.
        name = "DNS_NAMES" if '"dns_names"' in str(error) else "NODES"
        raise SettingsError(f"{PREFIX}{name}", "it is not valid JSON") from error
