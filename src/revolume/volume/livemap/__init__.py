"""Where the newest version of every block lies, and how it is read."""
