"""The tutorial's two programs. Only the port is an argument, so that a free one can be used.

The second one uses `SSLContext`, since the tutorial's `ssl.wrap_socket` is gone in Python 3.12.
"""

from __future__ import annotations

SERVER = '''\
from http.server import HTTPServer
from http.server import BaseHTTPRequestHandler
import os
import sys


class HTTPHelloWorldHandler(BaseHTTPRequestHandler):
    def do_GET(self):
        """say "Hello World!" and the value of `GREETING` env. variable."""
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'Hello World!\\n$GREETING is: %s\\n' % (os.getenv('GREETING', 'no greeting :(').encode()))

    def log_message(self, *arguments):
        pass


httpd = HTTPServer(('127.0.0.1', int(sys.argv[1])), HTTPHelloWorldHandler)
httpd.serve_forever()
'''  # noqa: E501

SERVER_TLS = SERVER.replace("import os\n", "import os\nimport ssl\n").replace(
    "httpd.serve_forever()",
    """
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certfile='/app/cert.pem', keyfile='/app/key.pem')
httpd.socket = context.wrap_socket(httpd.socket, server_side=True)
httpd.serve_forever()""",
)
