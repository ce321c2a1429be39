"""Envoy, the reference: mTLS, RBAC on the SPIFFE ID, optional JWT and JSON access log."""
import json
import os

from .base import Peer

T = "type.googleapis.com/"
TLS = T + "envoy.extensions.transport_sockets.tls.v3."


class Envoy(Peer):
    name = "envoy"
    env_var = "BENCH_ENVOY"
    binary = "envoy"
    protos = ("h1", "h2", "tcp")
    features = ("nopool", "log", "noauthz", "rbac1000", "jwt", "tcp")

    def version(self):
        v = super().version()
        return "envoy " + v.split("version:")[-1].strip() if "version:" in v else v

    # -- pieces ---------------------------------------------------------------
    def _tls(self, ctx, me, peer):
        return {
            "tls_params": {
                "tls_minimum_protocol_version": "TLSv1_3",
                "tls_maximum_protocol_version": "TLSv1_3",
                "ecdh_curves": ["X25519"],
            },
            "tls_certificates": [
                {
                    "certificate_chain": {"filename": ctx.cert(me + ".pem")},
                    "private_key": {"filename": ctx.cert(me + ".key")},
                }
            ],
            "validation_context": {
                "trusted_ca": {"filename": ctx.cert("ca.pem")},
                **(
                    {
                        "match_typed_subject_alt_names": [
                            {"san_type": "URI", "matcher": {"exact": ctx.spiffe(peer)}}
                        ]
                    }
                    if peer
                    else {}
                ),
            },
        }

    def _hcm(self, prefix, cluster, filters, log):
        hcm = {
            "@type": T
            + "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": prefix,
            "generate_request_id": False,
            "route_config": {
                "virtual_hosts": [
                    {
                        "name": "all",
                        "domains": ["*"],
                        "routes": [
                            {"match": {"prefix": "/"}, "route": {"cluster": cluster, "timeout": "15s"}}
                        ],
                    }
                ]
            },
            "http_filters": filters
            + [
                {
                    "name": "router",
                    "typed_config": {"@type": T + "envoy.extensions.filters.http.router.v3.Router"},
                }
            ],
        }
        if log:
            hcm["access_log"] = [
                {
                    "name": "file",
                    "typed_config": {
                        "@type": T + "envoy.extensions.access_loggers.file.v3.FileAccessLog",
                        "path": log,
                        "log_format": {
                            "json_format": {
                                "time": "%START_TIME%",
                                "method": "%REQ(:METHOD)%",
                                "path": "%REQ(:PATH)%",
                                "authority": "%REQ(:AUTHORITY)%",
                                "peer": "%DOWNSTREAM_PEER_URI_SAN%",
                                "local": "%DOWNSTREAM_LOCAL_URI_SAN%",
                                "source": "%DOWNSTREAM_REMOTE_ADDRESS%",
                                "status": "%RESPONSE_CODE%",
                                "details": "%RESPONSE_CODE_DETAILS%",
                                "flags": "%RESPONSE_FLAGS%",
                                "bytes": "%BYTES_SENT%",
                                "duration_ms": "%DURATION%",
                            }
                        },
                    },
                }
            ]
        return {"name": "hcm", "typed_config": hcm}

    def _cluster(self, name, ip, port, proto, pool, tls=None):
        http = {"http2_protocol_options": {}} if proto == "h2" else {"http_protocol_options": {}}
        opts = {
            "@type": T + "envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": http,
        }
        if not pool:
            opts["common_http_protocol_options"] = {"max_requests_per_connection": 1}
        c = {
            "name": name,
            "type": "STATIC",
            "connect_timeout": "5s",
            "circuit_breakers": {
                "thresholds": [
                    {"max_connections": 10000, "max_pending_requests": 10000, "max_requests": 10000}
                ]
            },
            "typed_extension_protocol_options": {
                "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": opts
            },
            "load_assignment": {
                "cluster_name": name,
                "endpoints": [
                    {
                        "lb_endpoints": [
                            {
                                "endpoint": {
                                    "address": {
                                        "socket_address": {"address": ip, "port_value": port}
                                    }
                                }
                            }
                        ]
                    }
                ],
            },
        }
        if tls:
            c["transport_socket"] = {"name": "tls", "typed_config": tls}
        return c

    def _boot(self, node, port, hcm, cluster, tls=None):
        chain = {"filters": [hcm]}
        if tls:
            chain["transport_socket"] = {"name": "tls", "typed_config": tls}
        return {
            "node": {"id": node, "cluster": "bench"},
            "static_resources": {
                "listeners": [
                    {
                        "name": node,
                        "address": {"socket_address": {"address": "0.0.0.0", "port_value": port}},
                        "filter_chains": [chain],
                    }
                ],
                "clusters": [cluster],
            },
        }

    def _rbac(self, ctx, rules):
        """`rules` policies; only the one that sorts (and is evaluated) last lets the client in."""
        policies = {}
        for i in range(rules):
            who = ctx.spiffe("client") if i == rules - 1 else ctx.spiffe("other-%d" % i)
            policies["p%05d" % i] = {
                "permissions": [
                    {
                        "and_rules": {
                            "rules": [
                                {"header": {"name": ":method", "string_match": {"exact": "GET"}}},
                                {"url_path": {"path": {"prefix": "/b/"}}},
                            ]
                        }
                    }
                ],
                "principals": [{"authenticated": {"principal_name": {"exact": who}}}],
            }
        return {
            "name": "rbac",
            "typed_config": {
                "@type": T + "envoy.extensions.filters.http.rbac.v3.RBAC",
                "rules": {"action": "ALLOW", "policies": policies},
            },
        }

    def _jwt(self, ctx):
        return {
            "name": "jwt",
            "typed_config": {
                "@type": T + "envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication",
                "providers": {
                    "bench": {
                        "issuer": ctx.jwt_issuer,
                        "audiences": [ctx.jwt_audience],
                        "forward": True,
                        "local_jwks": {"inline_string": ctx.jwks()},
                        "jwt_cache_config": {"jwt_cache_size": 100},
                    }
                },
                "rules": [{"match": {"prefix": "/"}, "requires": {"provider_name": "bench"}}],
            },
        }

    def _tcp(self, prefix, cluster):
        return {
            "name": "tcp",
            "typed_config": {
                "@type": T + "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
                "stat_prefix": prefix,
                "cluster": cluster,
            },
        }

    def _tcp_rbac(self, ctx):
        principal = {"authenticated": {"principal_name": {"exact": ctx.spiffe("client")}}}
        policy = {"permissions": [{"any": True}], "principals": [principal]}
        return {
            "name": "rbac",
            "typed_config": {
                "@type": T + "envoy.extensions.filters.network.rbac.v3.RBAC",
                "stat_prefix": "in",
                "rules": {"action": "ALLOW", "policies": {"client": policy}},
            },
        }

    # -- the adapter ----------------------------------------------------------
    def write_config(self, ctx, v):
        up = {
            "@type": TLS + "UpstreamTlsContext",
            "common_tls_context": self._tls(ctx, "client", "server"),
            "sni": "server.bench.internal",
        }
        down = {
            "@type": TLS + "DownstreamTlsContext",
            "common_tls_context": self._tls(ctx, "server", None),
            "require_client_certificate": True,
        }
        alpn = ["h2"] if v["proto"] == "h2" else ["http/1.1"]
        up["common_tls_context"]["alpn_protocols"] = alpn
        down["common_tls_context"]["alpn_protocols"] = ["h2", "http/1.1"]
        if not v["pool"]:  # every handshake a full one
            up["max_session_keys"] = 0
            down["disable_stateless_session_resumption"] = True
            down["disable_stateful_session_resumption"] = True
        filters = []
        if v["jwt"]:
            filters.append(self._jwt(ctx))
        if v["authz"] != "none":
            filters.append(self._rbac(ctx, 1000 if v["authz"] == "rbac1000" else 1))
        log = os.path.join(ctx.logdir, "envoy-access.json") if v["log"] else None
        out = self._boot(
            "outbound",
            ctx.out_port,
            self._hcm("out", "server", [], None),
            self._cluster("server", ctx.server_ip, ctx.app_port, v["proto"], v["pool"], up),
        )
        inb = self._boot(
            "inbound",
            ctx.in_port,
            self._hcm("in", "app", filters, log),
            self._cluster("app", "127.0.0.1", ctx.app_port, "h1", True),
            down,
        )
        if v["proto"] == "tcp":
            for conf, filters in ((out, [self._tcp("out", "server")]),
                                  (inb, [self._tcp_rbac(ctx), self._tcp("in", "app")])):
                for listener in conf["static_resources"]["listeners"]:
                    listener["filter_chains"][0]["filters"] = filters
                for cluster in conf["static_resources"]["clusters"]:
                    del cluster["typed_extension_protocol_options"]
            for side in (up, down):
                side["common_tls_context"].pop("alpn_protocols")
        for side, conf in (("outbound", out), ("inbound", inb)):
            with open(os.path.join(ctx.dir, "envoy-%s.json" % side), "w") as f:
                json.dump(conf, f, indent=1)

    def start(self, ctx, v):
        procs = {}
        for side in ("inbound", "outbound"):
            procs[side] = ctx.spawn(
                side,
                [
                    self.path(),
                    "-c",
                    os.path.join(ctx.dir, "envoy-%s.json" % side),
                    "--concurrency",
                    "1",
                    "--disable-hot-restart",
                    "-l",
                    "warn",
                ],
            )
        return procs


PEER = Envoy()
