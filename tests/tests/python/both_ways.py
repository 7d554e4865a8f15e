# Sends standard input and reads the echo at the same time; prints the SHA-256 of what came back.
import hashlib
import socket
import ssl
import sys
import threading

ca, name, port, version = sys.argv[1:]
body = sys.stdin.buffer.read()
context = ssl.create_default_context(cafile=ca)
context.minimum_version = context.maximum_version = getattr(ssl.TLSVersion, version)
with socket.create_connection(("127.0.0.1", int(port)), timeout=50) as plain:
    with context.wrap_socket(plain, server_hostname=name) as tls:
        sender = threading.Thread(target=tls.sendall, args=(body,))
        sender.start()
        digest, left = hashlib.sha256(), len(body)
        while left:
            piece = tls.recv(65536)
            if not piece:
                sys.exit("the echo ends early")
            digest.update(piece)
            left -= len(piece)
        sender.join()
        print(digest.hexdigest())
