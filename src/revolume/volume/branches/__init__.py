"""Branches: what a copy wrote alone, behind a point that it shares with others, kept when it takes that back."""
