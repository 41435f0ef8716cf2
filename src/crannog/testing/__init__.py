"""Fakes for tests, ours and those of users: real algorithms, made-up authorities."""
