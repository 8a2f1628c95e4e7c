"""What clients may cost a server."""
