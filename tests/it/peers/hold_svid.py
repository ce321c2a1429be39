"""Takes an X.509-SVID from the Workload API and hands it to the test: DER in base64, as JSON, to $RESULT."""

import base64
import json
import os
import time

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from spiffe import WorkloadApiClient


def text(der):
    return base64.b64encode(der).decode("ascii")


def main():
    svid = WorkloadApiClient().fetch_x509_svid()
    key = svid.private_key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    chain = [text(cert.public_bytes(Encoding.DER)) for cert in svid.cert_chain]
    path = os.environ["RESULT"]
    with open(path + ".new", "w", encoding="utf-8") as out:
        json.dump({"key": text(key), "chain": chain}, out)
    os.rename(path + ".new", path)
    while True:
        time.sleep(3600)


main()
