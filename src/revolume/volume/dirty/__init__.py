"""The dirty region log: which blocks changed since a mirror was lost, where nothing else of that is kept."""
