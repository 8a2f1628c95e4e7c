"""What lies in the log: transfers, segments, columns."""
