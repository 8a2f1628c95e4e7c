"""A jump: from the common point to a later one by the blocks between them, without the log between them."""
