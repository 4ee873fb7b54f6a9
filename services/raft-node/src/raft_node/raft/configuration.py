"""The bytes of a configuration, as CONFIGURATION entries carry them (docs/formats.md, Configuration).

Pure functions. Layout, little-endian::

    u8 format | u16 voters | u16 learners | members, voters first: u64 incarnation, u16 name bytes, name in UTF-8

In format 2 each member is followed by ``u16 address bytes, address in UTF-8``, empty where it has none. Format 1 is
written as long as no member has one, so that logs of shards whose members never changed stay readable to all versions.

Invariants: names are unique and not empty; ``decode(encode(c)) == c``, and no other bytes stand for ``c``; bytes behind
the last member are an error.
Reference: the thesis, 4 (the latest configuration in the log is the one in force).
"""

from __future__ import annotations

import struct

from raft_node.raft.types import Configuration, NodeId

# DO NOT CHANGE: this is in every log.
_FORMAT = 1
_FORMAT_WITH_ADDRESSES = 2
_HEAD = struct.Struct("<BHH")
_MEMBER = struct.Struct("<QH")
_ADDRESS = struct.Struct("<H")

ADDRESS_BYTES_MAX = 1024


class ConfigurationError(ValueError):
    """The bytes, or the members, are not a configuration."""


def encode_configuration(configuration: Configuration) -> bytes:
    """The bytes of a configuration.

    Raises:
        ConfigurationError: A name appears twice or is empty, there is no voter, or an address has no member.
    """
    check_configuration(configuration)
    addresses = dict(configuration.addresses)
    form = _FORMAT_WITH_ADDRESSES if addresses else _FORMAT
    parts = [_HEAD.pack(form, len(configuration.voters), len(configuration.learners))]
    for member in (*configuration.voters, *configuration.learners):
        name = member.name.encode()
        parts.append(_MEMBER.pack(member.incarnation, len(name)))
        parts.append(name)
        if addresses:
            address = addresses.get(member.name, "").encode()
            parts.append(_ADDRESS.pack(len(address)))
            parts.append(address)
    return b"".join(parts)


def decode_configuration(data: bytes) -> Configuration:
    """Decodes a configuration.

    Raises:
        ConfigurationError: The bytes are no configuration.
    """
    try:
        form, voters, learners = _HEAD.unpack_from(data)
        if form not in (_FORMAT, _FORMAT_WITH_ADDRESSES):
            raise ConfigurationError(f"unknown configuration format {form}")
        members, addresses = [], []
        position = _HEAD.size
        for _ in range(voters + learners):
            incarnation, size = _MEMBER.unpack_from(data, position)
            name, position = _text(data, position + _MEMBER.size, size)
            members.append(NodeId(name, incarnation))
            if form == _FORMAT_WITH_ADDRESSES:
                (size,) = _ADDRESS.unpack_from(data, position)
                address, position = _text(data, position + _ADDRESS.size, size)
                if address:
                    addresses.append((name, address))
    except (struct.error, UnicodeDecodeError) as error:
        raise ConfigurationError(str(error)) from error
    if position != len(data):
        raise ConfigurationError(f"{len(data) - position} bytes too many")
    if form == _FORMAT_WITH_ADDRESSES and not addresses:
        raise ConfigurationError("format 2 without an address")
    configuration = Configuration(tuple(members[:voters]), tuple(members[voters:]), tuple(sorted(addresses)))
    check_configuration(configuration)
    return configuration


def _text(data: bytes, start: int, size: int) -> tuple[str, int]:
    end = start + size
    if end > len(data):
        raise ConfigurationError("a text is cut off")
    return data[start:end].decode(), end


def check_configuration(configuration: Configuration) -> None:
    """Checks the rules that any configuration keeps.

    Raises:
        ConfigurationError: A name appears twice or is empty, there is no voter, or an address has no member.
    """
    names = [member.name for member in (*configuration.voters, *configuration.learners)]
    if not configuration.voters:
        raise ConfigurationError("a configuration needs a voter")
    if "" in names:
        raise ConfigurationError("a member needs a name")
    if len(set(names)) != len(names):
        raise ConfigurationError("a name appears twice")
    named = [name for name, _ in configuration.addresses]
    if named != sorted(set(named)) or not set(named) <= set(names):
        raise ConfigurationError("addresses are sorted by name, one for a member")
    if not all(0 < len(address.encode()) <= ADDRESS_BYTES_MAX for _, address in configuration.addresses):
        raise ConfigurationError(f"an address has 1 to {ADDRESS_BYTES_MAX} bytes")
