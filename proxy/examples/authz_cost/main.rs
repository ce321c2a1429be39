//! What a decision costs by the number of policies, from a request's header map to the answer, beside plain Cedar; what
//! a change of the policy set holds up; and what a policy takes in memory. `make bench-authz` runs it.
//!
//! `authz_cost FIGURES.json [--quick]`; `authz_cost --export FOLDER [--quick]` writes policy sets, requests and this
//! engine's answers for `tests/bench/opa`; `authz_cost --memory N` compiles N policies and says what each takes;
//! `authz_cost --swap` only changes a set.
#![expect(clippy::print_stdout, reason = "its output is what it is for")]

mod export;
mod measure;
mod shapes;
mod swap;

use std::{error::Error, path::PathBuf};

use reeve_authz::{Engine, Plain};
use reeve_core::model::{PolicySlice, PolicySource};
use serde_json::{Value, json};

use self::{
    measure::{Asker, Cost, resident_bytes},
    shapes::Shape,
};

/// As in the binaries that are shipped.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

pub(crate) type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// How much is measured.
#[derive(Clone, Copy)]
pub(crate) struct Effort {
    pub(crate) sizes: &'static [usize],
    /// Decisions of each figure.
    pub(crate) decisions: usize,
    /// Decisions by plain Cedar take this many policies' worth of time.
    pub(crate) plain: usize,
    pub(crate) swaps: usize,
    pub(crate) largest_swapped: usize,
}

const WHOLE: Effort = Effort {
    sizes: &[1, 10, 100, 1_000, 10_000, 100_000],
    decisions: 200_000,
    plain: 3_000_000,
    swaps: 200,
    largest_swapped: 10_000,
};

const QUICK: Effort = Effort {
    sizes: &[1, 10, 1_000],
    decisions: 20_000,
    plain: 100_000,
    swaps: 20,
    largest_swapped: 1_000,
};

fn main() -> Outcome<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let effort = if args.iter().any(|arg| arg == "--quick") {
        QUICK
    } else {
        WHOLE
    };
    match args.first().map(String::as_str) {
        Some("--export") => {
            let folder = args.get(1).ok_or("which folder?")?;
            export::run(&PathBuf::from(folder), effort)
        }
        Some("--swap") => {
            println!("{}", swap::measure(effort)?);
            Ok(())
        }
        Some("--shape") => {
            let name = args.get(1).ok_or("which shape?")?;
            let found = Shape::ALL.into_iter().find(|shape| shape.name() == name);
            let size: usize = args.get(2).ok_or("how many?")?.parse()?;
            row(found.ok_or("no such shape")?, size, effort).map(drop)
        }
        Some("--memory") => {
            let size: usize = args.get(1).ok_or("how many?")?.parse()?;
            let policies = Shape::Mesh.policies(size)?;
            let texts: usize = policies.iter().map(|policy| policy.text.len()).sum();
            // What is needed however many there are.
            compiled(policies.get(..1).unwrap_or_default())?;
            let before = resident_bytes()?;
            let engine = compiled(&policies)?;
            let bytes = resident_bytes()?.saturating_sub(before);
            let figure = json!({
                "policies": size, "bytes_per_policy": bytes / size, "text_bytes": texts / size,
            });
            println!("{figure}");
            drop(engine);
            Ok(())
        }
        Some(file) => {
            let figures = figures(effort)?;
            std::fs::write(file, serde_json::to_vec_pretty(&figures)?)?;
            Ok(())
        }
        None => Err("usage: authz_cost FIGURES.json [--quick]".into()),
    }
}

fn figures(effort: Effort) -> Outcome<Value> {
    let mut rows = Vec::new();
    for size in effort.sizes {
        rows.push(row(Shape::Mesh, *size, effort)?);
    }
    for (shape, size) in [
        (Shape::Conditions, 10),
        (Shape::Conditions, 1_000),
        (Shape::OneService, *effort.sizes.last().unwrap_or(&1)),
        (Shape::Groups, 10),
        (Shape::Groups, 1_000),
        (Shape::Groups, effort.largest_swapped),
    ] {
        rows.push(row(shape, size, effort)?);
    }
    let swap = swap::measure(effort)?;
    println!("{swap}");
    Ok(json!({ "rows": rows, "swap": swap }))
}

/// One shape and size: known callers, callers never met, and plain Cedar.
fn row(shape: Shape, size: usize, effort: Effort) -> Outcome<Value> {
    let slice = shape.slice(size)?;
    let started = std::time::Instant::now();
    let engine = Engine::compile(&slice).map_err(|faults| format!("{:?}", faults.first()))?;
    let compiled_ms = started.elapsed().as_millis();
    let mut asker = Asker::new(shape, size, &engine)?;
    let known = asker.decide(&engine, effort.decisions, Asker::known)?;
    let again = asker.decide(&engine, effort.decisions, Asker::again)?;
    let stranger = asker.decide(&engine, effort.decisions / 10, Asker::stranger)?;
    let plain = plain(
        &slice,
        &mut asker,
        &engine,
        (effort.plain / size).clamp(5, 20_000),
    )?;
    let row = json!({
        "shape": shape.name(), "policies": size, "compile_ms": compiled_ms,
        "p50_ns": known.p50, "p99_ns": known.p99, "allowed": known.allowed,
        "again_p50_ns": again.p50, "again_p99_ns": again.p99,
        "new_caller_p50_ns": stranger.p50, "new_caller_p99_ns": stranger.p99,
        "cedar_p50_ns": plain.p50, "cedar_p99_ns": plain.p99,
    });
    println!("{row}");
    Ok(row)
}

fn compiled(policies: &[PolicySource]) -> Outcome<Engine> {
    let slice = PolicySlice {
        mesh_hash: String::new(),
        policies: policies.to_vec(),
        ..PolicySlice::default()
    };
    Engine::compile(&slice).map_err(|faults| format!("{:?}", faults.first()).into())
}

/// Cedar's authorizer over all of them, its request and entities made beforehand; its answers must be the engine's.
fn plain(slice: &PolicySlice, asker: &mut Asker, engine: &Engine, count: usize) -> Outcome<Cost> {
    let namespace = shapes::namespace(0).parse()?;
    let plain = Plain::new(slice, &namespace, shapes::NOW)?;
    let mut cost = Cost::default();
    for _ in 0..count {
        asker.known();
        let request = asker.request().ok_or("the head is refused")?;
        let question = plain.question(&request, None)?;
        let answer = cost.take(|| plain.decide(&question));
        if answer != engine.decide(&request) {
            return Err(format!("Cedar answers otherwise: {answer:?} to {request:?}").into());
        }
    }
    Ok(cost.done())
}
