#!/usr/bin/env python3
"""What the audit trail costs, beside Tessera and plain JSON lines with grep: one table, and the figures as JSON.

The tools are examples of reeve-audit and reeve-columns; Tessera (tests/bench/tessera) is fed the same records. Nothing else
should run on the machine meanwhile.
"""
import argparse
import json
import os
import shutil
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
# The thirteenth hour of the day that `columns_speed` makes, as it asks for itself.
HOUR = r'"effect":"deny".*"time":17900(43[2-9]|4[45][0-9]|46[0-7])[0-9]{5}'


def run(*command, **more):
    print("+", " ".join(command), file=sys.stderr, flush=True)
    return subprocess.run(command, check=True, **more)


def told(*command, **more):
    """What a tool prints; its last line is JSON."""
    text = run(*command, stdout=subprocess.PIPE, text=True, **more).stdout
    print(text, end="", flush=True)
    return json.loads(text.strip().splitlines()[-1])


def forget(folder):
    """Puts what was written on the disk and out of the page cache."""
    os.sync()
    for at, _, names in os.walk(folder):
        for name in names:
            file = os.open(os.path.join(at, name), os.O_RDONLY)
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(file)


def seconds(command):
    """Wall clock of a shell command, and the number that it prints."""
    began = time.monotonic()
    # grep says 1 when it finds nothing.
    done = subprocess.run(["bash", "-c", command], stdout=subprocess.PIPE, text=True)
    if done.returncode > 1:
        sys.exit("%s: exit code %d" % (command, done.returncode))
    return time.monotonic() - began, int(done.stdout)


def search(tool, folder, records, lines):
    """Denials of an hour: columns, cold; JSON lines with grep, plain and compressed, cold."""
    columns = os.path.join(folder, "columns")
    written = told(tool("columns_speed"), "write", columns, str(records))
    asked = []
    for _ in range(3):
        forget(columns)
        asked.append(told(tool("columns_speed"), "ask", columns, stderr=subprocess.DEVNULL))
    shutil.rmtree(columns)
    plain = os.path.join(folder, "lines")
    os.makedirs(plain)
    text = os.path.join(plain, "lines.jsonl")
    run(tool("columns_speed"), "grep", text, str(lines))
    forget(plain)
    grep, found = seconds("LC_ALL=C grep -Ec '%s' %s" % (HOUR, text))
    packed = os.path.join(plain, "lines.packed")
    pack, unpack, name = ("zstd -q -c", "zstd -dqc", "zstd") if shutil.which("zstd") else ("gzip -1 -c", "gzip -dc", "gzip -1")
    run("bash", "-c", "%s %s > %s" % (pack, text, packed))
    forget(plain)
    unpacked, _ = seconds("%s %s | LC_ALL=C grep -Ec '%s'" % (unpack, packed, HOUR))
    scale = records / lines
    if scale == 1 and found != asked[0]["found"]:
        sys.exit("grep finds %d denials, columns %d" % (found, asked[0]["found"]))
    sizes = {"plain": os.path.getsize(text) / lines, "packed": os.path.getsize(packed) / lines}
    os.remove(packed)
    middle = sorted(asked, key=lambda a: a["seconds"])[1]
    return {"written": written, "asked": middle, "grep_s": grep * scale, "packed_s": unpacked * scale, "packer": name, "lines": lines,
            "sizes": sizes, "text": text}


def tessera(folder, text, records):
    if not shutil.which("go"):
        sys.exit("go is missing: Tessera is measured as a Go library (https://go.dev/dl, 1.26 or later)")
    program = os.path.join(folder, "tessera")
    run("go", "build", "-o", program, ".", cwd=os.path.join(HERE, "tessera"))
    some = os.path.join(folder, "some.jsonl")
    run("bash", "-c", "head -n %d %s > %s" % (records, text, some))
    log = os.path.join(folder, "tessera-log")
    figures = json.loads(run(program, some, log, "4096", stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout)
    print(json.dumps(figures))
    shutil.rmtree(log)
    return figures


def figure(name, value, unit, goal=None, peer=None, peer_value=None, less_is_better=True):
    met = None
    if goal is not None:
        met = value <= goal if less_is_better else value >= goal
    ratio = None
    if peer_value and value:
        ratio = round(peer_value / value if less_is_better else value / peer_value, 2)
    return {"figure": name, "value": value, "unit": unit, "goal": goal, "met": met, "peer": peer, "peer_value": peer_value,
            "ratio": ratio}


def figures(append, ingest, verify, found, peer):
    count = "{:,}".format(found["written"]["records"])
    more = {"less_is_better": False}
    return [
        figure("append at level os, JSON included, p50", append["os_p50_us"], "µs", 2.0, "write(2) alone", append["write_p50_us"]),
        figure("append at level os, CPU", append["os_cpu_us"], "µs", None, "write(2) alone", append["write_cpu_us"]),
        figure("taken in over mTLS and sequenced, Parquet beside", ingest["acknowledged_per_s"], "records/s", None, "Tessera",
               peer["published_per_s"], **more),
        figure("taken in, sequenced and written as Parquet", ingest["in_columns_per_s"], "records/s", 150_000, **more),
        figure("CPU of the log per record, Parquet included", ingest["log_cpu_us_per_record"], "µs", None, "Tessera",
               peer["cpu_us_per_record"]),
        figure("CPU of the proxies that ship, per record", ingest["proxies_cpu_us_per_record"], "µs"),
        figure("most memory of the log", ingest["log_peak_mib"], "MiB"),
        figure("verify", verify["verify_records_per_s"], "records/s", 500_000, "Tessera's fsck", peer["fsck_per_s"], **more),
        figure("verify, CPU per record", verify["verify_cpu_us_per_record"], "µs", None, "Tessera's fsck", peer["fsck_cpu_us_per_record"]),
        figure("proof of a record", verify["prove_ms"], "ms", 10.0, "Tessera", peer["prove_ms"]),
        figure("denials of an hour among %s, cold" % count, found["asked"]["seconds"], "s", 1.0, "grep", found["grep_s"]),
        figure("the same", found["asked"]["seconds"], "s", None, found["packer"] + ", grep", found["packed_s"]),
        figure("on the disk, Parquet", found["written"]["parquet_bytes"] / found["written"]["records"], "bytes/record", None,
               found["packer"] + " lines", found["sizes"]["packed"]),
        figure("on the disk, batches (not compressed)", ingest["batch_bytes_per_record"], "bytes/record", None, "Tessera",
               peer["disk_bytes_per_record"]),
        figure("on the disk, tiles", ingest["tile_bytes_per_record"], "bytes/record"),
    ]


def number(value):
    if value is None:
        return "–"
    return "{:,.0f}".format(value) if value >= 1000 else "{:.3g}".format(value)


def table(rows, found):
    out = ["| figure | ours | goal | met | peer | its | × better |", "|---|---|---|---|---|---|---|"]
    for r in rows:
        met = {None: "–", True: "yes", False: "NO"}[r["met"]]
        out.append("| %s | %s %s | %s | %s | %s | %s | %s |" % (
            r["figure"], number(r["value"]), r["unit"], number(r["goal"]), met, r["peer"] or "–", number(r["peer_value"]),
            number(r["ratio"])))
    if found["lines"] < found["written"]["records"]:
        out += ["", "grep read {:,} lines; its times are those times {:g}.".format(
            found["lines"], found["written"]["records"] / found["lines"])]
    return "\n".join(out)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tools", required=True, help="the folder of the examples")
    parser.add_argument("--folder", required=True, help="where data goes, on the file system to be measured; emptied first and after")
    parser.add_argument("--json", required=True)
    parser.add_argument("--records", type=int, help="that are searched; 50,000,000 take 2.8 GB and ten minutes to write")
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    quick = args.quick
    records = args.records or (200_000 if quick else 50_000_000)
    lines = min(records, 2_000_000)
    folder = os.path.abspath(args.folder)
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)

    def tool(name):
        return os.path.join(args.tools, name)

    try:
        append = told(tool("append_speed"), folder)
        if not quick:
            run(tool("turn_speed"), folder)
            told(tool("ingest_speed"), folder, "16", "20000", "3")
            told(tool("ingest_speed"), folder, "1000", "40", "3")
        ingest = told(tool("ingest_tls"), folder, *(["4", "5000"] if quick else ["16", "120000"]))
        verify = told(tool("verify_speed"), folder, "50000" if quick else "1000000")
        found = search(tool, folder, records, lines)
        peer = tessera(folder, found["text"], 20_000 if quick else 500_000)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    rows = figures(append, ingest, verify, found, peer)
    print()
    print(table(rows, found))
    os.makedirs(os.path.dirname(os.path.abspath(args.json)), exist_ok=True)
    with open(args.json, "w") as file:
        json.dump(rows, file, indent=1, ensure_ascii=False)
        file.write("\n")


if __name__ == "__main__":
    main()
