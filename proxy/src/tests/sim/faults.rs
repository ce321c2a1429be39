//! Faults between the caller and the endpoints, and of the endpoints, as a seed has them.

use std::{net::IpAddr, time::Duration};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use turmoil::Sim;

/// What is wrong with one endpoint, or the way to it.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// What is sent is lost, both ways.
    Partition,
    /// Requests are lost on the way.
    Unheard,
    /// Answers are lost on the way.
    Mute,
    /// Nothing is lost, nothing arrives for a while.
    Stall,
    /// Everything takes long.
    Slow,
    /// The process ends, and its connections with it.
    Crash,
    /// The machine is gone without a word.
    PowerLoss,
}

const FAULTS: [Fault; 7] = [
    Fault::Partition,
    Fault::Unheard,
    Fault::Mute,
    Fault::Stall,
    Fault::Slow,
    Fault::Crash,
    Fault::PowerLoss,
];

const QUICK: Duration = Duration::from_millis(2);

/// Which fault each endpoint has, and until when.
#[derive(Debug)]
pub(super) struct Faults {
    rng: StdRng,
    caller: IpAddr,
    endpoints: Vec<(IpAddr, Option<(Fault, Duration)>)>,
    next: Duration,
}

impl Faults {
    pub(super) fn new(seed: u64, caller: IpAddr, endpoints: Vec<IpAddr>) -> Self {
        Self {
            rng: StdRng::seed_from_u64(seed),
            caller,
            endpoints: endpoints.into_iter().map(|at| (at, None)).collect(),
            next: Duration::from_millis(500),
        }
    }

    /// Lets faults begin and end whose time has come.
    pub(super) fn happen(&mut self, sim: &mut Sim<'_>) {
        let now = sim.elapsed();
        let over = |until| now >= until;
        self.mend(sim, over);
        if now < self.next {
            return;
        }
        self.next = now + self.millis(30..300);
        let lasts = self.millis(30..900);
        let at = self.rng.random_range(0..self.endpoints.len());
        let Some(fault) = FAULTS.choose(&mut self.rng).copied() else {
            return;
        };
        let (endpoint, wrong) = &mut self.endpoints[at];
        if wrong.is_none() {
            *wrong = Some((fault, now + lasts));
            begin(sim, self.caller, *endpoint, fault);
        }
    }

    /// Ends them all.
    pub(super) fn end(&mut self, sim: &mut Sim<'_>) {
        self.mend(sim, |_| true);
    }

    fn mend(&mut self, sim: &mut Sim<'_>, over: impl Fn(Duration) -> bool) {
        for (endpoint, wrong) in &mut self.endpoints {
            if let Some((fault, _)) = wrong.take_if(|(_, until)| over(*until)) {
                finish(sim, self.caller, *endpoint, fault);
            }
        }
    }

    fn millis(&mut self, range: std::ops::Range<u64>) -> Duration {
        Duration::from_millis(self.rng.random_range(range))
    }
}

fn begin(sim: &mut Sim<'_>, caller: IpAddr, endpoint: IpAddr, fault: Fault) {
    match fault {
        Fault::Partition => sim.partition(caller, endpoint),
        Fault::Unheard => sim.partition_oneway(caller, endpoint),
        Fault::Mute => sim.partition_oneway(endpoint, caller),
        Fault::Stall => sim.hold(caller, endpoint),
        Fault::Slow => sim.set_link_latency(caller, endpoint, Duration::from_millis(120)),
        Fault::Crash => sim.crash(endpoint),
        Fault::PowerLoss => {
            sim.partition(caller, endpoint);
            sim.crash(endpoint);
        }
    }
}

fn finish(sim: &mut Sim<'_>, caller: IpAddr, endpoint: IpAddr, fault: Fault) {
    match fault {
        Fault::Partition => sim.repair(caller, endpoint),
        Fault::Unheard => sim.repair_oneway(caller, endpoint),
        Fault::Mute => sim.repair_oneway(endpoint, caller),
        Fault::Stall => sim.release(caller, endpoint),
        Fault::Slow => sim.set_link_latency(caller, endpoint, QUICK),
        Fault::Crash => sim.bounce(endpoint),
        Fault::PowerLoss => {
            sim.repair(caller, endpoint);
            sim.bounce(endpoint);
        }
    }
}
