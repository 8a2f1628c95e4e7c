"""Labels from the wall clock, ages from lived time."""
