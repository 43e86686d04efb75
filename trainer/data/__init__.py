"""From annotations and pictures to batches of crops."""
