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


def figures(res):
    """The goals' figures as a list of objects; those that were not measured have no value."""
    out = []
    for figure, groups, scenario, read, unit, peer, more, goal in GOALS:
        ours = _by_round(res, "ours", groups, scenario, read, more)
        theirs = _by_round(res, peer, groups, scenario, read, more)
        ratios = [ours[k] / theirs[k] for k in ours if theirs.get(k)]
        ratio = median(ratios) if ratios else None
        out.append({
            "figure": figure, "unit": unit, "peer": peer, "rounds": len(ratios),
            "value": median(ours.values()) if ours else None,
            "peer_value": median(theirs.values()) if theirs else None,
            "ratio": ratio, "goal": ("≥ %g" if more else "≤ %g") % goal,
            "met": None if ratio is None else (ratio >= goal if more else ratio <= goal),
        })
    return out


def markdown(rows):
    """The same as a table."""
    def number(value):
        return "–" if value is None else "{:,.0f}".format(value) if value >= 100 else "%.2f" % value
    out = ["## Goals", "", "Ratios are medians of same-round ratios.", "",
           "| figure | ours | peer | | ratio | goal | met |", "|---|---|---|---|---|---|---|"]
    for r in rows:
        met = {True: "yes", False: "NO", None: "not measured"}[r["met"]]
        out.append("| %s (%s) | %s | %s | %s | %s | %s | %s |" % (
            r["figure"], r["unit"], number(r["value"]), number(r["peer_value"]), r["peer"], number(r["ratio"]),
            r["goal"], met))
    return "\n".join(out) + "\n"
