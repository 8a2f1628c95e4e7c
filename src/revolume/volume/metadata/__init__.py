"""The volume's directory: its files, its lock, its manifest."""
