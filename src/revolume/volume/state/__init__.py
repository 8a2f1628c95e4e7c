"""What a volume says about itself."""
