"""/opt/crannog/start.py: what `crannog` and `scone` in an image have Python execute."""

import sys

_HERE = sys.argv[0].rpartition("/")[0]
_LIBRARY = _HERE + sys.path[1].removeprefix(sys.prefix)
sys.path[:] = [
    _HERE + "/site",
    *sys.path[1:],
    _LIBRARY,
    _LIBRARY + "/lib-dynload",
    sys.prefix + "/site",
]

from crannog.cli.services import main  # noqa: E402

main()
