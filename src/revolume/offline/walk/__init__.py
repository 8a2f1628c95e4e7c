"""What check and salvage both walk a stopped volume with."""
