"""Confidential applications: programs get their secrets once they have proved what they are."""

__version__ = "0.1.0"
