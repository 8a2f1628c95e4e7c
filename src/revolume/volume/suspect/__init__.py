"""Which moments of this copy are not what the volume was then, and in which blocks."""
