"""The target's end of a mirror link."""
