"""An application that tries to go around its sidecar; writes what came of each try to the file named by OUT."""

import os
import subprocess
import time

results = []


def attempt(name, action):
    try:
        action()
        results.append(f"{name} worked")
    except (OSError, subprocess.CalledProcessError):
        results.append(f"{name} refused")


def flush_rules():
    subprocess.run(["nft", "flush", "ruleset"], check=True, capture_output=True)


def leave():
    subprocess.run(["nsenter", "--net=/proc/1/ns/net", "true"], check=True, capture_output=True)


attempt("flush", flush_rules)
attempt("leave", leave)
attempt("setgid", lambda: os.setgid(int(os.environ["SIDECAR"])))
attempt("setuid", lambda: os.setuid(int(os.environ["SIDECAR"])))
with open(os.environ["OUT"], "w", encoding="utf-8") as out:
    out.write("\n".join(results))
time.sleep(1000)
