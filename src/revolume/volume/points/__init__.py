"""Consistency points: made at a primary, applied at a mirror."""
