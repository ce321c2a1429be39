//! Bytes as fast as they come over plain connections, and connections that are only held open.

use std::{
    io::{self, Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use crate::{load::Opts, sys::*};

/// Reads on all connections; prints the bytes per second.
pub(crate) fn run(o: &Opts) -> io::Result<()> {
    let epoll = Epoll::new()?;
    let mut streams = Vec::new();
    for number in 0..o.conns {
        let mut stream = TcpStream::connect(o.target)?;
        stream.write_all(b"go")?;
        stream.set_nonblocking(true)?;
        epoll.add(&stream, IN, number as u64)?;
        streams.push(stream);
    }
    let begin = Instant::now();
    let from = begin + Duration::from_secs_f64(o.warmup);
    let to = from + Duration::from_secs_f64(o.duration);
    let (mut bytes, mut errors) = (0_u64, 0);
    let mut events = Vec::with_capacity(64);
    let mut buffer = vec![0; 256 << 10];
    while Instant::now() < to {
        epoll.wait(&mut events, Some(20))?;
        let counts = Instant::now() >= from;
        for event in &events {
            match recv(&streams[event.data.u64() as usize], &mut buffer) {
                Ok(0) => return Err(io::Error::other("a connection ended")),
                Ok(n) if counts => bytes += n as u64,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => errors += 1,
            }
        }
    }
    let rate = bytes as f64 / o.duration;
    println!(
        "{{\"ok\":{bytes},\"bad\":0,\"errors\":{errors},\"unanswered\":0,\"bytes\":{bytes},\"bytes_per_s\":{rate:.0}}}"
    );
    Ok(())
}

/// Opens connections, has one answer on each, and keeps them open.
pub(crate) fn hold(o: &Opts) -> io::Result<()> {
    let mut head = format!("GET {} HTTP/1.1\r\nhost: {}\r\n", o.path, o.host);
    for header in &o.headers {
        head.push_str(header);
        head.push_str("\r\n");
    }
    head.push_str("\r\n");
    let mut streams = Vec::new();
    let mut bad = 0;
    for _ in 0..o.conns {
        let mut stream = TcpStream::connect(o.target)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(head.as_bytes())?;
        let mut buffer = [0; 4096];
        let n = stream.read(&mut buffer)?;
        if !buffer[..n].starts_with(b"HTTP/1.1 200") {
            bad += 1;
        }
        streams.push(stream);
    }
    println!(
        "{{\"ok\":{},\"bad\":{bad},\"errors\":0,\"unanswered\":0}}",
        streams.len() - bad
    );
    std::thread::sleep(Duration::from_secs_f64(o.duration));
    Ok(())
}
