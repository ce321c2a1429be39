"""What the harness asks of a peer."""
import os
import shutil
import subprocess


class Unavailable(Exception):
    """The peer cannot run here; the reason is the message."""


class Peer:
    name = "?"
    #: what the peer decides on: "L7" (per request), "L4" (per connection), "none"
    layer = "L7"
    #: link protocols between the sidecars that the peer can speak ("h1", "h2")
    protos = ("h1", "h2")
    #: optional abilities: nopool, log, noauthz, rbac1000, jwt
    features = ()
    #: does the harness redirect the application's traffic into the proxies?
    intercept = True
    #: is the inbound side's TLS port redirected (8080) or its own?
    tls_port = 8080
    #: where the outbound side takes traffic, if not at `ctx.out_port` of whichever address
    out_address = None
    #: where the inbound side takes traffic, if not at `ctx.in_port`
    in_port = None
    #: where the backend listens; one that shares a port number with its sidecar keeps to loopback
    backend_address = "0.0.0.0"
    #: can `verify` reach its inbound side with the bench's own certificates over HTTP/1.1?
    probe_positive = True
    env_var = None
    binary = None

    def path(self):
        p = os.environ.get(self.env_var or "", "") or shutil.which(self.binary or "")
        if not p:
            raise Unavailable(
                "no %s on PATH; set %s" % (self.binary, self.env_var)
            )
        return p

    def version(self):
        out = subprocess.run([self.path()] + self.version_args, capture_output=True, text=True)
        return (out.stdout + out.stderr).strip().splitlines()[0]

    version_args = ["--version"]

    def supports(self, variant):
        if variant["proto"] not in self.protos:
            return False
        need = set()
        if not variant["pool"]:
            need.add("nopool")
        if variant["log"]:
            need.add("log")
        if variant["jwt"]:
            need.add("jwt")
        if variant["authz"] == "none":
            need.add("noauthz")
        if variant["authz"] == "rbac1000":
            need.add("rbac1000")
        return need <= set(self.features)

    def write_config(self, ctx, variant):
        """Write both configurations below ctx.dir."""
        raise NotImplementedError

    def start(self, ctx, variant):
        """Start both proxies with ctx.spawn(); return {"outbound": Popen, "inbound": Popen}."""
        raise NotImplementedError
