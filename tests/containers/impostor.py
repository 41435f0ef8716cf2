"""Programs that speak the launcher's protocol and lie, for containers whose LAS is attacked.

They are Python text for `python3 -c`, and use the launcher's own modules from the node's directory:
an attacker has them, too.
"""

from __future__ import annotations

_BEGIN = """\
import os, sys
sys.path[:0] = ['/run/crannog/launcher/site']
from crannog.errors import Error, chain
from crannog.exchange.las import QuoteRequest
from crannog.runtime.attest import Proof, get_configuration
from crannog.runtime.log import Log
from crannog.runtime.settings import read_settings
from crannog.transport.las_client import LasConnection, UnixAddress
LAS = UnixAddress('/run/crannog/las/socket')
with open('/run/crannog/launcher/digest') as file:
    launcher = bytes.fromhex(file.read().strip())
"""

_ATTEST = """\
try:
    found = get_configuration(read_settings(os.environ), Proof(measured, launcher), Log())
    print('CONFIGURED', found.environment)
except Error as error:
    print('\\n'.join(chain(error)))
"""

_FORKED = """\
request = QuoteRequest(b'r' * 64, measured, launcher, os.environ['SCONE_CONFIG_ID'], 'cas:18765')
connection = LasConnection(LAS)
child = os.fork()
if child == 0:
    try:
        connection.quote(request)
        print('QUOTED')
    except Error as error:
        print('\\n'.join(chain(error)))
    sys.stdout.flush()
    os._exit(0)
os.waitpid(child, 0)
"""


def attest(mrenclave: str, **environment: str) -> str:
    """Claim that measurement and attest, with some variables changed at run time."""
    change = f"os.environ.update({environment!r})\n"
    return f"{_BEGIN}measured = bytes.fromhex({mrenclave!r})\n{change}{_ATTEST}"


def forked(mrenclave: str) -> str:
    """Connect to the LAS and let a child ask."""
    return f"{_BEGIN}measured = bytes.fromhex({mrenclave!r})\n{_FORKED}"
