"""The goals as figures: medians of the ratios that were taken within one round."""
from statistics import median

IDENTITY = ("h1", "h2")


def _cpu(r):
    return r["cpu_s_per_1k"] * 1000 if r.get("cpu_s_per_1k") else None


def _rps(r):
    return r.get("rps") or None


def _latency(q):
    return lambda r: r.get("latency_us", {}).get(q)


def _idle(r):
    return sum(r["idle_rss_kib"].values()) / 1024


def _held(r):
    return sum(r["rss_kib"].values()) / 1024


#: figure, groups (the better counts), scenario, reading, unit, peer, is more better, goal of the ratio
GOALS = [
    ("full, repeated token: CPU per request at 1,000/s", ("full",), "rate1000-1k", _cpu, "µs", "envoy", False, 0.40),
    ("full, repeated token: CPU per request flat out", ("full",), "max-1k", _cpu, "µs", "envoy", False, 0.35),
    ("full, repeated token: highest throughput", ("full",), "max-1k", _rps, "requests/s", "envoy", True, 2.8),
    ("full, repeated token: p50 at 1,000/s", ("full",), "rate1000-1k", _latency("p50"), "µs", "envoy", False, 0.5),
    ("full, repeated token: p99 at 1,000/s", ("full",), "rate1000-1k", _latency("p99"), "µs", "envoy", False, 0.5),
    ("full, fresh tokens: CPU per request at 1,000/s", ("full-fresh",), "rate1000-1k", _cpu, "µs", "envoy", False, 0.40),
    ("full, fresh tokens: CPU per request flat out", ("full-fresh",), "max-1k", _cpu, "µs", "envoy", False, 0.35),
    ("full, fresh tokens: highest throughput", ("full-fresh",), "max-1k", _rps, "requests/s", "envoy", True, 2.8),
    ("full, fresh tokens: p50 at 1,000/s", ("full-fresh",), "rate1000-1k", _latency("p50"), "µs", "envoy", False, 0.5),
    ("full, fresh tokens: p99 at 1,000/s", ("full-fresh",), "rate1000-1k", _latency("p99"), "µs", "envoy", False, 0.5),
    ("identity rule, best link: CPU per request at 1,000/s", IDENTITY, "rate1000-1k", _cpu, "µs", "envoy", False, 0.42),
    ("identity rule, best link: throughput", IDENTITY, "max-1k", _rps, "requests/s", "envoy", True, 2.4),
    ("identity rule, best link: CPU per request at 1,000/s", IDENTITY, "rate1000-1k", _cpu, "µs", "haproxy", False, 0.85),
    ("new client connection and mTLS handshake per request", ("newconn",), "max-1k", _rps, "requests/s", "envoy", True, 1.1),
    ("64 KiB bodies: CPU per request", IDENTITY, "max-64k", _cpu, "µs", "envoy", False, 0.55),
    ("TCP pass-through: bytes per CPU second", ("tcp",), "stream", lambda r: r.get("bytes_per_cpu_s"), "bytes/s",
     "envoy", True, 1.2),
    ("memory of the pair at rest", IDENTITY, "rate1000-1k", _idle, "MiB", "envoy", False, 0.25),
    ("memory of the pair with 1,000 connections", IDENTITY, "hold-1000", _held, "MiB", "envoy", False, 0.5),
]


#: ours against ours: figure, group, scenario, the scenario it is held against, reading, unit, goal of the ratio (at least)
WITHIN = [
    ("one hot gRPC connection beside 64 cool ones, against the same calls spread evenly", "grpc", "hot", "even", _rps,
     "requests/s", 0.8),
]

#: µs of CPU time
DECIDE_AND_RECORD = 10


def _by_round(res, peer, groups, scenario, read, more):
    """round -> the better of the groups' figures; a sample with failed requests does not count."""
    best = {}
    for s in res["samples"]:
        r = s["r"]
        if s["peer"] != peer or s["group"] not in groups or s["scenario"] != scenario:
            continue
        if r.get("errors") or r.get("bad") or r.get("unanswered"):
            continue
        value = read(r)
        if value is None:
            continue
        kept = best.get(s["round"])
        best[s["round"]] = value if kept is None else (max if more else min)(kept, value)
    return best


def _figure(figure, unit, peer, ours, theirs, more, goal, limit=None):
    """One row. `goal` is of the ratio, or `limit` of our own value."""
    by_round = {k: ours[k] / theirs[k] for k in sorted(ours) if theirs.get(k)}
    ratio = median(by_round.values()) if by_round else None
    value = median(ours.values()) if ours else None
    held = value if limit is not None else ratio
    bound = limit if limit is not None else goal
    return {
        "figure": figure, "unit": unit, "peer": peer, "rounds": len(by_round) or len(ours),
        "value": value, "peer_value": median(theirs.values()) if theirs else None,
        "ratio": ratio, "ratios": {str(k): v for k, v in by_round.items()},
        "values": {str(k): v for k, v in sorted(ours.items())},
        "peer_values": {str(k): v for k, v in sorted(theirs.items())},
        "goal": ("≥ %g" if more else "≤ %g") % bound + (" " + unit if limit is not None else ""),
        "met": None if held is None else (held >= bound if more else held <= bound),
    }


def document(res):
    """All of it for a machine: what was measured where, the goals' figures, and what did not work."""
    keys = ("when", "kernel", "cores", "layout", "file_system", "rounds", "warmup_s", "duration_s", "versions", "left_out",
            "decide_and_record", "failures")
    return {**{k: res[k] for k in keys if k in res}, "goals": figures(res)}


def figures(res):
    """The goals' figures as a list of objects; those that were not measured have no value."""
    out = []
    for figure, groups, scenario, read, unit, peer, more, goal in GOALS:
        ours = _by_round(res, "ours", groups, scenario, read, more)
        theirs = _by_round(res, peer, groups, scenario, read, more)
        out.append(_figure(figure, unit, peer, ours, theirs, more, goal))
        beside = _by_round(res, "ours-http", groups, scenario, read, more)
        if beside:
            out.append({**_figure(figure + ", ours over HTTP", unit, peer, beside, theirs, more, goal),
                        "goal": None, "met": None})
        hybrid = _by_round(res, "ours-pq", groups, scenario, read, more)
        if hybrid:
            # no goal of its own: the peers have no hybrid key exchange here
            out.append({**_figure(figure + ", ours with X25519MLKEM768", unit, peer, hybrid, theirs, more, goal),
                        "goal": None, "met": None})
    for figure, group, scenario, against, read, unit, goal in WITHIN:
        ours = _by_round(res, "ours", (group,), scenario, read, True)
        theirs = _by_round(res, "ours", (group,), against, read, True)
        out.append(_figure(figure, unit, "ours, " + against, ours, theirs, True, goal))
    alone = res.get("decide_and_record")
    kind = " on %s" % alone["file_system"] if alone else ""
    spent = {0: alone["cpu_us"]["decide_and_record"]} if alone else {}
    out.append(_figure("decide and record, 1,000 policies, level os%s: CPU" % kind, "µs", "none", spent, {}, False, None,
                       DECIDE_AND_RECORD))
    return out


def markdown(rows):
    """The same as a table."""
    def number(value):
        return "–" if value is None else "{:,.0f}".format(value) if value >= 100 else "%.2f" % value
    out = ["## Goals", "", "Ratios are medians of same-round ratios.", "",
           "| figure | ours | peer | | ratio | goal | met |", "|---|---|---|---|---|---|---|"]
    for r in rows:
        met = "–" if r["goal"] is None else {True: "yes", False: "NO", None: "not measured"}[r["met"]]
        out.append("| %s (%s) | %s | %s | %s | %s | %s | %s |" % (
            r["figure"], r["unit"], number(r["value"]), number(r["peer_value"]), r["peer"], number(r["ratio"]),
            r["goal"] or "–", met))
    return "\n".join(out) + "\n"
