"""The NBD protocol: bytes to values and back. No I/O."""
