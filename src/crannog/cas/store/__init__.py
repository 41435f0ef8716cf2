"""Sealed sessions, MACed chains and secrets in a database."""
