"""Serves virtual files to a program by answering its system calls."""
