"""The configuration and attestation service: keeps policies, appraises evidence, configures."""
