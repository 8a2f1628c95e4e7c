"""Blocks that are no longer what was written, put right in place with the bytes that a sibling has."""
