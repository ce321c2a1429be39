"""Asks for identities that are not this workload's, in every way that a process can, and writes the answers to $RESULT.

The messages are encoded by hand, so that nothing stands between the question and the socket.
"""

import json
import os
import time

import grpc


def raw(data):
    return data


def field(number, text):
    data = text.encode()
    return bytes([number << 3 | 2, len(data)]) + data


def outcome(responses):
    try:
        return {"answered": repr(next(iter(responses)))}
    except grpc.RpcError as error:
        return {"code": error.code().name, "details": error.details()}


def workload_api(socket, metadata=(("workload.spiffe.io", "true"),)):
    with grpc.insecure_channel(socket) as channel:
        fetch = channel.unary_stream("/SpiffeWorkloadAPI/FetchX509SVID", raw, raw)
        return outcome(fetch(b"", metadata=metadata, timeout=10))


def sds(socket, name):
    # DiscoveryRequest: resource_names = 3, type_url = 4.
    kind = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
    request = field(3, name) + field(4, kind)
    with grpc.insecure_channel(socket) as channel:
        path = "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets"
        stream = channel.stream_stream(path, raw, raw)

        def questions():
            yield request
            time.sleep(8)

        return outcome(stream(questions(), timeout=6))


def main():
    own = os.environ["SPIFFE_ENDPOINT_SOCKET"]
    state = os.path.dirname(os.path.dirname(own.removeprefix("unix:")))
    other = f"unix:{state}/run/echo-v1-0.sock"
    theirs = "spiffe://mesh.local/ns/default/sa/echo"
    result = {
        "their socket, Workload API": workload_api(other),
        "their socket, SDS": sds(other, "default"),
        "own socket, their name by SDS": sds(own, theirs),
        "own socket, no security header": workload_api(own, ()),
        "own socket, own identity": {"ok": "answered" in workload_api(own)},
    }
    path = os.environ["RESULT"]
    with open(path + ".new", "w", encoding="utf-8") as out:
        json.dump(result, out)
    os.rename(path + ".new", path)
    while True:
        time.sleep(3600)


main()
