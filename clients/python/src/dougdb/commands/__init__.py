"""The commands of dougctl, one module each. ``dougdb.cli`` puts them together."""
