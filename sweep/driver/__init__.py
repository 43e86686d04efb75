"""One invocation of a sweep on this machine, from its start to its end."""
