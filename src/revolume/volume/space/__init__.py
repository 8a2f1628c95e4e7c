"""Room for the log: who holds it, what may go, and who gives way."""
