"""Tools that read a stopped volume's directory and change nothing in it: ``check`` and ``salvage``."""
