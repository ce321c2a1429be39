"""Servers of many kinds behind one sidecar; none knows of it. The ports are those of the test's folder."""

import os
import socket
import ssl
import sys
import threading

HOST = os.environ["HOST"]


def http(connection):
    head = b""
    while b"\r\n\r\n" not in head:
        head += connection.recv(4096)
    connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello")


def greeting(connection):
    """A MySQL-like server: it speaks first, and the client answers."""
    connection.sendall(b"\x0a8.0.36\x00greetings")
    connection.sendall(b"ok:" + connection.recv(64))


def echo(connection):
    while data := connection.recv(4096):
        connection.sendall(data)


def tls(connection):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(os.environ["CERT"], os.environ["KEY"])
    with context.wrap_socket(connection, server_side=True) as wrapped:
        wrapped.sendall(b"tls:" + wrapped.recv(64))


def serve(address, port, kind):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    listener.bind((address, port))
    listener.listen(64)

    def attend(connection):
        try:
            with connection:
                kind(connection)
        except OSError as error:
            print(error, file=sys.stderr)

    while True:
        connection, _ = listener.accept()
        threading.Thread(target=attend, args=(connection,), daemon=True).start()


KINDS = {8080: http, 3306: greeting, 9000: echo, 8443: tls}
for number, server in KINDS.items():
    threading.Thread(target=serve, args=(HOST, number, server), daemon=True).start()
# Ports that nobody declared, at every address of the workload: reached only as captured connections.
threading.Thread(target=serve, args=("0.0.0.0", 7000, echo), daemon=True).start()
threading.Thread(target=serve, args=("::", 7000, echo), daemon=True).start()
# A port for the workload itself alone.
serve("127.0.0.1", 7001, echo)
