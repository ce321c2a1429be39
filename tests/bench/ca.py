#!/usr/bin/env python3
"""What the certificate authority takes: issuing beside the raw signatures that it rests on, and ten thousand agents that all
have to renew when it comes back from an outage. One table, and the figures as JSON.

The tool is an example of reeve-ca in three roles (ca/examples/issue_speed.rs). Authority and agents are two processes of this
machine and share its cores. Nothing else should run on the machine meanwhile.
"""
import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time


def tell(text):
    print("+ " + text, file=sys.stderr, flush=True)


class Process:
    """One role of the tool, spoken to by lines."""

    def __init__(self, *command):
        tell(" ".join(command))
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, line):
        print(line, file=self.process.stdin, flush=True)
        return json.loads(self.answer())

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            sys.exit("the tool ended: exit code %s" % self.process.wait())
        return line

    def kill(self):
        self.process.kill()
        self.process.wait()


def wait_for(path):
    while not os.path.exists(path):
        time.sleep(0.05)


def issuing(tool, seconds):
    text = subprocess.run([tool, "issue", str(seconds)], check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(text)


def outage(tool, folder, agents, ttl):
    """All join; the authority is killed until every certificate is past its half-life; it comes back."""
    authority = Process(tool, "serve", folder, str(agents), str(ttl))
    wait_for(os.path.join(folder, "address"))
    empty = authority.ask("?")
    began = time.monotonic()
    herd = Process(tool, "herd", folder, str(agents))
    herd.answer()
    tell("all have joined after %.0f s" % (time.monotonic() - began))
    # Let buffers of handshakes go, and see that all follow.
    deadline = time.monotonic() + 30
    while authority.ask("?")["members"] < agents and time.monotonic() < deadline:
        time.sleep(1)
    time.sleep(2)
    full = authority.ask("?")
    if full["members"] < agents:
        sys.exit("only %d of %d agents follow" % (full["members"], agents))
    if time.monotonic() - began > ttl * 0.38:
        sys.exit("the first certificates are due already; use a longer life than %d s" % ttl)
    authority.kill()
    over = began + ttl * 0.5 + (time.monotonic() - began)
    tell("the authority is away for %.0f s" % (over - time.monotonic()))
    time.sleep(max(0, over - time.monotonic()))
    print("watch", file=herd.process.stdin, flush=True)
    authority = Process(tool, "serve", folder, str(agents), str(ttl))
    seen = json.loads(herd.answer())
    after = authority.ask("?")
    herd.kill()
    authority.kill()
    kib = (full["rss_kib"] - empty["rss_kib"]) / agents
    return {"agents": agents, "kib_per_agent": kib, "empty": empty, "full": full, "renewals": seen, "after": after}


def figure(name, value, unit, goal=None, peer=None, peer_value=None, ratio=None, met=None):
    return {"figure": name, "value": value, "unit": unit, "goal": goal, "met": met, "peer": peer, "peer_value": peer_value,
            "ratio": ratio}


def figures(issued, herd):
    verify, sign = 1 / issued["verified_per_s"], 1 / issued["signed_per_s"]
    both, least = 1 / (verify + sign), 1 / (2 * verify + sign)
    share = issued["issued_per_s"] * (verify + sign)
    seen, after, agents = herd["renewals"], herd["after"], "{:,}".format(herd["agents"])
    counts = [count for _, count in seen["per_second"]]
    return [
        figure("a raw P-256 verification", 1e6 * verify, "µs"),
        figure("a raw P-256 signature", 1e6 * sign, "µs"),
        figure("issued on one core", issued["issued_per_s"], "certificates/s", 0.60, "a raw verification and a signature",
               both, round(share, 3), share >= 0.60),
        # The request's proof, the signature, and the check of what was signed.
        figure("the same", issued["issued_per_s"], "certificates/s", None, "two raw verifications and a signature", least,
               round(issued["issued_per_s"] / least, 3)),
        figure("until %s agents had renewed after an outage" % agents, seen["took_s"], "s"),
        figure("busiest second of it", max(counts), "certificates"),
        figure("sent away to come again", after["sent_away"], "requests"),
        figure("the authority's CPU for a renewal, handshakes included", 1000 * after["cpu_s"] / after["issued"], "ms"),
        figure("memory for a connected agent", herd["kib_per_agent"], "KiB", 50, met=herd["kib_per_agent"] <= 50),
    ]


def number(value):
    if value is None:
        return "–"
    return "{:,.0f}".format(value) if value >= 1000 else "{:.3g}".format(value)


def table(rows):
    out = ["| figure | ours | peer | its | ratio | goal | met |", "|---|---|---|---|---|---|---|"]
    for r in rows:
        met = {None: "–", True: "yes", False: "NO"}[r["met"]]
        out.append("| %s | %s %s | %s | %s | %s | %s | %s |" % (
            r["figure"], number(r["value"]), r["unit"], r["peer"] or "–", number(r["peer_value"]), number(r["ratio"]),
            number(r["goal"]), met))
    return "\n".join(out)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tool", required=True, help="the built example issue_speed")
    parser.add_argument("--json", required=True, help="where the figures go")
    parser.add_argument("--agents", type=int, default=10_000)
    parser.add_argument("--ttl", type=int, default=420, help="life of a certificate in seconds; joining must take less than a third")
    parser.add_argument("--quick", action="store_true", help="500 agents and short turns")
    args = parser.parse_args()
    agents, ttl, seconds = (500, 60, 4) if args.quick else (args.agents, args.ttl, 16)
    issued = issuing(args.tool, seconds)
    print(json.dumps(issued), flush=True)
    folder = tempfile.mkdtemp(prefix="bench-ca-")
    try:
        herd = outage(args.tool, folder, agents, ttl)
    finally:
        shutil.rmtree(folder)
    print(json.dumps(herd), flush=True)
    rows = figures(issued, herd)
    os.makedirs(os.path.dirname(args.json) or ".", exist_ok=True)
    with open(args.json, "w", encoding="utf-8") as out:
        json.dump(rows, out, indent=1, ensure_ascii=False)
    print(table(rows))


if __name__ == "__main__":
    main()
