"""A volume rebuilt from its self-describing records."""
