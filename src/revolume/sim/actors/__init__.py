"""Clients, readers and services on simulated machines."""
