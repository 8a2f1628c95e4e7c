"""How the log is read: along its chain, and recovered at its end."""
