"""Reeve where every request has a link connection of its own over HTTP, as the peers' have in `newconn`:
`maxRequestsPerConnection: 1`. `ours` declares the port opaque there."""
from .ours import Ours


class OursHttp(Ours):
    name = "ours-http"

    def supports(self, variant):
        return super().supports(variant) and not variant["pool"]

    @staticmethod
    def _opaque(v):
        return v["proto"] == "tcp"


PEER = OursHttp()
