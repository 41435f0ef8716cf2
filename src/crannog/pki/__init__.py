"""Certificate profiles, issuing, and the identities of keys. Pure."""
