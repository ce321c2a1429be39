//! HTTP/1.1 load generator: one thread, epoll.
//!
//! * closed loop (`--rate 0`): each connection sends the next request as soon
//!   as it has the answer;
//! * open loop (`--rate R`): request i is due at t0 + i/R whatever the answers
//!   do, and its latency is counted from that moment, so a stall of the proxy
//!   is charged to every request that it delayed (no coordinated omission);
//! * `--newconn`: one TCP connection per request;
//! * `--tokens FILE`: each request carries the next line of the file as its bearer token;
//! * `--requests N`: no more than N requests, then the end.

use std::{
    collections::{BTreeMap, VecDeque},
    io::{self, ErrorKind::WouldBlock},
    net::SocketAddrV4,
    os::fd::OwnedFd,
};

use crate::{backend::find, sys::*};

/// The timer's number among the events.
const TIMER: u64 = u64::MAX;

/// What to do.
#[derive(Clone, Debug)]
pub(crate) struct Opts {
    pub(crate) target: SocketAddrV4,
    pub(crate) host: String,
    pub(crate) path: String,
    pub(crate) headers: Vec<String>,
    pub(crate) conns: usize,
    pub(crate) rate: f64,
    pub(crate) warmup: f64,
    pub(crate) duration: f64,
    pub(crate) newconn: bool,
    pub(crate) timeout: f64,
    pub(crate) tokens: Vec<String>,
    pub(crate) skip: usize,
    pub(crate) requests: Option<u64>,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    Down,
    Connecting,
    Idle,
    Sending,
    Waiting,
}

struct Conn {
    fd: Option<OwnedFd>,
    req: Vec<u8>,
    state: State,
    due: u64,
    sent_at: u64,
    off: usize,
    body_left: Option<usize>,
    chunked: bool,
    close: bool,
    status: u16,
    head: Vec<u8>,
    pending: bool,
}

#[derive(Default)]
struct Tally {
    done: u64,
    bad_status: BTreeMap<u16, u64>,
    errors: BTreeMap<&'static str, u64>,
    bytes: u64,
    connects: u64,
    lat: Vec<u32>,
    svc: Vec<u32>,
    max_backlog: usize,
}

struct Run<'a> {
    o: &'a Opts,
    ep: Epoll,
    head: String,
    tokens_used: usize,
    started: u64,
    conns: Vec<Conn>,
    idle: Vec<usize>,
    queue: VecDeque<u64>,
    t: Tally,
    t_meas: u64,
    t_end: u64,
}

/// Loads the target and prints what came of it as JSON.
pub(crate) fn run(o: &Opts) -> io::Result<()> {
    tight_timers()?;
    let timer = Timer::new()?;
    let mut r = Run::new(o)?;
    r.ep.add(&timer.0, IN, TIMER)?;
    let t0 = now_ns();
    r.t_meas = t0 + nanos(o.warmup);
    r.t_end = t0 + nanos(o.warmup + o.duration);
    let deadline = r.t_end + nanos(o.timeout);
    let open_loop = o.rate > 0.0;
    let mut issued = 0;
    if open_loop {
        timer.set_at(t0)?;
    } else {
        r.idle.clear();
        for i in 0..o.conns {
            r.start(i, t0);
        }
    }
    let mut evs = Vec::with_capacity(256);
    let mut buf = vec![0u8; 256 << 10];
    loop {
        r.ep.wait(&mut evs, Some(20))?;
        for ev in &evs {
            match ev.data.u64() {
                TIMER => timer.clear(),
                number => r.event(number as usize, ev.flags, &mut buf),
            }
        }
        let now = now_ns();
        if open_loop {
            let next = r.issue(t0, now, &mut issued);
            if next < r.t_end {
                timer.set_at(next.max(now + 1))?;
            }
        }
        let enough = o.requests.is_some_and(|wanted| r.t.done >= wanted);
        let answered = !r.conns.iter().any(|c| c.pending) && r.queue.is_empty();
        if enough || (now >= r.t_end && (!open_loop || answered || now >= deadline)) {
            break;
        }
    }
    let pending = r.conns.iter().filter(|c| c.pending).count() + r.queue.len();
    let wraps = (r.tokens_used.max(1) - 1) / o.tokens.len().max(1);
    report(o, &mut r.t, if open_loop { pending } else { 0 }, wraps);
    Ok(())
}

fn nanos(seconds: f64) -> u64 {
    (seconds * 1e9) as u64
}

impl<'a> Run<'a> {
    fn new(o: &'a Opts) -> io::Result<Self> {
        let mut head = format!("GET {} HTTP/1.1\r\nhost: {}\r\n", o.path, o.host);
        for h in &o.headers {
            head.push_str(h);
            head.push_str("\r\n");
        }
        if o.newconn {
            head.push_str("connection: close\r\n");
        }
        let conn = |_| Conn {
            fd: None,
            req: Vec::new(),
            state: State::Down,
            due: 0,
            sent_at: 0,
            off: 0,
            body_left: None,
            chunked: false,
            close: false,
            status: 0,
            head: Vec::with_capacity(2048),
            pending: false,
        };
        Ok(Self {
            o,
            ep: Epoll::new()?,
            head,
            tokens_used: o.skip,
            started: 0,
            conns: (0..o.conns).map(conn).collect(),
            idle: (0..o.conns).collect(),
            queue: VecDeque::new(),
            t: Tally::default(),
            t_meas: 0,
            t_end: 0,
        })
    }

    /// Starts what is due on idle connections, as far as there are any; when the next request is due.
    fn issue(&mut self, t0: u64, now: u64, issued: &mut u64) -> u64 {
        let due = |n: u64| t0 + (n as f64 * 1e9 / self.o.rate) as u64;
        while due(*issued) <= now && due(*issued) < self.t_end {
            self.queue.push_back(due(*issued));
            *issued += 1;
        }
        let next = due(*issued);
        self.t.max_backlog = self.t.max_backlog.max(self.queue.len());
        while let (Some(&due), Some(&i)) = (self.queue.front(), self.idle.last()) {
            self.queue.pop_front();
            self.idle.pop();
            self.start(i, due);
        }
        next
    }
}

impl Run<'_> {
    fn start(&mut self, i: usize, due: u64) {
        let now = now_ns();
        if self.o.requests.is_some_and(|wanted| self.started >= wanted) {
            return;
        }
        self.started += 1;
        {
            let c = &mut self.conns[i];
            c.req.clear();
            c.req.extend_from_slice(self.head.as_bytes());
            if !self.o.tokens.is_empty() {
                let token = &self.o.tokens[self.tokens_used % self.o.tokens.len()];
                self.tokens_used += 1;
                c.req.extend_from_slice(b"authorization: Bearer ");
                c.req.extend_from_slice(token.as_bytes());
                c.req.extend_from_slice(b"\r\n");
            }
            c.req.extend_from_slice(b"\r\n");
            c.due = if self.o.rate > 0.0 { due } else { now };
            c.pending = true;
            c.off = 0;
            c.sent_at = now;
        }
        if self.conns[i].state == State::Down {
            self.open(i);
        } else {
            self.conns[i].state = State::Sending;
            self.push(i);
        }
    }

    fn open(&mut self, i: usize) {
        match connect_nb(self.o.target) {
            Ok(fd) => {
                self.t.connects += 1;
                let added = self.ep.add(&fd, IN | OUT | RDHUP, i as u64);
                self.conns[i].fd = Some(fd);
                self.conns[i].state = State::Connecting;
                if added.is_err() {
                    self.fail(i, "epoll");
                }
            }
            Err(_) => self.fail(i, "connect"),
        }
    }

    fn push(&mut self, i: usize) {
        let c = &mut self.conns[i];
        let Some(fd) = &c.fd else { return };
        while c.off < c.req.len() {
            match send_some(fd, &c.req[c.off..]) {
                Ok(n) => c.off += n,
                Err(e) if e.kind() == WouldBlock => {
                    if self.ep.modify(fd, IN | OUT | RDHUP, i as u64).is_err() {
                        return self.fail(i, "epoll");
                    }
                    return;
                }
                Err(_) => return self.fail(i, "write"),
            }
        }
        c.state = State::Waiting;
        c.head.clear();
        c.body_left = None;
        c.chunked = false;
    }

    fn fail(&mut self, i: usize, why: &'static str) {
        let now = now_ns();
        if now >= self.t_meas && now < self.t_end {
            *self.t.errors.entry(why).or_default() += 1;
        }
        self.reset(i);
        self.next(i, true);
    }

    fn reset(&mut self, i: usize) {
        let c = &mut self.conns[i];
        c.fd = None;
        c.state = State::Down;
        c.pending = false;
    }

    /// The connection is free again.
    fn next(&mut self, i: usize, failed: bool) {
        let now = now_ns();
        if self.o.rate > 0.0 {
            self.idle.push(i);
        } else if now < self.t_end {
            if failed {
                // Do not spin on a peer that refuses.
                std::thread::sleep(std::time::Duration::from_micros(200));
            }
            if self.conns[i].state == State::Down {
                self.conns[i].due = now;
            }
            self.start(i, now);
        }
    }

    fn event(&mut self, i: usize, flags: Flags, buf: &mut [u8]) {
        let state = self.conns[i].state;
        let Some(fd) = &self.conns[i].fd else { return };
        if state == State::Connecting && flags.intersects(BROKEN) {
            return self.fail(i, "connect");
        }
        let writing = matches!(state, State::Connecting | State::Sending);
        if writing && flags.contains(OUT) {
            if self.ep.modify(fd, IN | RDHUP, i as u64).is_err() {
                return self.fail(i, "epoll");
            }
            self.conns[i].state = State::Sending;
            self.push(i);
        }
        if state == State::Connecting || !flags.intersects(BROKEN | IN | RDHUP) {
            return;
        }
        let Some(fd) = &self.conns[i].fd else { return };
        match recv(fd, buf) {
            Ok(0) => self.eof(i),
            Ok(n) => self.data(i, &buf[..n]),
            Err(e) if e.kind() == WouldBlock => {}
            Err(_) => self.broken(i, "read"),
        }
    }

    fn eof(&mut self, i: usize) {
        self.broken(i, "early-eof");
    }

    fn broken(&mut self, i: usize, why: &'static str) {
        if self.conns[i].pending {
            return self.fail(i, why);
        }
        // An idle keep-alive connection was closed by the peer: not an error.
        self.reset(i);
    }

    fn data(&mut self, i: usize, d: &[u8]) {
        let c = &mut self.conns[i];
        if c.state != State::Waiting {
            return self.broken(i, "unexpected-data");
        }
        self.t.bytes += d.len() as u64;
        let finished = match c.body_left {
            Some(left) if !c.chunked => {
                let left = left.saturating_sub(d.len());
                c.body_left = Some(left);
                left == 0
            }
            Some(_) => {
                let keep = c.head.len().saturating_sub(8);
                c.head.drain(..keep);
                c.head.extend_from_slice(d);
                c.head.ends_with(b"0\r\n\r\n")
            }
            None => {
                c.head.extend_from_slice(d);
                match find(&c.head, b"\r\n\r\n") {
                    None => false,
                    Some(end) => {
                        let head = c.head[..end].to_ascii_lowercase();
                        c.status = std::str::from_utf8(head.get(9..12).unwrap_or(b"0"))
                            .ok()
                            .and_then(|s| s.parse().ok())
                            .unwrap_or(0);
                        c.close = find(&head, b"\r\nconnection: close").is_some();
                        c.chunked = find(&head, b"\r\ntransfer-encoding: chunked").is_some();
                        let len = find(&head, b"\r\ncontent-length:").map(|p| {
                            let v = &head[p + 17..];
                            let e = find(v, b"\r\n").unwrap_or(v.len());
                            std::str::from_utf8(&v[..e])
                                .ok()
                                .and_then(|s| s.trim().parse::<usize>().ok())
                                .unwrap_or(0)
                        });
                        let have = c.head.len() - end - 4;
                        if c.chunked {
                            c.body_left = Some(0);
                            c.head.ends_with(b"0\r\n\r\n")
                        } else {
                            let left = len.unwrap_or(0).saturating_sub(have);
                            c.body_left = Some(left);
                            left == 0
                        }
                    }
                }
            }
        };
        if finished {
            self.finish(i);
        }
    }

    fn finish(&mut self, i: usize) {
        let now = now_ns();
        let c = &mut self.conns[i];
        c.pending = false;
        let measured = if self.o.rate > 0.0 {
            c.due >= self.t_meas && c.due < self.t_end
        } else {
            now >= self.t_meas && now < self.t_end
        };
        if measured {
            if c.status == 200 {
                self.t.done += 1;
                self.t
                    .lat
                    .push(((now - c.due) / 100).min(u32::MAX as u64) as u32);
                self.t
                    .svc
                    .push(((now - c.sent_at) / 100).min(u32::MAX as u64) as u32);
            } else {
                *self.t.bad_status.entry(c.status).or_default() += 1;
            }
        }
        let close = c.close || self.o.newconn;
        c.state = State::Idle;
        if close {
            self.reset(i);
        }
        self.next(i, false);
    }
}

fn pct(v: &[u32], q: f64) -> f64 {
    if v.is_empty() {
        return -1.0;
    }
    let k = ((v.len() as f64 * q).ceil() as usize).clamp(1, v.len()) - 1;
    v[k] as f64 / 10.0
}

fn report(o: &Opts, t: &mut Tally, unanswered: usize, wraps: usize) {
    t.lat.sort_unstable();
    t.svc.sort_unstable();
    let line = |v: &[u32]| {
        let mean = if v.is_empty() {
            -1.0
        } else {
            v.iter().map(|&x| x as f64).sum::<f64>() / v.len() as f64 / 10.0
        };
        format!(
            "{{\"mean\":{:.1},\"p50\":{:.1},\"p90\":{:.1},\"p99\":{:.1},\"p999\":{:.1},\"max\":{:.1}}}",
            mean,
            pct(v, 0.50),
            pct(v, 0.90),
            pct(v, 0.99),
            pct(v, 0.999),
            pct(v, 1.0)
        )
    };
    let bad: u64 = t.bad_status.values().sum();
    let errs: u64 = t.errors.values().sum();
    let detail: Vec<String> = t
        .bad_status
        .iter()
        .map(|(k, v)| format!("\"status {k}\":{v}"))
        .chain(t.errors.iter().map(|(k, v)| format!("\"{k}\":{v}")))
        .collect();
    println!(
        "{{\"ok\":{},\"bad\":{},\"errors\":{},\"unanswered\":{},\"detail\":{{{}}},\"seconds\":{},\"rps\":{:.1},\"bytes\":{},\"connects\":{},\"max_backlog\":{},\"token_wraps\":{wraps},\"latency_us\":{},\"service_us\":{}}}",
        t.done,
        bad,
        errs,
        unanswered,
        detail.join(","),
        o.duration,
        t.done as f64 / o.duration,
        t.bytes,
        t.connects,
        t.max_backlog,
        line(&t.lat),
        line(&t.svc)
    );
}
