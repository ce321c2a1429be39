"""Reeve: a real mesh process, and a `reeve proxy run` on each side that joined it with a token.

What is set is what a user would write: YAML in a folder. The mesh process (authority, control plane, audit log) runs
beside the load on its core; its CPU time is reported on its own, as no other peer has such a process.
"""
import json
import os
import shutil
import subprocess
import time

from .base import Peer, Unavailable

DOMAIN = "cluster.local"
POLICIES = 1000
BASE, CLIENT_SLOT, SERVICE_NUMBER = 77, 1, 10
GRPC_PORT, API_PORT = 15012, 15014


class Ours(Peer):
    name = "ours"
    env_var = "BENCH_OURS"
    binary = "reeve"
    #: the link's protocol is the proxy's own choice, so one group stands for "best link"
    protos = ("h1", "tcp", "grpc")
    features = ("nopool", "log", "noauthz", "rbac1000", "jwt", "tcp")
    #: the outbound listener of the local form is a loopback address that stands for the service
    out_address = "127.%d.%d.%d:8080" % (BASE, CLIENT_SLOT, SERVICE_NUMBER)
    in_port = 8080
    backend_address = "127.0.0.1"
    policies = POLICIES
    #: the key exchange that every peer is pinned to; None: our own choice
    curves = ("X25519",)
    #: its certificates come from its own mesh, never from the bench's authority
    probe_positive = False

    def supports(self, variant):
        # A `full` or newer group names HTTP/2 for peers that must be told.
        return super().supports({**variant, "proto": "h1"} if variant.get("any_link") else variant)

    def proxy(self):
        """The small binary that stands beside a workload; the same code as `reeve proxy run`."""
        beside = os.path.join(os.path.dirname(self.path()), "reeve-proxy")
        if not os.path.exists(beside):
            raise Unavailable("no reeve-proxy beside %s; build it: cargo build --release -p reeve-sidecar" % self.path())
        return beside

    @staticmethod
    def _opaque(v):
        """Link connections of HTTP are pooled whatever the client does, unless a rule says otherwise (`ours-http`);
        opaque ones are never shared, so that every request of `newconn` pays its handshake here too."""
        return v["proto"] == "tcp" or not v["pool"]

    # -- the mesh's folder -------------------------------------------------------
    def _policies(self, v):
        """All of them concern the server; only the last one's principal is the client."""
        grpc = v["proto"] == "grpc"
        count = self.policies if v["authz"] in ("rbac1000", "rbac1") else 1
        user = ' && context has user && context.user.issuer == "bench-issuer"' if v["jwt"] else ""
        for i in range(count):
            who = "client" if i == count - 1 else "other-%04d" % i
            yield (
                '@id("p%04d") permit (principal == Workload::"spiffe://%s/ns/bench/sa/%s", action == Action::"%s",\n'
                '  resource in Service::"server.bench.svc.cluster.local")%s;'
                % (i, DOMAIN, who, "connect" if self._opaque(v) else "POST" if grpc else "GET",
                   "" if self._opaque(v) else ' when { context.path like "%s"%s }' % (
                       "/bench.Echo/*" if grpc else "/b/*", user)))

    def _documents(self, ctx, v):
        port = "tcp" if self._opaque(v) else "grpc" if v["proto"] == "grpc" else "http"
        state = "open" if v["authz"] == "none" else "enforced"
        yield {"apiVersion": "reeve.dev/v1alpha1", "kind": "MeshConfig", "metadata": {"name": "mesh"},
               "spec": {"trustDomain": DOMAIN, "rootNamespace": "reeve-system", "authorization": {"state": state},
                        **({"meshMTLS": {"ecdhCurves": list(self.curves)}} if self.curves else {})}}
        yield {"apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication",
               "metadata": {"name": "strict", "namespace": "bench"}, "spec": {"mtls": {"mode": "STRICT"}}}
        yield {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "server", "namespace": "bench"},
               "spec": {"selector": {"app": "server"}, "ports": [{"port": ctx.app_port, "name": port}]}}
        yield {"apiVersion": "reeve.dev/v1alpha1", "kind": "LocalMesh", "metadata": {"name": "bench"},
               "spec": {"workloads": [
                   {"name": "client", "namespace": "bench", "serviceAccount": "client", "labels": {"app": "client"},
                    "command": ["true"]},
                   {"name": "server", "namespace": "bench", "serviceAccount": "server", "labels": {"app": "server"},
                    "command": ["true"], "ports": [{"port": ctx.app_port, "name": port}]}]}}
        if not v["pool"]:
            yield {"apiVersion": "networking.istio.io/v1", "kind": "DestinationRule",
                   "metadata": {"name": "server", "namespace": "bench"},
                   "spec": {"host": "server", "trafficPolicy": {
                       "connectionPool": {"http": {"maxRequestsPerConnection": 1}}}}}
        if v["jwt"]:
            yield {"apiVersion": "security.istio.io/v1", "kind": "RequestAuthentication",
                   "metadata": {"name": "server", "namespace": "bench"},
                   "spec": {"selector": {"matchLabels": {"app": "server"}},
                            "jwtRules": [{"issuer": ctx.jwt_issuer, "audiences": [ctx.jwt_audience],
                                          "jwks": ctx.jwks(), "forwardOriginalToken": True}]}}
        if v["authz"] != "none":
            yield {"apiVersion": "reeve.dev/v1alpha1", "kind": "AccessPolicy",
                   "metadata": {"name": "server", "namespace": "bench"},
                   "spec": {"cedar": "\n".join(self._policies(v))}}

    def _instances(self, ctx):
        """What a supervisor would have written: where the two instances are."""
        def instance(name, slot, address):
            return {"instance": name + "-0.bench", "workload": name, "namespace": "bench", "slot": slot,
                    "address": address, "app_address": "127.0.0.1", "healthy": True}
        return {"mesh": {"base": BASE, "grpc": "%s:%d" % (ctx.server_ip, GRPC_PORT),
                         "api": "127.0.0.1:%d" % API_PORT},
                "services": {"server.bench.svc.cluster.local": SERVICE_NUMBER},
                "instances": [instance("client", CLIENT_SLOT, ctx.client_ip), instance("server", 2, ctx.server_ip)]}

    def write_config(self, ctx, v):
        folder, state = os.path.join(ctx.dir, "mesh"), os.path.join(ctx.dir, "state")
        os.mkdir(folder)
        os.mkdir(state, 0o700)
        with open(os.path.join(folder, "mesh.yaml"), "w") as f:
            f.write("\n---\n".join(json.dumps(d) for d in self._documents(ctx, v)) + "\n")
        with open(os.path.join(state, "instances.json"), "w") as f:
            json.dump(self._instances(ctx), f)
        for path in (state, os.path.join(state, "instances.json")):
            os.chown(path, ctx.proxy_uid, ctx.proxy_uid)

    def proxy_argv(self, ctx, side):
        return [self.proxy()]

    # -- processes ---------------------------------------------------------------
    def start(self, ctx, v):
        state = os.path.join(ctx.dir, "state")
        mesh = ctx.spawn("mesh", [self.path(), "control", "run", "--state", state, "-f", os.path.join(ctx.dir, "mesh"),
                                  "--grpc", "%s:%d" % (ctx.server_ip, GRPC_PORT), "--api", "127.0.0.1:%d" % API_PORT])
        self._wait_for(mesh, os.path.join(state, "bundle.pem"), ctx)
        self._wait_for(mesh, os.path.join(state, "mesh.sock"), ctx)
        procs = {}
        for side, name in (("inbound", "server"), ("outbound", "client")):
            token = os.path.join(ctx.dir, name + ".token")
            self._token(ctx, state, name, token)
            wal = os.path.join(ctx.dir, "wal-" + name)
            os.mkdir(wal, 0o700)
            os.chown(wal, ctx.proxy_uid, ctx.proxy_uid)
            procs[side] = ctx.spawn(
                side,
                self.proxy_argv(ctx, side) + ["--instance", name + "-0.bench", "--identity", ctx.spiffe(name),
                 "--trust-domain", DOMAIN, "--mesh-address", "%s:%d" % (ctx.server_ip, GRPC_PORT),
                 "--join-token-file", token, "--bundle", os.path.join(state, "bundle.pem"),
                 "--wal-dir", wal, "--audit-level", "os", "--workers", str(ctx.workers)] + ctx.extra)
        ctx.beside["mesh"] = mesh
        return procs

    def _wait_for(self, mesh, path, ctx):
        end = time.time() + 30
        while not os.path.exists(path):
            if mesh.poll() is not None:
                raise RuntimeError("the mesh process ended with %s; see %s" % (mesh.returncode, ctx.logdir))
            if time.time() > end:
                raise RuntimeError("the mesh process did not come up; see %s" % ctx.logdir)
            time.sleep(0.05)

    def _token(self, ctx, state, name, path):
        argv = ctx.prefix("mesh", "server", ctx.proxy_uid) + [
            self.path(), "ca", "token", "create", "--identity", ctx.spiffe(name), "--state", state]
        for attempt in range(50):
            r = subprocess.run(argv, capture_output=True, text=True, cwd=ctx.dir)
            if r.returncode == 0:
                break
            time.sleep(0.2)
        else:
            raise RuntimeError("no join token: %s" % (r.stdout + r.stderr).strip())
        with open(path, "w") as f:
            f.write(r.stdout)
        os.chmod(path, 0o600)
        os.chown(path, ctx.proxy_uid, ctx.proxy_uid)


PEER = Ours()
