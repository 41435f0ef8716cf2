"""Bounds of the exchanges, in one place. docs/formats/frames.md repeats them."""

from __future__ import annotations

ATTESTATION_TO_SERVER = 64 * 1024
"""Bytes of one frame to the CAS. Four TEE quotes fit twice."""

ATTESTATION_TO_CLIENT = 16 * 1024 * 1024
"""Bytes of one frame to the launcher: injected files in base64."""

LAS_FRAME = 64 * 1024
"""Bytes of one frame on 18766 and on the LAS socket, both ways."""

CONFIG_ID = 1024
"""Characters of a configuration id."""

TOKEN = 1024
"""Characters of a one-time password or a service access token."""

MESSAGES = 64
"""Lines of a refusal's cause chain."""

SERVICE_TOKEN = 16 * 1024
"""Characters of a Kubernetes service account token; the API server's have about a thousand."""
