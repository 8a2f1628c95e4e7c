"""The source's end of a mirror link."""
