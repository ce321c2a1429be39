//! How long a request can be held up while the policy set changes under it.

use std::{
    fs::File,
    hint::black_box,
    os::unix::fs::FileExt as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use reeve_authz::Engine;
use reeve_core::model::PolicySlice;
use serde_json::{Value, json};

use crate::{Effort, Outcome, measure::Asker, shapes::Shape};

/// Between two changes.
const PAUSE: Duration = Duration::from_millis(20);

/// In each round the set is changed as often as in every other, so what a change holds up shows in all of them; what
/// else the machine does, or its host, shows in some.
const ROUNDS: usize = 9;

/// One thread asks without a pause while another puts one generation after the other in force, each with one policy
/// changed; and for as long without any change.
pub(crate) fn measure(effort: Effort) -> Outcome<Value> {
    let size = effort.largest_swapped;
    let mut slice = PolicySlice {
        mesh_hash: String::new(),
        policies: Shape::Mesh.policies(size)?,
        ..PolicySlice::default()
    };
    let engine = Engine::compile(&slice).map_err(|faults| format!("{:?}", faults.first()))?;
    let mut asker = Asker::new(Shape::Mesh, size, &engine)?;
    let engine = ArcSwap::from_pointee(engine);
    let (mut changes, mut still, mut swapping) = (Vec::new(), Vec::new(), Vec::new());
    let each = effort.swaps / ROUNDS;
    for round in 0..ROUNDS {
        still.push(watch(&mut asker, &engine, || {
            std::thread::sleep(PAUSE * u32::try_from(each)?);
            Ok(())
        })?);
        swapping.push(watch(&mut asker, &engine, || {
            for number in round * each..(round + 1) * each {
                changes.push(change(&mut slice, number * 37 % size, &engine)?);
                std::thread::sleep(PAUSE);
            }
            Ok(())
        })?);
    }
    changes.sort_unstable();
    let median = changes.get(changes.len() / 2).copied().unwrap_or_default();
    Ok(json!({
        "policies": size, "swaps": changes.len(), "rounds": ROUNDS,
        "change_ms": median.as_secs_f64() * 1000.0,
        "swapping": summary(swapping), "still": summary(still),
    }))
}

/// Puts a set with one other policy in force; how long that takes.
fn change(slice: &mut PolicySlice, at: usize, engine: &ArcSwap<Engine>) -> Outcome<Duration> {
    if let Some(policy) = slice.policies.get_mut(at) {
        policy.text = policy.text.replace("};", " && context.port > 0 };");
    }
    let started = Instant::now();
    let before = engine.load_full();
    let after = Engine::compile_after(slice, Some(&before));
    let after = after.map_err(|faults| format!("{:?}", faults.first()))?;
    engine.store(Arc::new(after));
    let took = started.elapsed();
    // As in the proxy: whoever changes the set gives the old one back, not whoever asks.
    while Arc::strong_count(&before) > 1 {
        std::thread::yield_now();
    }
    Ok(took)
}

/// Over all rounds.
fn summary(mut seen: Vec<Seen>) -> Value {
    let count: usize = seen.iter().map(|round| round.count).sum();
    let mut median = |of: fn(&Seen) -> f64| {
        seen.sort_by(|a, b| of(a).total_cmp(&of(b)));
        seen.get(seen.len() / 2).map_or(0.0, of)
    };
    let (longest, p999) = (median(|s| s.longest_run_us), median(|s| s.p999_us));
    let most = seen.iter().map(|s| s.longest_us).fold(0.0, f64::max);
    json!({
        "decisions": count, "longest_us": longest, "p999_us": p999,
        "longest_of_all_rounds_us": most,
    })
}

struct Seen {
    count: usize,
    p999_us: f64,
    longest_us: f64,
    /// The longest, less the time for which it waited for a processor.
    longest_run_us: f64,
}

/// Asks until `meanwhile` is done.
fn watch(
    asker: &mut Asker,
    engine: &ArcSwap<Engine>,
    meanwhile: impl FnOnce() -> Outcome<()> + Send,
) -> Outcome<Seen> {
    let done = AtomicBool::new(false);
    let waited = Waited::open()?;
    let (mut spans, mut longest_run) = (Vec::new(), Duration::ZERO);
    std::thread::scope(|scope| {
        let other = scope.spawn(|| {
            let outcome = meanwhile();
            done.store(true, Ordering::Release);
            outcome
        });
        while !done.load(Ordering::Acquire) {
            asker.known();
            let Some(request) = asker.request() else {
                return Err("the head is refused".into());
            };
            let before = waited.so_far()?;
            let started = Instant::now();
            black_box(engine.load().decide(&request));
            let span = started.elapsed();
            let waiting = waited.so_far()?.saturating_sub(before);
            longest_run = longest_run.max(span.saturating_sub(waiting));
            spans.push(span);
        }
        other.join().map_err(|_| "the other thread ended early")?
    })?;
    spans.sort_unstable();
    let micros = |span: Option<&Duration>| span.map_or(0.0, |s| s.as_secs_f64() * 1e6);
    Ok(Seen {
        count: spans.len(),
        p999_us: micros(spans.get(spans.len() * 999 / 1000)),
        longest_us: micros(spans.last()),
        longest_run_us: micros(Some(&longest_run)),
    })
}

/// How long this thread has waited for a processor: the second number of `schedstat`, in nanoseconds (proc(5)).
struct Waited(File);

impl Waited {
    fn open() -> Outcome<Self> {
        Ok(Self(File::open("/proc/thread-self/schedstat")?))
    }

    fn so_far(&self) -> Outcome<Duration> {
        let mut text = [0; 64];
        let length = self.0.read_at(&mut text, 0)?;
        let text = std::str::from_utf8(text.get(..length).unwrap_or_default())?;
        let nanos = text.split_whitespace().nth(1).ok_or("no number")?;
        Ok(Duration::from_nanos(nanos.parse()?))
    }
}
