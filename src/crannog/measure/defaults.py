"""What an attested program gets where its session says nothing. In the format, so never changed."""

from __future__ import annotations

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""PATH, also where the program of `#!/usr/bin/env NAME` is looked up when it is measured."""

DEFAULT_HOME = "/"
"""HOME, also where a Python's user site directory is measured."""
