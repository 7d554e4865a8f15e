# Fetches /bytes/300000 with Python's ssl and prints the version and the body's SHA-256.
import hashlib
import socket
import ssl
import sys

ca, name, port, version = sys.argv[1:]
context = ssl.create_default_context(cafile=ca)
context.minimum_version = context.maximum_version = getattr(ssl.TLSVersion, version)
with socket.create_connection(("127.0.0.1", int(port)), timeout=20) as plain:
    with context.wrap_socket(plain, server_hostname=name) as tls:
        tls.sendall(b"GET /bytes/300000 HTTP/1.1\r\nHost: any\r\n\r\n")
        answer = b""
        while len(answer.partition(b"\r\n\r\n")[2]) < 300000:
            piece = tls.recv(65536)
            if not piece:
                sys.exit("the answer ends early")
            answer += piece
        body = answer.partition(b"\r\n\r\n")[2]
        print(tls.version(), hashlib.sha256(body).hexdigest())
