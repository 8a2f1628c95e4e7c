"""What a primary asks its mirrors before it opens."""
