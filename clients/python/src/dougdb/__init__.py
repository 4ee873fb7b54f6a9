"""The Python client of DougDB and the command dougctl."""

__version__ = "0.1.0"
