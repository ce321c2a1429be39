"""Reeve as it comes: X25519MLKEM768 first. Measured beside `ours` where handshakes count, and once where they do not."""
from .ours import Ours


class OursPostQuantum(Ours):
    name = "ours-pq"
    curves = None

    def supports(self, variant):
        return super().supports(variant) and (not variant["pool"] or variant["jwt"] is True)


PEER = OursPostQuantum()
