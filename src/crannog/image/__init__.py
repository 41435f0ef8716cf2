"""Protecting the files of container images: what is asked, what is refused, and doing it."""
