"""Simulated time, chance, disk and network."""
