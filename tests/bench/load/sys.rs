//! The few kernel calls of an event loop: readiness, an exact timer, sockets that do not block.

use std::{
    io,
    net::SocketAddrV4,
    os::fd::{AsFd, OwnedFd},
};

use rustix::{
    event::epoll::{self, CreateFlags, Event, EventData, EventFlags},
    net::{AddressFamily, SendFlags, SocketFlags, SocketType, sockopt},
    time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec},
};

/// Something can be read.
/// Kinds of readiness.
pub(crate) use rustix::event::epoll::EventFlags as Flags;

pub(crate) const IN: EventFlags = EventFlags::IN;
/// Something can be written.
pub(crate) const OUT: EventFlags = EventFlags::OUT;
/// The peer sends no more.
pub(crate) const RDHUP: EventFlags = EventFlags::RDHUP;
/// The descriptor is broken.
pub(crate) const BROKEN: EventFlags = EventFlags::ERR.union(EventFlags::HUP);

/// Nanoseconds of the monotonic clock.
pub(crate) fn now_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Asks for timers that fire when they are due, not up to 50 µs later.
pub(crate) fn tight_timers() -> io::Result<()> {
    Ok(rustix::thread::set_current_timer_slack(
        std::num::NonZeroU64::new(1),
    )?)
}

/// An epoll instance.
pub(crate) struct Epoll(OwnedFd);

impl Epoll {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(epoll::create(CreateFlags::CLOEXEC)?))
    }

    pub(crate) fn add(&self, fd: impl AsFd, events: EventFlags, data: u64) -> io::Result<()> {
        Ok(epoll::add(&self.0, fd, EventData::new_u64(data), events)?)
    }

    pub(crate) fn modify(&self, fd: impl AsFd, events: EventFlags, data: u64) -> io::Result<()> {
        Ok(epoll::modify(
            &self.0,
            fd,
            EventData::new_u64(data),
            events,
        )?)
    }

    /// Waits at most `millis`, for ever if there is no bound.
    pub(crate) fn wait(&self, events: &mut Vec<Event>, millis: Option<i64>) -> io::Result<()> {
        events.clear();
        let bound = millis.map(|ms| Timespec {
            tv_sec: ms / 1000,
            tv_nsec: ms % 1000 * 1_000_000,
        });
        match epoll::wait(
            &self.0,
            rustix::buffer::spare_capacity(events),
            bound.as_ref(),
        ) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// A timer that makes an epoll instance wake up.
pub(crate) struct Timer(pub(crate) OwnedFd);

impl Timer {
    pub(crate) fn new() -> io::Result<Self> {
        let fd = rustix::time::timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK)?;
        Ok(Self(fd))
    }

    /// Due at a time of [`now_ns`].
    pub(crate) fn set_at(&self, ns: u64) -> io::Result<()> {
        let never = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let due = Itimerspec {
            it_interval: never,
            it_value: Timespec {
                tv_sec: (ns / 1_000_000_000) as i64,
                tv_nsec: (ns % 1_000_000_000) as i64,
            },
        };
        rustix::time::timerfd_settime(&self.0, TimerfdTimerFlags::ABSTIME, &due)?;
        Ok(())
    }

    pub(crate) fn clear(&self) {
        // Nothing to read means that it was set again meanwhile.
        drop(recv(&self.0, &mut [0; 8]));
    }
}

/// Starts to connect; the socket becomes writable when it is connected.
pub(crate) fn connect_nb(address: SocketAddrV4) -> io::Result<OwnedFd> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let fd = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    nodelay(&fd)?;
    match rustix::net::connect(&fd, &address) {
        Ok(()) | Err(rustix::io::Errno::INPROGRESS) => Ok(fd),
        Err(error) => Err(error.into()),
    }
}

pub(crate) fn nodelay(fd: impl AsFd) -> io::Result<()> {
    Ok(sockopt::set_tcp_nodelay(fd, true)?)
}

pub(crate) fn recv(fd: impl AsFd, buffer: &mut [u8]) -> io::Result<usize> {
    Ok(rustix::io::read(fd, buffer)?)
}

pub(crate) fn send_some(fd: impl AsFd, bytes: &[u8]) -> io::Result<usize> {
    Ok(rustix::net::send(fd, bytes, SendFlags::NOSIGNAL)?)
}
