"""A served volume: its role, its exports, its control socket, from start to stop."""
