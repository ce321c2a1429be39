#!/usr/bin/env python3
"""What a decision costs by the number of policies, beside plain Cedar and OPA: a table, and the figures as JSON.

`authz_cost` (proxy/examples/authz_cost) times this engine and Cedar in one run; `opa` (tests/bench/opa) asks OPA the same
requests about the same policies and compares every answer. Nothing else should run on the machine meanwhile.
"""
import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))


def run(*command, **more):
    print("+", " ".join(command), file=sys.stderr)
    return subprocess.run(command, check=True, **more)


def opa(folder, tool, quick):
    if not shutil.which("go"):
        sys.exit("go is missing: OPA is measured as a Go library (https://go.dev/dl, 1.26 or later)")
    program = os.path.join(folder, "opa")
    run("go", "build", "-o", program, ".", cwd=os.path.join(HERE, "opa"))
    run(tool, "--export", folder, *quick)
    figures = os.path.join(folder, "opa.json")
    run(program, folder, figures)
    with open(figures) as file:
        return {f["policies"]: f for f in json.load(file)}


def micros(nanos):
    return "%.2f" % (nanos / 1000)


def table(rows, peers, swap, memory):
    out = ["| shape | policies | p50 µs | p99 µs | same request again | new caller | plain Cedar p50 | × | OPA p50 | × |",
           "|---|---|---|---|---|---|---|---|---|---|"]
    for r in rows:
        peer = peers.get(r["policies"]) if r["shape"] == "mesh" else None
        out.append("| %s | %s | %s | %s | %s | %s | %s | %.0f | %s | %s |" % (
            r["shape"], "{:,}".format(r["policies"]), micros(r["p50_ns"]), micros(r["p99_ns"]), micros(r["again_p50_ns"]),
            micros(r["new_caller_p50_ns"]), micros(r["cedar_p50_ns"]), r["cedar_p50_ns"] / r["p50_ns"],
            micros(peer["p50_ns"]) if peer else "–", "%.1f" % (peer["p50_ns"] / r["p50_ns"]) if peer else "–"))
    changed, still = swap["swapping"], swap["still"]
    out += ["", "Changing one policy of %s: %.1f ms. Longest decision of a round with %d changes %.0f µs, of one without %.0f (medians "
            "of %d rounds, %s decisions; p99.9 %.1f and %.1f; longest of all rounds, waiting for a processor %.0f and %.0f)." % (
                "{:,}".format(swap["policies"]), swap["change_ms"], swap["swaps"] // swap["rounds"], changed["longest_us"],
                still["longest_us"], swap["rounds"], "{:,}".format(changed["decisions"] + still["decisions"]), changed["p999_us"],
                still["p999_us"], changed["longest_of_all_rounds_us"], still["longest_of_all_rounds_us"])]
    out += ["A policy of %d bytes of text takes %d bytes compiled (OPA: %s)." % (
        memory["text_bytes"], memory["bytes_per_policy"],
        "%d" % peers[max(peers)]["bytes_per_policy"] if peers else "not measured")]
    if peers:
        out += ["OPA gave the same answer to each of %s requests." % "{:,}".format(sum(p["requests"] for p in peers.values()))]
    return "\n".join(out)


def figure(name, value, unit, goal=None, met=None, peer=None, peer_value=None):
    ratio = peer_value / value if peer_value and value else None
    return {"figure": name, "value": value, "unit": unit, "peer": peer, "peer_value": peer_value,
            "ratio": round(ratio, 3) if ratio else None, "goal": goal, "met": met}


def figures(rows, peers, swap, memory):
    out = []
    mesh = {r["policies"]: r for r in rows if r["shape"] == "mesh"}
    for r in rows:
        name = "%s, %d policies: " % (r["shape"], r["policies"])
        p50, cedar = r["p50_ns"] / 1000, r["cedar_p50_ns"] / 1000
        out.append(figure(name + "p50", p50, "µs", "<= 10 µs", p50 <= 10))
        out.append(figure(name + "p99", r["p99_ns"] / 1000, "µs"))
        goal = ">= 800" if (r["shape"], r["policies"]) == ("mesh", 10_000) else None
        out.append(figure(name + "plain Cedar's p50 over ours", p50, "µs", goal, cedar / p50 >= 800 if goal else None,
                          "cedar", cedar))
        if r["shape"] == "mesh" and r["policies"] in peers:
            out.append(figure(name + "OPA's p50 over ours", p50, "µs", None, None, "opa", peers[r["policies"]]["p50_ns"] / 1000))
    for shape in ("mesh", "conditions", "groups"):
        sizes = {r["policies"]: r["p50_ns"] for r in rows if r["shape"] == shape}
        largest = max(sizes)
        growth = sizes[largest] / sizes[10]
        out.append(figure("%s: p50 at %d policies over that at 10" % (shape, largest), round(growth, 3), "ratio", "<= 1.5",
                          growth <= 1.5))
    # What a change holds up shows in every round; what else the machine does, in some.
    longest = swap["swapping"]["longest_us"]
    out.append(figure("longest decision while %d policies are changed, median of rounds" % swap["policies"], longest, "µs",
                      "<= 1000 µs", longest <= 1000, "without changes", swap["still"]["longest_us"]))
    out.append(figure("longest of all rounds, waiting for a processor", swap["swapping"]["longest_of_all_rounds_us"], "µs",
                      None, None, "without changes", swap["still"]["longest_of_all_rounds_us"]))
    out.append(figure("change of one policy of %d" % swap["policies"], swap["change_ms"], "ms"))
    largest = max(mesh)
    out.append(figure("memory per policy at %d" % memory["policies"], memory["bytes_per_policy"], "bytes", None, None,
                      "opa" if peers else None, peers[max(peers)]["bytes_per_policy"] if peers else None))
    out.append(figure("compiling %d policies" % largest, mesh[largest]["compile_ms"], "ms"))
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tool", required=True, help="authz_cost")
    parser.add_argument("--json", required=True)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    quick = ["--quick"] if args.quick else []
    with tempfile.TemporaryDirectory() as folder:
        peers = opa(folder, args.tool, quick)
        ours = os.path.join(folder, "ours.json")
        run(args.tool, ours, *quick)
        with open(ours) as file:
            found = json.load(file)
    memory = json.loads(run(args.tool, "--memory", "1000" if args.quick else "10000", stdout=subprocess.PIPE).stdout)
    print(table(found["rows"], peers, found["swap"], memory))
    os.makedirs(os.path.dirname(os.path.abspath(args.json)), exist_ok=True)
    with open(args.json, "w") as file:
        json.dump(figures(found["rows"], peers, found["swap"], memory), file, indent=1, ensure_ascii=False)
        file.write("\n")


if __name__ == "__main__":
    main()
