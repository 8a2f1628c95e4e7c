"""What Revolume does, shown on a real file system: ``make demo``."""
