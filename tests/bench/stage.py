"""Namespaces, processes, accounting and one measurement."""
import atexit
import base64
import json
import os
import shutil
import signal
import subprocess
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
TARGET = os.environ.get("CARGO_TARGET_DIR") or os.path.join(ROOT, "target")
TICK = os.sysconf("SC_CLK_TCK")
PROXY_UID = 2102
CLIENT_IP, SERVER_IP = "10.203.0.1", "10.203.0.2"


def meshbench():
    p = os.environ.get("BENCH_TOOL") or os.path.join(TARGET, "release/meshbench")
    if not os.path.exists(p):
        raise SystemExit("there is no %s; build it: cargo build --release -p reeve-tests --bin meshbench" % p)
    return p


def sh(*argv):
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)


# -- CPU layouts -------------------------------------------------------------
#: who runs where; the numbers are positions in the list of usable cores
LAYOUTS = {
    # load + backend on one core, both proxies on the other: the proxies' core is theirs alone
    "split": {"load": [0], "backend": [0], "mesh": [0], "outbound": [1], "inbound": [1]},
    # each side of the link on its own core, as on two nodes
    "sides": {"load": [0], "outbound": [0], "inbound": [1], "backend": [1], "mesh": [0]},
    # the scheduler decides
    "free": {"load": None, "backend": None, "mesh": None, "outbound": None, "inbound": None},
}


# -- accounting --------------------------------------------------------------
def tree(pid):
    """pid and all its descendants."""
    kids = {}
    for d in os.listdir("/proc"):
        if d.isdigit():
            try:
                with open("/proc/%s/stat" % d) as f:
                    ppid = int(f.read().rsplit(")", 1)[1].split()[1])
            except (OSError, ValueError):
                continue
            kids.setdefault(ppid, []).append(int(d))
    out, todo = [], [pid]
    while todo:
        p = todo.pop()
        out.append(p)
        todo += kids.get(p, [])
    return out


def cpu_seconds(pids):
    """utime+stime of the processes, in seconds (clock ticks)."""
    t = 0
    for p in pids:
        try:
            with open("/proc/%d/stat" % p) as f:
                a = f.read().rsplit(")", 1)[1].split()
            t += int(a[11]) + int(a[12])
        except OSError:
            pass
    return t / TICK


def cpu_seconds_fine(pids):
    """The same from the processes' CPU clocks, in nanoseconds; threads that have ended count too."""
    try:
        # The clock id of a process, as clock_getcpuclockid(3) makes it.
        return sum(time.clock_gettime(~p << 3 | 2) for p in pids)
    except OSError:
        return None


def rss_kib(pids):
    """(resident, proportional) KiB of the processes together."""
    rss = pss = 0
    for p in pids:
        try:
            with open("/proc/%d/smaps_rollup" % p) as f:
                for line in f:
                    if line.startswith("Rss:"):
                        rss += int(line.split()[1])
                    elif line.startswith("Pss:"):
                        pss += int(line.split()[1])
        except OSError:
            pass
    return rss, pss


def busy():
    """core -> (busy seconds, stolen seconds)."""
    out = {}
    with open("/proc/stat") as f:
        for line in f:
            if line.startswith("cpu") and line[3].isdigit():
                a = line.split()
                v = [int(x) for x in a[1:]]
                out[int(a[0][3:])] = ((v[0] + v[1] + v[2] + v[5] + v[6]) / TICK, v[7] / TICK)
    return out


def boost(pid, nice=-15):
    """Put a process that the harness started ahead of whatever else runs on the machine.

    Where the kernel groups tasks by session (autogroup), nice values count only within a
    session, so the group's own value has to be set too.
    """
    try:
        os.setpriority(os.PRIO_PROCESS, pid, nice)
        with open("/proc/%d/autogroup" % pid, "w") as f:
            f.write(str(nice))
    except OSError:
        pass


# -- the stage ----------------------------------------------------------------
class Stage:
    """Two network namespaces joined by a veth pair: the client's and the server's node.

    The application's traffic is redirected into the proxies with iptables, as a
    sidecar's is: client -> SERVER:8080 goes to outbound:15001, and what arrives at
    the server for 8080 goes to inbound:15006. The proxies' own traffic (by uid) is not.
    """

    app_port, out_port, in_port = 8080, 15001, 15006
    proxy_uid = PROXY_UID
    jwt_issuer, jwt_audience = "bench-issuer", "bench"

    def __init__(self, workdir, layout="split"):
        self.work = os.path.abspath(workdir)
        self.certs = os.path.join(self.work, "certs")
        self.client_ip, self.server_ip = CLIENT_IP, SERVER_IP
        self.layout = self.usual_layout = LAYOUTS[layout]
        self.cores = sorted(os.sched_getaffinity(0))
        self.ns = {}
        self.procs = []
        self.beside = {}
        self.workers, self.extra = 1, []
        self.n = 0
        os.makedirs(self.work, exist_ok=True)
        sh(os.path.join(HERE, "certs.sh"), self.certs)
        self._token = None
        atexit.register(self.close)

    # what the adapters use
    def cert(self, name):
        return os.path.join(self.certs, name)

    @staticmethod
    def spiffe(name):
        return "spiffe://cluster.local/ns/bench/sa/" + name

    def jwks(self):
        with open(self.cert("jwt.pub.der"), "rb") as f:
            xy = f.read()[-64:]
        b = lambda x: base64.urlsafe_b64encode(x).rstrip(b"=").decode()
        return json.dumps(
            {"keys": [{"kty": "EC", "crv": "P-256", "alg": "ES256", "kid": "k1", "use": "sig",
                       "x": b(xy[:32]), "y": b(xy[32:])}]}
        )

    def token(self):
        if self._token:
            return self._token
        b = lambda x: base64.urlsafe_b64encode(x).rstrip(b"=").decode()
        now = int(time.time())
        head = b(json.dumps({"alg": "ES256", "typ": "JWT", "kid": "k1"}).encode())
        body = b(
            json.dumps(
                {"iss": self.jwt_issuer, "aud": self.jwt_audience, "sub": "alice",
                 "iat": now, "exp": now + 86400}
            ).encode()
        )
        der = subprocess.run(
            ["openssl", "dgst", "-sha256", "-sign", self.cert("jwt.key")],
            input=(head + "." + body).encode(), capture_output=True, check=True,
        ).stdout
        # SEQUENCE { INTEGER r, INTEGER s } -> r || s
        i, raw = 2, b""
        for _ in range(2):
            n = der[i + 1]
            raw += der[i + 2:i + 2 + n].lstrip(b"\0").rjust(32, b"\0")
            i += 2 + n
        self._token = "%s.%s.%s" % (head, body, b(raw))
        return self._token

    def fresh_tokens(self, count):
        path = os.path.join(self.work, "tokens-%d" % count)
        if not os.path.exists(path) or time.time() - os.path.getmtime(path) > 40_000:
            sh(meshbench(), "tokens", "--key", self.cert("jwt.pk8"), "--issuer", self.jwt_issuer,
               "--audience", self.jwt_audience, "--count", str(count), "--out", path)
        return path

    def decide_and_record(self):
        """CPU time of a decision and its record, flat out on the proxies' core, on the write-ahead logs' file system."""
        tool = os.environ.get("BENCH_DECIDE") or os.path.join(TARGET, "release/examples/decide_and_record")
        if not os.path.exists(tool):
            raise RuntimeError("there is no %s; build it: cargo build --release -p reeve-proxy --example "
                               "decide_and_record" % tool)
        where = self.layout["inbound"]
        pin = ["taskset", "-c", ",".join(str(self.cores[i % len(self.cores)]) for i in where)] if where else []
        run = subprocess.Popen(pin + [tool, self.work], stdout=subprocess.PIPE, text=True, start_new_session=True)
        boost(run.pid)
        out = run.communicate(timeout=300)[0]
        if run.returncode:
            raise RuntimeError("%s ended with %d" % (tool, run.returncode))
        return json.loads(out)

    def file_system(self):
        """What write-ahead logs and access logs are on; memory would flatter whoever writes."""
        kind = subprocess.run(["stat", "-f", "-c", "%T", self.work], capture_output=True, text=True).stdout.strip()
        if kind in ("tmpfs", "ramfs"):
            raise SystemExit("%s is on %s; name a folder on a disk with --work" % (self.work, kind))
        return kind

    def prefix(self, role, side, uid=None):
        argv = ["ip", "netns", "exec", self.ns[side]]
        where = self.layout[role]
        if where is not None:
            argv += ["taskset", "-c", ",".join(str(self.cores[i % len(self.cores)]) for i in where)]
        if uid is not None:
            argv += ["setpriv", "--reuid", str(uid), "--regid", str(uid), "--clear-groups"]
        return argv

    def spawn(self, role, argv, env=None, uid=PROXY_UID, side=None):
        """Start a process of the peer; `role` is outbound, inbound or backend."""
        side = side or ("client" if role == "outbound" else "server")
        log = open(os.path.join(self.logdir, "%s-%s.log" % (role, os.path.basename(argv[0]))), "ab")
        pre = self.prefix(role, side, uid)
        p = subprocess.Popen(
            pre + argv, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
            cwd=self.dir, env={**os.environ, **(env or {})}, start_new_session=True,
        )
        log.close()
        boost(p.pid)
        self.procs.append(p)
        return p

    # life
    def open(self, peer, variant):
        self.workers = variant["workers"]
        # More than one worker has something to do only where there is more than one core.
        self.layout = self.usual_layout if self.workers == 1 else LAYOUTS["free"]
        self.n += 1
        self.dir = os.path.join(self.work, "run-%d-%d-%s" % (os.getpid(), self.n, peer.name))
        self.logdir = os.path.join(self.dir, "logs")
        os.makedirs(self.logdir)
        tag = "mb%d" % os.getpid()
        self.ns = {"client": tag + "c", "server": tag + "s"}
        for side, ns in self.ns.items():
            sh("ip", "netns", "add", ns)
            sh("ip", "-n", ns, "link", "set", "lo", "up")
        sh("ip", "link", "add", tag + "v", "netns", self.ns["client"], "type", "veth",
           "peer", "name", tag + "w", "netns", self.ns["server"])
        for side, dev, ip in (("client", tag + "v", CLIENT_IP), ("server", tag + "w", SERVER_IP)):
            ns = self.ns[side]
            sh("ip", "-n", ns, "addr", "add", ip + "/30", "dev", dev)
            sh("ip", "-n", ns, "link", "set", dev, "up")
            for k, val in (("net.ipv4.ip_local_port_range", "10000 65000"),
                           ("net.ipv4.tcp_tw_reuse", "1"), ("net.core.somaxconn", "8192"),
                           ("net.ipv4.tcp_max_syn_backlog", "8192")):
                sh("ip", "netns", "exec", ns, "sysctl", "-qw", "%s=%s" % (k, val))
        if peer.intercept:
            sh("ip", "netns", "exec", self.ns["client"], "iptables", "-t", "nat", "-A", "OUTPUT",
               "-p", "tcp", "-d", SERVER_IP, "--dport", str(self.app_port), "-m", "owner",
               "!", "--uid-owner", str(PROXY_UID), *(
                   ["-j", "DNAT", "--to-destination", peer.out_address] if peer.out_address
                   else ["-j", "REDIRECT", "--to-ports", str(self.out_port)]))
            if peer.tls_port == self.app_port:
                sh("ip", "netns", "exec", self.ns["server"], "iptables", "-t", "nat", "-A",
                   "PREROUTING", "-p", "tcp", "--dport", str(self.app_port), "-j", "REDIRECT",
                   "--to-ports", str(peer.in_port or self.in_port))
        for d in (self.dir, self.logdir):
            os.chown(d, PROXY_UID, PROXY_UID)
        self.backend = self.spawn(
            "backend", [meshbench(), "backend", "--listen", "%s:%d" % (peer.backend_address, self.app_port)]
            + {"tcp": ["--stream", "yes"], "grpc": ["--grpc", "yes"]}.get(variant["proto"], []), uid=None)

    def load_argv(self, mode="load", **kw):
        argv = self.prefix("load", "client") + [
            meshbench(), mode, "--target", "%s:%d" % (SERVER_IP, self.app_port)]
        for k, val in kw.items():
            if val is True:
                argv += ["--" + k, "yes"]
            elif val is not False and val is not None:
                argv += ["--" + k, str(val)]
        return argv

    def wait_ready(self, header=None, seconds=20, procs=(), mode="load"):
        end = time.time() + seconds
        last = ""
        while time.time() < end:
            for p in procs:
                if p.poll() is not None:
                    raise RuntimeError("a proxy ended with %s; see %s" % (p.returncode, self.logdir))
            r = subprocess.run(
                self.load_argv(mode, conns=1, warmup=0, duration=0.1, timeout=1, header=header),
                capture_output=True, text=True)
            last = r.stdout + r.stderr
            try:
                d = json.loads(r.stdout)
                if d["ok"] > 0 and not d["bad"] and not d["errors"]:
                    return
            except ValueError:
                pass
            time.sleep(0.2)
        raise RuntimeError("not ready after %d s; last answer: %s; see %s" % (seconds, last[-300:], self.logdir))

    def shut(self):
        for p in reversed(self.procs):
            if p.poll() is None:
                try:
                    os.killpg(p.pid, signal.SIGTERM)
                except OSError:
                    pass
        end = time.time() + 3
        for p in self.procs:
            while p.poll() is None and time.time() < end:
                time.sleep(0.02)
            if p.poll() is None:
                try:
                    os.killpg(p.pid, signal.SIGKILL)
                except OSError:
                    pass
                p.wait()
        self.procs, self.beside = [], {}
        for ns in self.ns.values():
            subprocess.run(["ip", "netns", "del", ns], stderr=subprocess.DEVNULL)
        self.ns = {}

    def close(self):
        if self.procs or self.ns:
            self.shut()

    def drop_dir(self):
        shutil.rmtree(self.dir, ignore_errors=True)


def measure(stage, procs, warmup, duration, **kw):
    """One load run; returns what the generator saw and what the proxies spent."""
    sides = {k: tree(p.pid) for k, p in procs.items()}
    pids = [p for v in sides.values() for p in v]
    gen = subprocess.Popen(
        stage.load_argv(warmup=warmup, duration=duration, **kw),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    boost(gen.pid)
    app = [stage.backend.pid, gen.pid]
    beside = [p for q in stage.beside.values() for p in tree(q.pid)]
    time.sleep(warmup + 0.02)

    def snap():
        return (time.monotonic(), cpu_seconds(pids), {k: cpu_seconds_fine(v) for k, v in sides.items()},
                busy(), cpu_seconds_fine(app), cpu_seconds_fine(beside) or 0.0)

    a = snap()
    time.sleep(max(0.0, duration - 0.12))
    b = snap()
    rss = {k: rss_kib(v) for k, v in sides.items()}
    out, err = gen.communicate(timeout=60)
    r = json.loads(out) if out.strip() else {"error": err}
    el = b[0] - a[0]
    fine = {k: b[2][k] - a[2][k] for k in sides if a[2][k] is not None and b[2][k] is not None}
    r["cpu_cores"] = sum(fine.values()) / el if fine else 0.0
    r["cpu_cores_stat"] = (b[1] - a[1]) / el
    r["rss_kib"] = {k: v[0] for k, v in rss.items()}
    r["pss_kib"] = {k: v[1] for k, v in rss.items()}
    if r.get("bytes_per_s") and r["cpu_cores"]:
        r["bytes_per_cpu_s"] = r["bytes_per_s"] / r["cpu_cores"]
    rate = r.get("rps") or 0
    if rate:
        for k, v in fine.items():
            r["cpu_s_per_1k_" + k] = v / el / rate * 1000
        r["cpu_s_per_1k"] = r["cpu_cores"] / rate * 1000
        r["cpu_s_per_1k_beside"] = (b[5] - a[5]) / el / rate * 1000
    total = sum(b[3][c][0] - a[3][c][0] for c in b[3])
    r["foreign_cores"] = max(0.0, (total - sum(fine.values()) - (b[5] - a[5]) - (b[4] - a[4] if a[4] and b[4] else 0)) / el)
    r["stolen_cores"] = sum(b[3][c][1] - a[3][c][1] for c in b[3]) / el
    return r
