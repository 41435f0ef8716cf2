"""DIR/start.py: what the entry `run` has Python execute. docs/formats/launcher.md."""

import sys

# Without python3XY.zip, whose only purpose is to end Python's search for its library.
sys.path[:] = [*sys.path[1:], sys.prefix + "/site"]

from crannog.runtime.start import main  # noqa: E402

main()
