//! A flood of connections that prove nothing: random bytes, ClientHellos (whole and half) with nothing after them,
//! plaintext HTTP, immediate resets.

use std::{
    collections::VecDeque,
    io::Write as _,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use socket2::{Domain, Protocol, Socket, Type};

use crate::MeshTls;

const HTTP: &[u8] = b"GET /junk HTTP/1.1\r\nHost: echo:9080\r\n\r\n";
/// Connections that one thread leaves open, so that they take up room.
const LEFT_OPEN: usize = 2000;
/// A connection that is not there by then is given up.
const PATIENCE: Duration = Duration::from_millis(200);

/// A running flood.
pub struct Junk {
    stop: Arc<AtomicBool>,
    counts: Arc<Counts>,
    began: Instant,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Counts {
    made: AtomicU64,
    failed: AtomicU64,
}

/// What came of a flood.
#[derive(Clone, Copy, Debug)]
pub struct Thrown {
    /// Connections that were made.
    pub made: u64,
    /// Connections that did not come about.
    pub failed: u64,
    /// Connections made per second.
    pub per_second: f64,
}

impl Junk {
    /// Throws up to `per_second` connections at this door of a mesh that speaks `alpn`, from `threads` threads and as
    /// many source addresses (127.250.*.*) as it takes for ports not to run out.
    pub fn start(door: SocketAddr, alpn: &[u8], per_second: u32, threads: u8) -> Self {
        let (stop, counts) = (Arc::<AtomicBool>::default(), Arc::<Counts>::default());
        let hello = MeshTls::nobody().client_hello(alpn);
        let hello = hello.expect("a ClientHello");
        let began = Instant::now();
        let threads = (0..threads).map(|number| {
            let thrower = Thrower {
                door,
                number,
                hello: hello.clone(),
                pace: Duration::from_secs(1) * u32::from(threads) / per_second,
                stop: stop.clone(),
                counts: counts.clone(),
            };
            thread::spawn(move || thrower.run())
        });
        Self {
            threads: threads.collect(),
            stop,
            counts,
            began,
        }
    }

    /// Ends it.
    pub fn stop(self) -> Thrown {
        let time = self.began.elapsed();
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (made, failed) = (count(&self.counts.made), count(&self.counts.failed));
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("a thread of the flood");
        }
        Thrown {
            made,
            failed,
            per_second: made as f64 / time.as_secs_f64(),
        }
    }
}

struct Thrower {
    door: SocketAddr,
    number: u8,
    /// What begins a handshake of the mesh.
    hello: Vec<u8>,
    /// Between two connections.
    pace: Duration,
    stop: Arc<AtomicBool>,
    counts: Arc<Counts>,
}

impl Thrower {
    fn run(self) {
        let mut open = VecDeque::new();
        let mut due = Instant::now();
        for turn in 0_u64.. {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            due += self.pace;
            let early = due.saturating_duration_since(Instant::now());
            if early > Duration::from_millis(1) {
                thread::sleep(early);
            }
            let thrown = self.throw(turn);
            let counter = if thrown.is_ok() {
                &self.counts.made
            } else {
                &self.counts.failed
            };
            counter.fetch_add(1, Ordering::Relaxed);
            open.extend(thrown.ok().flatten());
            if open.len() > LEFT_OPEN {
                open.pop_front();
            }
        }
    }

    /// Makes a connection; returns it if it is to be left open.
    fn throw(&self, turn: u64) -> std::io::Result<Option<Socket>> {
        let mut socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
        // A reset, not a FIN: neither end remembers the connection.
        socket.set_linger(Some(Duration::ZERO))?;
        let [low, high, ..] = (turn / 64).to_le_bytes();
        let source = Ipv4Addr::new(127, 250, self.number * 16 + (high & 15), low.max(1));
        socket.bind(&SocketAddr::from((source, 0)).into())?;
        socket.connect_timeout(&self.door.into(), PATIENCE)?;
        let noise = turn.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes();
        // The other end may have closed already.
        let bytes = match turn % 5 {
            0 => noise.repeat(16),
            1 => self.hello[..self.hello.len() / 2].to_vec(),
            2 => self.hello.clone(),
            3 => HTTP.to_vec(),
            _ => return Ok(None),
        };
        // The other end may have closed already.
        drop(socket.write_all(&bytes));
        Ok(Some(socket))
    }
}
