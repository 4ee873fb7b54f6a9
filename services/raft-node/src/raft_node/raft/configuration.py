"""The bytes of a configuration, as CONFIGURATION entries carry them (docs/formats.md, Configuration).

Pure functions. Layout, little-endian::

    u8 format | u16 voters | u16 learners | members, voters first: u64 incarnation, u16 name bytes, name in UTF-8

Invariants: names are unique and not empty; ``decode(encode(c)) == c``; bytes behind the last member are an error.
Reference: the thesis, 4 (the latest configuration in the log is the one in force).
"""

from __future__ import annotations

import struct

from raft_node.raft.types import Configuration, NodeId

# DO NOT CHANGE: this is in every log.
_FORMAT = 1
_HEAD = struct.Struct("<BHH")
_MEMBER = struct.Struct("<QH")


class ConfigurationError(ValueError):
    """The bytes, or the members, are not a configuration."""


def encode_configuration(configuration: Configuration) -> bytes:
    """The bytes of a configuration.

    Raises:
        ConfigurationError: A name appears twice or is empty, or there is no voter.
    """
    check_configuration(configuration)
    parts = [_HEAD.pack(_FORMAT, len(configuration.voters), len(configuration.learners))]
    for member in (*configuration.voters, *configuration.learners):
        name = member.name.encode()
        parts.append(_MEMBER.pack(member.incarnation, len(name)))
        parts.append(name)
    return b"".join(parts)


def decode_configuration(data: bytes) -> Configuration:
    """The configuration that the bytes stand for.

    Raises:
        ConfigurationError: They stand for none.
    """
    try:
        form, voters, learners = _HEAD.unpack_from(data)
        if form != _FORMAT:
            raise ConfigurationError(f"unknown configuration format {form}")
        members = []
        position = _HEAD.size
        for _ in range(voters + learners):
            incarnation, size = _MEMBER.unpack_from(data, position)
            position += _MEMBER.size
            if position + size > len(data):
                raise ConfigurationError("a name is cut off")
            members.append(NodeId(data[position : position + size].decode(), incarnation))
            position += size
    except (struct.error, UnicodeDecodeError) as error:
        raise ConfigurationError(str(error)) from error
    if position != len(data):
        raise ConfigurationError(f"{len(data) - position} bytes too many")
    configuration = Configuration(tuple(members[:voters]), tuple(members[voters:]))
    check_configuration(configuration)
    return configuration


def check_configuration(configuration: Configuration) -> None:
    """Checks the rules that any configuration keeps.

    Raises:
        ConfigurationError: A name appears twice or is empty, or there is no voter.
    """
    names = [member.name for member in (*configuration.voters, *configuration.learners)]
    if not configuration.voters:
        raise ConfigurationError("a configuration needs a voter")
    if "" in names:
        raise ConfigurationError("a member needs a name")
    if len(set(names)) != len(names):
        raise ConfigurationError("a name appears twice")
