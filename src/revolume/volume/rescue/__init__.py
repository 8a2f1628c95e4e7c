"""What a pinned moment keeps once the horizon has left it: the blocks changed since, as they were."""
