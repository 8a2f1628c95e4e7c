"""Creating and opening a volume."""
