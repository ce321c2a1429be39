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

/// One thread asks without a pause while another puts one generation after the other in force, each with one policy
/// changed; and for as long without any change.
pub(crate) fn measure(effort: Effort) -> Outcome<Value> {
    let size = effort.largest_swapped;
    let slice = PolicySlice {
        mesh_hash: String::new(),
        policies: Shape::Mesh.policies(size)?,
    };
    let engine = Engine::compile(&slice).map_err(|faults| format!("{:?}", faults.first()))?;
    let mut asker = Asker::new(Shape::Mesh, size, &engine)?;
    let engine = Arc::new(ArcSwap::from_pointee(engine));
    let mut changes = Vec::new();
    let still = watch(&mut asker, &engine, || {
        std::thread::sleep(PAUSE * u32::try_from(effort.swaps)?);
        Ok(())
    })?;
    let swapping = watch(&mut asker, &engine, || {
        let mut slice = slice.clone();
        for number in 0..effort.swaps {
            if let Some(policy) = slice.policies.get_mut(number * 37 % size) {
                policy.text = policy
                    .text
                    .replace("/items", "")
                    .replace("};", " && context.port > 0 };");
            }
            let started = Instant::now();
            let before = engine.load_full();
            let after = Engine::compile_after(&slice, Some(&before));
            let after = after.map_err(|faults| format!("{:?}", faults.first()))?;
            engine.store(Arc::new(after));
            changes.push(started.elapsed());
            // As in the proxy: whoever changes the set gives the old one back, not whoever asks.
            std::thread::sleep(PAUSE);
            while Arc::strong_count(&before) > 1 {
                std::thread::yield_now();
            }
        }
        Ok(())
    })?;
    changes.sort_unstable();
    let median = changes.get(changes.len() / 2).copied().unwrap_or_default();
    Ok(json!({
        "policies": size, "swaps": effort.swaps,
        "change_ms": median.as_secs_f64() * 1000.0,
        "decisions": swapping.count,
        "p999_us": swapping.p999_us, "longest_us": swapping.longest_us,
        "longest_run_us": swapping.longest_run_us,
        "still_p999_us": still.p999_us, "still_longest_us": still.longest_us,
        "still_longest_run_us": still.longest_run_us,
    }))
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
