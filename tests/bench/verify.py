"""Does a peer really do what it is measured at: mTLS on the link, and a decision on the identity?

The probes run in the client's namespace under the proxies' uid, so that they reach the inbound
side without passing through the outbound one.
"""
import os
import subprocess

from stage import PROXY_UID, SERVER_IP

REQUEST = "GET /b/16 HTTP/1.1\r\nhost: server.bench.internal\r\nconnection: close\r\n\r\n"


def _tls(stage, port, who):
    argv = stage.prefix("load", "client", PROXY_UID) + [
        "timeout", "5", "openssl", "s_client", "-quiet", "-connect", "%s:%d" % (SERVER_IP, port),
        "-servername", "server.bench.internal", "-alpn", "http/1.1", "-CAfile", stage.cert("ca.pem")]
    if who:
        argv += ["-cert", stage.cert(who + ".pem"), "-key", stage.cert(who + ".key")]
    r = subprocess.run(argv, input=REQUEST, capture_output=True, text=True)
    return _status(r.stdout)


def _plain(stage, port):
    code = ("import socket,sys\n"
            "s=socket.create_connection((%r,%d),3); s.settimeout(3)\n"
            "s.sendall(%r); sys.stdout.buffer.write(s.recv(4096))" % (SERVER_IP, port, REQUEST.encode()))
    r = subprocess.run(stage.prefix("load", "client", PROXY_UID) + ["/usr/bin/env", "python3", "-c", code],
                       capture_output=True, text=True)
    return _status(r.stdout)


def _status(text):
    for line in text.splitlines():
        if line.startswith("HTTP/1."):
            return line.split()[1]
    return "refused"


def check(stage, peer, variant):
    wrong = 0
    stage.open(peer, variant)
    try:
        peer.write_config(stage, variant)
        for base, _, files in os.walk(stage.dir):
            for f in files:
                os.chmod(os.path.join(base, f), 0o644)
        procs = peer.start(stage, variant)
        stage.wait_ready(procs=procs.values())
        rows = [("through both proxies", "200", "200")]
        rows.append(("TLS, no client certificate", _tls(stage, peer.tls_port, None), "not 200"))
        rows.append(("TLS, another workload's certificate", _tls(stage, peer.tls_port, "intruder"), "not 200"))
        if peer.probe_positive:
            rows.append(("TLS, the client's certificate", _tls(stage, peer.tls_port, "client"), "200"))
            rows.append(("plain text to the inbound side", _plain(stage, peer.tls_port), "not 200"))
        for what, got, want in rows:
            ok = (got == "200") == (want == "200")
            wrong += not ok
            print("%-8s %-40s %-8s %s" % (peer.name, what, got, "as wanted" if ok else "WRONG, wanted " + want))
    except RuntimeError as e:
        print("%-8s FAILED: %s" % (peer.name, e))
        wrong += 1
    finally:
        stage.shut()
        stage.drop_dir()
    return wrong
