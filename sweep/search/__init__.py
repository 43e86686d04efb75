"""Decides: which trial comes next, which goes on, which is the best."""
