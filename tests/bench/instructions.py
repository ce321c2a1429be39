#!/usr/bin/env python3
"""Instructions that the sidecars execute per request and per new connection, counted by callgrind.

Unlike times, counts do not depend on what else the machine does, so they can be compared with a figure of another day:
`instructions.json` holds the accepted ones, and more than the tolerance above them fails. A pair of real sidecars with
one worker each runs under callgrind from start to end, once with few requests on one connection and once with many: the
difference is what the requests cost, without start, configuration and end.
"""
import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from bench import variant  # noqa: E402
from peers.ours import Ours  # noqa: E402
from stage import HERE, TARGET, Stage  # noqa: E402

REFERENCE = os.path.join(HERE, "instructions.json")
TOLERANCE = 0.05
FEW, MANY = 200, 800
SIDES = ("outbound", "inbound")

#: figure -> (configuration of the pair, load)
FIGURES = {
    "request, identity rule": (variant("h1"), {}),
    "request, full": (variant("h1", log=True, jwt=True), {}),
    "new connection with handshake, opaque": (variant("h1", pool=False), {"newconn": True}),
}


#: one decision among 1,000 policies
DECISION = "decision"
DECIDE = os.environ.get("BENCH_DECIDE") or os.path.join(TARGET, "release/examples/decide_and_record")


class Counted(Ours):
    """Ours under callgrind; two policies, as compiling a thousand takes minutes there."""

    policies = 2

    @staticmethod
    def counted(ctx, side):
        return os.path.join(ctx.dir, "callgrind.%s" % side)

    def proxy_argv(self, ctx, side):
        return ["valgrind", "--tool=callgrind", "--vgdb=no", "--callgrind-out-file=" + self.counted(ctx, side),
                self.proxy()]


def load(stage, header, requests, more):
    argv = stage.load_argv(conns=1, warmup=0, duration=300, timeout=60, path="/b/1024", header=header,
                           requests=requests, **more)
    r = json.loads(subprocess.run(argv, capture_output=True, text=True, check=True).stdout)
    if r["ok"] != requests or r["bad"] or r["errors"]:
        raise SystemExit("the load went wrong: %s" % r)


def run(stage, v, more, requests):
    """Instructions of each side from start to end of a pair that served so many requests."""
    peer = Counted()
    stage.open(peer, v)
    try:
        peer.write_config(stage, v)
        procs = peer.start(stage, v)
        header = "authorization: Bearer " + stage.token() if v["jwt"] else None
        stage.wait_ready(header, seconds=120, procs=procs.values())
        load(stage, header, requests, more)
        out = {}
        for side, proc in procs.items():
            proc.send_signal(signal.SIGTERM)
            proc.wait(60)
            with open(peer.counted(stage, side)) as f:
                out[side] = next(int(line.split()[1]) for line in f if line.startswith("totals:"))
        return out
    finally:
        stage.shut()
        stage.drop_dir()


def count(stage, v, more):
    few, many = run(stage, v, more, FEW), run(stage, v, more, MANY)
    return {side: round((many[side] - few[side]) / (MANY - FEW)) for side in SIDES}


def decisions():
    """Instructions of one decision among 1,000 policies, by the same difference."""
    def total(calls):
        with tempfile.NamedTemporaryFile() as counted:
            subprocess.run(["valgrind", "--tool=callgrind", "--callgrind-out-file=" + counted.name, DECIDE, ".",
                            "--calls", str(calls)], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            with open(counted.name) as f:
                return next(int(line.split()[1]) for line in f if line.startswith("totals:"))
    return round((total(MANY) - total(FEW)) / (MANY - FEW))


def judge(found, accepted):
    """Lines of a table, and whether all is well."""
    fine, lines = True, []
    for name, n in sorted(found.items()):
        base = accepted.get(name)
        if base is None:
            fine = False
            lines.append("%-50s %10d   no accepted figure; --accept writes it" % (name, n))
            continue
        change = n / base - 1
        bad = change > TOLERANCE
        fine &= not bad
        lines.append("%-50s %10d   accepted %10d   %+.1f %%%s" % (name, n, base, change * 100, "   TOO MANY" if bad else ""))
    return fine, lines


def main():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("--work", default="/tmp/meshbench")
    ap.add_argument("--out", help="write the counts here as JSON")
    ap.add_argument("--accept", action="store_true", help="make these counts the accepted ones")
    ap.add_argument("--only", action="append", choices=[*FIGURES, DECISION], help="this figure; may be repeated")
    a = ap.parse_args()
    a.only = a.only or [*FIGURES, DECISION]
    stage, found = Stage(a.work, "free"), {}
    if DECISION in a.only:
        found[DECISION] = decisions()
    for name, (v, more) in FIGURES.items():
        if name not in a.only:
            continue
        for side, n in count(stage, v, more).items():
            found["%s: %s" % (name, side)] = n
    if a.out:
        os.makedirs(os.path.dirname(os.path.abspath(a.out)), exist_ok=True)
        with open(a.out, "w") as f:
            json.dump(found, f, indent=1, sort_keys=True)
    accepted = {}
    if os.path.exists(REFERENCE):
        with open(REFERENCE) as f:
            accepted = json.load(f)
    if a.accept:
        accepted.update(found)
        with open(REFERENCE, "w") as f:
            json.dump(accepted, f, indent=1, sort_keys=True)
            f.write("\n")
    fine, lines = judge(found, accepted)
    print("\n".join(lines))
    raise SystemExit(0 if fine else 1)


if __name__ == "__main__":
    main()
