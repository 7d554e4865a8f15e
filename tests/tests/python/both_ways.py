# Sends standard input and reads the echo at the same time; prints the SHA-256 of what came back.
# One thread does both: Python's ssl may not be used by two at once.
import hashlib
import select
import socket
import ssl
import sys

ca, name, port, version = sys.argv[1:]
body = memoryview(sys.stdin.buffer.read())
context = ssl.create_default_context(cafile=ca)
context.minimum_version = context.maximum_version = getattr(ssl.TLSVersion, version)
with socket.create_connection(("127.0.0.1", int(port)), timeout=20) as plain:
    with context.wrap_socket(plain, server_hostname=name) as tls:
        tls.setblocking(False)
        digest, left, sent = hashlib.sha256(), len(body), 0
        while left:
            moved = False
            if sent < len(body):
                try:
                    sent += tls.send(body[sent : sent + 65536])
                    moved = True
                except (ssl.SSLWantWriteError, ssl.SSLWantReadError):
                    pass
            try:
                piece = tls.recv(65536)
                if not piece:
                    sys.exit("the echo ends early")
                digest.update(piece)
                left -= len(piece)
                moved = True
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                pass
            if not moved:
                ready = select.select([tls], [tls] if sent < len(body) else [], [], 30)
                if not any(ready):
                    sys.exit(f"nothing moves: {sent} sent, {left} to come")
        print(digest.hexdigest())
