"""What test folders share: servers as processes, foreign programs, certificates, a small NBD client."""
