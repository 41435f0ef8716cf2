"""Protecting directory trees: walk, encrypt in parallel, write atomically."""
