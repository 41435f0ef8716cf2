"""A Kubernetes cluster of several nodes on one Linux machine, for development and tests."""
