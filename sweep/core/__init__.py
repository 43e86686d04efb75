"""What all of a sweep speaks of: its config, its search space, its trials. Imports nothing else of sweep."""
