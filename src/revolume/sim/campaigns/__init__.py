"""Many seeds, counted cases, planted bugs, and the report."""
