#!/usr/bin/env python3
"""How long `reeve policy whatif` and `reeve policy suggest` take for a trail of a million decisions.

The trail is written once by the audit crate's own writer (the example `write_trail` of reeve-analysis says what is in
it); each verb then runs several times as a user would run it. The median counts.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from statistics import median

GOAL_S = 10.0


def run(command):
    """Wall clock and CPU in seconds, most memory in MiB, exit code, standard output."""
    with tempfile.TemporaryFile() as out:
        began = time.monotonic()
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.monotonic() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        text = out.read()
    return wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, process.returncode, text


def measure(name, command, runs, codes):
    rounds = [run(command) for _ in range(runs)]
    for wall, _, _, code, text in rounds:
        if code not in codes:
            sys.exit(f"{' '.join(command)}: exit code {code}\n{text.decode(errors='replace')}")
    wall, cpu, memory = (median(r[n] for r in rounds) for n in range(3))
    print(f"{name:<44} {wall:6.2f} s   {cpu:6.2f} s of CPU   {memory:6.0f} MiB")
    return wall, cpu, memory, json.loads(rounds[-1][4])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reeve", required=True)
    parser.add_argument("--writer", required=True, help="the example write_trail")
    parser.add_argument("--trail", required=True, help="where the trail is, or goes")
    parser.add_argument("--decisions", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", help="figures go there")
    args = parser.parse_args()
    folder = f"{args.trail}/{args.decisions}"
    if not os.path.exists(f"{folder}/done"):
        subprocess.run([args.writer, folder, str(args.decisions)], check=True)
        open(f"{folder}/done", "w").close()
    size = sum(os.path.getsize(os.path.join(at, name)) for at, _, names in os.walk(f"{folder}/audit") for name in names)
    print(f"{args.decisions:,} decisions and their outcomes, {size / 2**20:,.0f} MiB; median of {args.runs} runs")
    log = ["--dir", f"{folder}/audit", "-o", "json"]
    wall, cpu, memory, found = measure(
        "reeve policy whatif", [args.reeve, "policy", "whatif", "-f", f"{folder}/mesh", *log], args.runs, (0, 1))
    print(f"  {found['decisions']:,} decisions: {found['newly_denied']:,} newly denied, {found['newly_permitted']:,} newly permitted, "
          f"{found['undetermined']:,} undetermined; the candidate was asked {found['asked']:,} times")
    suggest, _, _, made = measure("reeve policy suggest", [args.reeve, "policy", "suggest", *log], args.runs, (0,))
    print(f"  {len(made['suggestions'])} suggestions")
    if found["decisions"] != args.decisions:
        sys.exit(f"{found['decisions']} decisions were read, not {args.decisions}")
    goal = GOAL_S * args.decisions / 1_000_000
    figures = [
        {"figure": f"whatif, {args.decisions} decisions", "value": wall, "unit": "s", "goal": goal, "met": wall <= goal},
        {"figure": "whatif, CPU", "value": cpu, "unit": "s"},
        {"figure": "whatif, most memory", "value": memory, "unit": "MiB"},
        {"figure": f"suggest, {args.decisions} decisions", "value": suggest, "unit": "s", "goal": goal, "met": suggest <= goal},
    ]
    blank = {"peer": None, "peer_value": None, "ratio": None, "goal": None, "met": None}
    if args.json:
        os.makedirs(os.path.dirname(args.json), exist_ok=True)
        with open(args.json, "w") as out:
            json.dump([{**blank, **figure} for figure in figures], out, indent=1)
    sys.exit(0 if wall <= goal and suggest <= goal else 1)


if __name__ == "__main__":
    main()
