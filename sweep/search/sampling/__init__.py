"""Suggests the next configuration."""
