"""Revolume: block volumes over NBD that remember every write."""

__version__ = "0.1.0"
