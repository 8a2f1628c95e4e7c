"""One property a file. A check says what is wrong, as sentences; none: nothing is."""
