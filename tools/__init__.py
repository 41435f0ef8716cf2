"""Tools for whoever makes releases of this project."""
