"""Exchange: our own constitution format written."""

from constitutional.interop.own_yaml import to_yaml

__all__ = ["to_yaml"]
