"""Constitutions: named, versioned sets of principles, read from YAML."""

from constitutional.constitution.loader import load_composed, load_constitution

__all__ = ["load_composed", "load_constitution"]
