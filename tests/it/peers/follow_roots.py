"""Follows its X.509 contexts with the stock SPIFFE library, and writes to $RESULT what each had: which roots, and whether its
own chain leads to one of them."""

import json
import os
import time

from cryptography.hazmat.primitives.hashes import SHA256
from spiffe import WorkloadApiClient

updates = []


def vouched(svid, roots):
    """Whether a root signed what is last of the chain."""
    for root in roots:
        try:
            svid.cert_chain[-1].verify_directly_issued_by(root)
            return True
        except Exception:  # another name, another key
            pass
    return False


def on_update(context):
    svid = context.default_svid
    bundle = context.x509_bundle_set.get_bundle_for_trust_domain(svid.spiffe_id.trust_domain)
    roots = list(bundle.x509_authorities)
    names = sorted(root.fingerprint(SHA256()).hex() for root in roots)
    updates.append({"roots": names, "vouched": vouched(svid, roots)})
    path = os.environ["RESULT"]
    with open(path + ".new", "w", encoding="utf-8") as out:
        json.dump(updates, out)
    os.rename(path + ".new", path)


client = WorkloadApiClient()
client.stream_x509_contexts(on_update, lambda error: None)
while True:
    time.sleep(3600)
