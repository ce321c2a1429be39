#!/usr/bin/env python3
"""Side-by-side benchmark of the sidecar path. See README.md."""
import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import goals  # noqa: E402
import peers  # noqa: E402
import report  # noqa: E402
from stage import Stage, boost, cpu_seconds_fine, measure, rss_kib, tree  # noqa: E402
from peers.base import Unavailable  # noqa: E402


def variant(proto="h1", authz="rbac1", pool=True, log=False, jwt=False, any_link=False, workers=1):
    return {"proto": proto, "authz": authz, "pool": pool, "log": log, "jwt": jwt, "any_link": any_link,
            "workers": workers}


#: tokens signed ahead; no request of a run carries one twice
FRESH_TOKENS = 200_000

#: group -> (variant, [(scenario, load options)]); the proxies are restarted for each group
GROUPS = {
    # everything at once, one repeated token (Envoy caches what it verified, as we do)
    "full": (variant("h2", log=True, jwt=True, any_link=True), [
        ("max-1k", {"path": "/b/1024", "conns": 64}),
        ("rate1000-1k", {"path": "/b/1024", "conns": 64, "rate": 1000}),
    ]),
    # the same with a token that was never seen before in every request
    "full-fresh": (variant("h2", log=True, jwt="fresh", any_link=True), [
        ("max-1k", {"path": "/b/1024", "conns": 64}),
        ("rate1000-1k", {"path": "/b/1024", "conns": 64, "rate": 1000, "skip": FRESH_TOKENS - 20_000}),
    ]),
    # the identity rule alone; a peer that must be told its link is measured with both and the better one counts
    "h1": (variant("h1"), IDENTITY := [
        ("max-1k", {"path": "/b/1024", "conns": 64}),
        ("rate1000-1k", {"path": "/b/1024", "conns": 64, "rate": 1000}),
        ("max-64k", {"path": "/b/65536", "conns": 64}),
        ("hold-1000", {"mode": "hold", "conns": 1000}),
    ]),
    "h2": (variant("h2"), IDENTITY),
    # one client connection, one link connection and one full mTLS handshake per request
    "newconn": (variant("h1", pool=False), [
        ("max-1k", {"path": "/b/1024", "conns": 32, "newconn": True}),
    ]),
    # opaque bytes, four connections
    "tcp": (variant("tcp"), [("stream", {"mode": "stream", "conns": 4})]),
    # one connection carries every call, beside 64 that hardly have any; two workers and both cores for each proxy
    "grpc": (variant("grpc", workers=2), [
        ("hot", {"mode": "grpc", "conns": 64, "streams": 128, "spread": "hot"}),
        ("even", {"mode": "grpc", "conns": 64, "streams": 128, "spread": "even"}),
    ]),
    # not among the goals: what single abilities cost
    "log": (variant("h1", log=True), [("max-1k", {"path": "/b/1024", "conns": 64})]),
    "noauthz": (variant("h1", authz="none"), [("max-1k", {"path": "/b/1024", "conns": 64})]),
    "rbac1000": (variant("h1", authz="rbac1000"), [("max-1k", {"path": "/b/1024", "conns": 64})]),
    "jwt": (variant("h1", jwt=True), [("max-1k", {"path": "/b/1024", "conns": 64})]),
}

#: the groups that the goals are read from
GOAL_GROUPS = ["full", "full-fresh", "h1", "h2", "newconn", "tcp", "grpc"]


def settle(procs, most=20.0):
    """Waits until the proxies have come to rest: what a load left to be done (records to be shipped, connections to be
    closed) is not measured with the next one. The wait is at most `most` seconds."""
    pids = [q for p in procs.values() for q in tree(p.pid)]
    end, calm = time.time() + most, 0
    while calm < 3 and time.time() < end:
        before = cpu_seconds_fine(pids)
        time.sleep(0.2)
        after = cpu_seconds_fine(pids)
        if before is None or after is None:
            return
        calm = calm + 1 if after - before < 0.03 * 0.2 else 0


def one_group(stage, peer, group, only, warmup, duration, keep):
    v, scenarios = GROUPS[group]
    header = "authorization: Bearer " + stage.token() if v["jwt"] else None
    credentials = {"tokens": stage.fresh_tokens(FRESH_TOKENS)} if v["jwt"] == "fresh" else {"header": header}
    out = []
    stage.open(peer, v)
    try:
        peer.write_config(stage, v)
        for base, _, files in os.walk(stage.dir):
            for f in files:
                os.chmod(os.path.join(base, f), 0o644)
        procs = peer.start(stage, v)
        stage.wait_ready(header, procs=procs.values(), mode={"tcp": "stream", "grpc": "grpc"}.get(v["proto"], "load"))
        time.sleep(0.3)
        idle = {k: rss_kib(tree(p.pid)) for k, p in procs.items()}
        for name, load in scenarios:
            if only and name not in only:
                continue
            settle(procs)
            r = measure(stage, procs, warmup, duration, **credentials, **load)
            if r.get("token_wraps"):
                raise RuntimeError("more requests than fresh tokens; raise FRESH_TOKENS")
            r["idle_rss_kib"] = {k: x[0] for k, x in idle.items()}
            r["idle_pss_kib"] = {k: x[1] for k, x in idle.items()}
            out.append((name, r))
        for k, p in procs.items():
            if p.poll() is not None:
                raise RuntimeError("the %s proxy died (%s)" % (k, p.returncode))
    finally:
        stage.shut()
        if not keep:
            stage.drop_dir()
    return out


def pick(names):
    ok, missing = [], {}
    for n in names:
        p = peers.load(n)
        try:
            p.path()
            ok.append(p)
        except Unavailable as e:
            missing[n] = str(e)
    return ok, missing


def cmd_run(a):
    chosen, missing = pick(a.peers)
    for n, why in missing.items():
        print("leaving out %s: %s" % (n, why))
    stage = Stage(a.work, a.layout)
    res = {
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "kernel": platform.release(), "cores": len(os.sched_getaffinity(0)), "layout": a.layout,
        "rounds": a.rounds, "warmup_s": a.warmup, "duration_s": a.duration,
        "versions": {p.name: p.version() for p in chosen}, "left_out": missing,
        "file_system": stage.file_system(),
        "layers": {p.name: p.layer for p in chosen}, "samples": [], "failures": [],
    }
    os.makedirs(a.out, exist_ok=True)
    if any(p.name == "ours" for p in chosen):
        try:
            res["decide_and_record"] = stage.decide_and_record()
        except (RuntimeError, OSError, ValueError, subprocess.SubprocessError) as e:
            print("decide and record FAILED: %s" % e, flush=True)
            res["failures"].append({"round": 0, "peer": "ours", "group": "decide and record", "why": str(e)})
    for rnd in range(a.rounds):
        for group in a.groups:
            # interleave: within a round every peer meets each group back to back,
            # and the order turns by one each round
            order = chosen[rnd % len(chosen):] + chosen[:rnd % len(chosen)]
            for p in order:
                if not p.supports(GROUPS[group][0]):
                    continue
                t = time.time()
                try:
                    rows = one_group(stage, p, group, a.scenarios, a.warmup, a.duration, a.keep)
                except (RuntimeError, ValueError, OSError, subprocess.SubprocessError) as e:
                    print("round %d %s/%s FAILED: %s" % (rnd, group, p.name, e), flush=True)
                    res["failures"].append({"round": rnd, "peer": p.name, "group": group, "why": str(e)})
                    continue
                for name, r in rows:
                    res["samples"].append({"round": rnd, "peer": p.name, "group": group, "scenario": name, "r": r})
                    lat = r.get("latency_us", {})
                    if "bytes_per_cpu_s" in r:
                        print("round %d %-8s %-8s %-12s %8.0f MB/s  %.0f MB per CPU second  foreign %.2f" % (
                            rnd, group, p.name, name, r["bytes_per_s"] / 1e6, r["bytes_per_cpu_s"] / 1e6,
                            r["foreign_cores"]), flush=True)
                        continue
                    print("round %d %-8s %-8s %-12s %8.0f rps  p50 %7.0f p99 %8.0f us  cpu/1k %.4f s  errors %s  foreign %.2f"
                          % (rnd, group, p.name, name, r.get("rps", 0), lat.get("p50", -1), lat.get("p99", -1),
                             r.get("cpu_s_per_1k", 0), r.get("errors", 0) + r.get("bad", 0) + r.get("unanswered", 0),
                             r.get("foreign_cores", 0)), flush=True)
                if a.verbose:
                    print("  group took %.1f s" % (time.time() - t))
            with open(os.path.join(a.out, "results.json"), "w") as f:
                json.dump(res, f, indent=1)
    text = report.markdown(res) + "\n" + goals.markdown(goals.figures(res))
    with open(os.path.join(a.out, "results.md"), "w") as f:
        f.write(text)
    print(text)
    if a.json:
        os.makedirs(os.path.dirname(os.path.abspath(a.json)), exist_ok=True)
        with open(a.json, "w") as f:
            json.dump(goals.document(res), f, indent=1)


def cmd_list(a):
    for n in peers.NAMES:
        p = peers.load(n)
        try:
            print("%-8s %s  [%s; %s; %s]" % (n, p.version() if p.path() or n == "direct" else "", p.layer,
                                           "/".join(p.protos), ", ".join(p.features)))
        except Unavailable as e:
            print("%-8s unavailable: %s" % (n, e))


def cmd_verify(a):
    """Is each peer really doing what it is measured at? Ask its inbound side directly."""
    import verify
    chosen, _ = pick(a.peers)
    bad = 0
    for p in chosen:
        if p.name == "direct":
            continue
        stage = Stage(a.work, "free")
        bad += verify.check(stage, p, GROUPS["h1"][0] if "h1" in p.protos else GROUPS["h2"][0])
    raise SystemExit(1 if bad else 0)


def cmd_limits(a):
    """What the machine itself can do: the primitives under every proxy."""
    for argv in (["ecdsap256"], ["ecdhx25519"], ["ecdhp256"], ["-evp", "aes-128-gcm", "-bytes", "16384"],
                 ["-evp", "aes-128-gcm", "-bytes", "1024"], ["-evp", "chacha20-poly1305", "-bytes", "16384"]):
        r = subprocess.run(["taskset", "-c", "1", "openssl", "speed", "-seconds", "2"] + argv,
                           capture_output=True, text=True)
        print("\n".join(x for x in r.stdout.splitlines() if x and not x.startswith(("version", "built", "options", "compiler", "CPUINFO"))))


def cmd_crosscheck(a):
    """The harness's own generator beside wrk, h2load and fortio on the same running pair."""
    import shutil
    chosen, _ = pick(a.peers)
    url = "http://%s:%d/b/1024"
    tools = {
        "meshbench": None,
        "wrk": lambda u: ["wrk", "-t1", "-c64", "-d4", "--latency", u],
        "h2load": lambda u: ["h2load", "--h1", "-t1", "-c64", "-D4", u],
        "fortio": lambda u: [os.environ.get("BENCH_FORTIO", "fortio"), "load", "-quiet", "-qps", "0", "-c", "64", "-t", "4s", u],
        "meshbench@1000": None,
        "fortio@1000": lambda u: [os.environ.get("BENCH_FORTIO", "fortio"), "load", "-quiet", "-qps", "1000",
                                  "-uniform", "-nocatchup", "-c", "16", "-t", "4s", "-p", "50,90,99,99.9", u],
    }
    stage = Stage(a.work, "split")
    for p in chosen:
        v = GROUPS["h1" if "h1" in p.protos else "h2"][0]
        stage.open(p, v)
        try:
            p.write_config(stage, v)
            for base, _, files in os.walk(stage.dir):
                for f in files:
                    os.chmod(os.path.join(base, f), 0o644)
            procs = p.start(stage, v)
            stage.wait_ready(procs=procs.values())
            for name, argv in tools.items():
                if argv is None:
                    r = measure(stage, procs, 0.5, 4, path="/b/1024", conns=64,
                                rate=1000 if "@" in name else None)
                    lat = r["latency_us"]
                    print("%-8s %-15s %.0f rps, mean %.0f p50 %.0f p99 %.0f us" % (
                        p.name, name, r["rps"], lat["mean"], lat["p50"], lat["p99"]), flush=True)
                    continue
                cmd = argv(url % (stage.server_ip, stage.app_port))
                if not shutil.which(cmd[0]):
                    print("%-8s %-15s not here" % (p.name, name))
                    continue
                q = subprocess.Popen(stage.prefix("load", "client") + cmd, stdout=subprocess.PIPE,
                                     stderr=subprocess.STDOUT, text=True, start_new_session=True)
                boost(q.pid)
                text = q.communicate()[0]
                keep = [x.strip() for x in text.splitlines() if x.strip().startswith(
                    ("Requests/sec", "Latency  ", "50%", "99%", "finished in", "time for request", "# target", "All done", "Non-2xx", "Socket err"))]
                print("%-8s %-15s %s" % (p.name, name, "; ".join(keep)), flush=True)
        finally:
            stage.shut()
            stage.drop_dir()


def cmd_report(a):
    with open(a.json) as f:
        res = json.load(f)
    print(report.markdown(res) + "\n" + goals.markdown(goals.figures(res)))


def main():
    ap = argparse.ArgumentParser(description=__doc__)
    sub = ap.add_subparsers(required=True)
    r = sub.add_parser("run")
    r.set_defaults(f=cmd_run)
    r.add_argument("--peers", type=lambda s: s.split(","), default=peers.NAMES)
    r.add_argument("--groups", type=lambda s: s.split(","), default=GOAL_GROUPS)
    r.add_argument("--scenarios", type=lambda s: s.split(","), default=None)
    r.add_argument("--rounds", type=int, default=5)
    r.add_argument("--warmup", type=float, default=1.0)
    r.add_argument("--duration", type=float, default=4.0)
    r.add_argument("--layout", default="split")
    r.add_argument("--work", default="/tmp/meshbench")
    r.add_argument("--out", default="/tmp/meshbench/out")
    r.add_argument("--json", help="write the goals' figures here")
    r.add_argument("--quick", action="store_true", help="one short round")
    r.add_argument("--keep", action="store_true", help="keep configurations and logs")
    r.add_argument("--verbose", action="store_true")
    for name, f in (("list", cmd_list), ("verify", cmd_verify), ("limits", cmd_limits), ("crosscheck", cmd_crosscheck)):
        s = sub.add_parser(name)
        s.set_defaults(f=f)
        s.add_argument("--peers", type=lambda s: s.split(","), default=peers.NAMES)
        s.add_argument("--work", default="/tmp/meshbench")
    s = sub.add_parser("report")
    s.add_argument("json")
    s.set_defaults(f=cmd_report)
    a = ap.parse_args()
    if getattr(a, "quick", False):
        a.rounds, a.warmup, a.duration = 1, 0.5, 2.0
    # a plain kill must clean up too
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    a.f(a)


if __name__ == "__main__":
    main()
