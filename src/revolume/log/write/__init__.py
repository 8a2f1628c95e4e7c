"""How the log is written: appender, group commit, segment files."""
