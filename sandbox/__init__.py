"""A payment provider for trying things out: a process of its own, in which no money moves."""
