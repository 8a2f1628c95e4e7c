"""The mirrors that a volume knows of, and the log as it leaves for them."""
