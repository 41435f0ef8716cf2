"""Where the command line begins in an image: `/opt/crannog/start.py` calls this.

Gives the process the environment back that its static entry kept while Python and the libraries
were loaded. docs/formats/launcher.md.
"""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from crannog.runtime.start import Environment, kept_environment


def main() -> NoReturn:
    """The command line; the first argument is the name that it was called by."""
    original = Environment(kept_environment())
    os.environ.clear()
    for name, value in original.items():
        if "=" not in name:  # putenv(3) has none such
            os.environ[name] = value
    del sys.argv[0]
    from crannog.__main__ import main, main_as_scone

    sys.exit(main_as_scone() if sys.argv[0] == "scone" else main())
