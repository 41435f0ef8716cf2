"""Crannog on a Kubernetes node: the device plugin, and the launcher that it gives to containers."""
