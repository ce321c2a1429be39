"""One call, as a process of a workload makes it: client.py KIND HOST PORT. Prints what came back."""

import socket
import ssl
import sys
import time

kind, host, port = sys.argv[1], sys.argv[2], int(sys.argv[3])


def connect():
    return socket.create_connection((host, port), timeout=5)


def read_all(connection):
    data = b""
    while part := connection.recv(4096):
        data += part
    return data


if kind == "http":
    with connect() as c:
        c.sendall(f"GET / HTTP/1.1\r\nhost: {sys.argv[4]}\r\nconnection: close\r\n\r\n".encode())
        print(read_all(c).decode())
elif kind == "greeting":
    with connect() as c:
        print(c.recv(64)[1:7].decode(), end=" ")
        c.sendall(b"hello")
        print(read_all(c).decode())
elif kind == "echo":
    with connect() as c:
        c.sendall(b"across")
        c.shutdown(socket.SHUT_WR)
        print(read_all(c).decode())
elif kind == "tls":
    context = ssl.create_default_context(cafile=sys.argv[4])
    with context.wrap_socket(connect(), server_hostname="server.test") as c:
        c.sendall(b"secret")
        print(read_all(c).decode())
elif kind == "load":
    # Requests one after the other until the time is over, each on a connection of its own; prints what failed.
    done, failed = 0, []
    end = time.monotonic() + float(sys.argv[4])
    while time.monotonic() < end:
        try:
            with connect() as c:
                c.sendall(b"GET / HTTP/1.1\r\nhost: server:8080\r\nconnection: close\r\n\r\n")
                answer = read_all(c)
            if not answer.startswith(b"HTTP/1.1 200 ") or not answer.endswith(b"hello"):
                failed.append(repr(answer[:60]))
        except OSError as error:
            failed.append(repr(error))
        done += 1
    print("done", done, "failed", len(failed), failed[:5])
elif kind == "udp":
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as c:
        c.settimeout(2)
        c.connect((host, port))
        c.send(b"quic")
        print(c.recv(64).decode())
