"""Serves a folder over HTTPS on loopback: FOLDER CERTIFICATE KEY. Prints its port."""

import functools
import http.server
import ssl
import sys

folder, certificate, key = sys.argv[1:]


class Handler(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 10

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(
    ("127.0.0.1", 0), functools.partial(Handler, directory=folder)
)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate, key)
# Shaken by the thread of the connection, so that who says nothing delays nobody.
server.socket = context.wrap_socket(
    server.socket, server_side=True, do_handshake_on_connect=False
)
print(server.server_address[1], flush=True)
server.serve_forever()
