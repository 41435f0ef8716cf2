"""The session language: load, validate, substitute, decide access, hash. Pure."""
