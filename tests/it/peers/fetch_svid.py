"""Takes X.509-SVIDs and JWT-SVIDs from the Workload API with the stock SPIFFE library, and writes what it got to $RESULT.

Waits for three updates, so that rotation is seen to be pushed.
"""

import json
import os
import threading
import time

from cryptography.hazmat.primitives.asymmetric import ec
from spiffe import JwtSvid, SpiffeId, TrustDomain, WorkloadApiClient

updates = []
errors = []
enough = threading.Event()


def on_update(context):
    svid = context.default_svid
    bundle = context.x509_bundle_set.get_bundle_for_trust_domain(svid.spiffe_id.trust_domain)
    key = svid.private_key
    public = lambda k: k.public_numbers()
    updates.append(
        {
            "spiffe_id": str(svid.spiffe_id),
            "serial": str(svid.leaf.serial_number),
            "chain": len(svid.cert_chain),
            "authorities": len(bundle.x509_authorities),
            "p256": isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name == "secp256r1",
            "key_fits": public(key.public_key()) == public(svid.leaf.public_key()),
        }
    )
    if len(updates) >= 3:
        enough.set()


def refused(call):
    try:
        return repr(call())
    except Exception as error:  # whatever the library makes of a refusal
        return type(error).__name__


def jwt(client):
    """A token, by whom the library itself and the agent say it is, and what neither accepts."""
    token = client.fetch_jwt_svid(audience={"ledger"}).token
    bundles = client.fetch_jwt_bundles()
    domain = TrustDomain("mesh.local")
    read = JwtSvid.parse_and_validate(
        token, bundles.get_bundle_for_trust_domain(domain), {"ledger"}
    )
    return {
        "by_the_library": str(read.spiffe_id),
        "by_the_agent": str(client.validate_jwt_svid(token, audience="ledger").spiffe_id),
        "elsewhere": refused(lambda: client.validate_jwt_svid(token, audience="pay")),
        "anothers": refused(
            lambda: client.fetch_jwt_svid(
                audience={"ledger"}, subject=SpiffeId("spiffe://mesh.local/ns/default/sa/echo")
            )
        ),
    }


def main():
    client = WorkloadApiClient()
    stop = client.stream_x509_contexts(on_update, lambda error: errors.append(repr(error)))
    enough.wait(60)
    stop.cancel()
    bundles = client.fetch_x509_bundles(timeout=10)
    result = {
        "updates": updates,
        "errors": errors,
        "bundles": len(bundles.bundles),
        "jwt": jwt(client),
    }
    path = os.environ["RESULT"]
    with open(path + ".new", "w", encoding="utf-8") as out:
        json.dump(result, out)
    os.rename(path + ".new", path)
    while True:
        time.sleep(3600)


main()
