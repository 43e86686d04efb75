"""What a sweep has found, read back from its folder."""
