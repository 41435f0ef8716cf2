"""Thin layers over Linux: seccomp notification, ptrace, memfd, procfs."""
