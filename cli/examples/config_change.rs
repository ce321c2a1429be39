//! What a large mesh costs to read, and what a change of one of its many services costs on the way to a proxy, as JSON on
//! one line: `cargo run --release -p reeve-cli --example config_change [SERVICES]`.
//!
//! 5,000 services with a VirtualService of two routes each, and 20 workloads with sidecars, one of which is connected.
//! Times are CPU time of the whole process in milliseconds; of the changes, the median of seven.
#![expect(clippy::print_stdout, reason = "its output is what it is for")]

use std::{
    collections::HashSet,
    convert::Infallible,
    error::Error,
    fmt::Write as _,
    fs,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use reeve_ads::{AdsClient, AdsService, AdsStatus};
use reeve_control::{
    AppliedConfig, ConfigEvents, Controller, ControllerOptions, Fault, FaultChanges, ModeChange,
    instances::{FILE_NAME, Instances},
};
use reeve_core::{
    InstanceName, SpiffeId, SystemClock,
    model::{Generation, ProxyConfig, Resource},
};
use reeve_proxy::Snapshot;
use rustix::time::{ClockId, clock_gettime};
use tokio::{net::TcpListener, sync::watch};
use tonic::transport::{Endpoint, Server, server::TcpIncoming};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

const SERVICES: usize = 5_000;
const PER_FILE: usize = 50;
const WORKLOADS: usize = 20;
const CHANGES: usize = 7;

#[derive(Debug)]
struct Deaf;

impl ConfigEvents for Deaf {
    fn applied(&self, _: &AppliedConfig) {}
    fn refused(&self, faults: &[Fault]) {
        println!("refused: {:?}", faults.first());
    }
    fn faults_changed(&self, _: &FaultChanges) {}
    fn modes_changed(&self, _: Generation, _: &[ModeChange]) {}
    fn nacked(&self, _: &InstanceName, _: Generation, error: &str) {
        println!("nacked: {error}");
    }
}

#[tokio::main]
async fn main() -> Outcome<()> {
    let services = std::env::args()
        .nth(1)
        .map_or(Ok(SERVICES), |n| n.parse())?;
    let mut figures = serde_json::Map::new();
    let mut note = |name: &str, value: f64| figures.insert(name.to_owned(), value.round().into());
    let (folder, state) = (tempfile::tempdir()?, tempfile::tempdir()?);
    write(folder.path(), services)?;

    let began = cpu();
    let mesh =
        reeve_control::load(folder.path()).map_err(|faults| format!("{:?}", faults.first()))?;
    note("read_ms", cpu() - began);
    let mut instances = Instances::new(77);
    instances.plan(&mesh.workloads, mesh.services.keys().take(200))?;
    instances
        .instances
        .iter_mut()
        .for_each(|i| i.healthy = true);
    instances.write(&state.path().join(FILE_NAME))?;

    let began = cpu();
    let controller = Controller::start(ControllerOptions {
        folder: folder.path().to_owned(),
        state: state.path().to_owned(),
        clock: Arc::new(SystemClock),
        events: Arc::new(Deaf),
    })?;
    note("read_and_derive_ms", cpu() - began);

    let name: InstanceName = "w0-0".parse()?;
    let config = controller.proxy_config(&name).ok_or("no proxy")?;
    let routes = config.routes.values().map(|t| {
        t.virtual_hosts
            .iter()
            .map(|h| h.1.routes.len())
            .sum::<usize>()
    });
    note("routes_of_a_proxy", routes.sum::<usize>() as f64);
    let bytes: usize = config.resources().iter().map(|r| text(r).len()).sum();
    note("bytes_of_a_proxy", bytes as f64);

    let began = cpu();
    let mut status = connect(&controller, &name, config.workload.identity.clone()).await?;
    applied(&mut status, Generation(1)).await?;
    note("first_send_and_apply_ms", cpu() - began);

    for what in ["route", "service"] {
        let edit = |change: usize| match what {
            "route" => fs::write(folder.path().join("services-00.yaml"), file(0, change)),
            _ => {
                let new = folder.path().join(format!("new-{change}.yaml"));
                fs::write(new, service(services + change, 0))
            }
        };
        let cost = change(&controller, &name, &mut status, edit).await?;
        note(&format!("{what}_change_control_ms"), cost.control);
        note(&format!("{what}_change_all_ms"), cost.all);
        note(&format!("{what}_change_bytes"), cost.bytes as f64);
    }
    println!("{}", serde_json::Value::Object(figures));
    Ok(())
}

/// What changes cost.
struct Cost {
    /// Until the control plane had taken one in.
    control: f64,
    /// Until the proxy had applied it.
    all: f64,
    /// Of the resources that were sent.
    bytes: usize,
}

/// Makes the same edit several times.
async fn change(
    controller: &Controller,
    name: &InstanceName,
    status: &mut watch::Receiver<AdsStatus>,
    edit: impl Fn(usize) -> std::io::Result<()>,
) -> Outcome<Cost> {
    let (mut control, mut all, mut bytes) = (Vec::new(), Vec::new(), 0);
    for change in 1..=CHANGES {
        let before = controller.proxy_config(name).ok_or("no proxy")?;
        edit(change)?;
        let began = cpu();
        controller.reload();
        control.push(cpu() - began);
        let after = controller.proxy_config(name).ok_or("no proxy")?;
        applied(status, after.generation).await?;
        all.push(cpu() - began);
        let known: HashSet<_> = before.resources().iter().map(text).collect();
        let now = after.resources();
        let new = now.iter().map(text).filter(|text| !known.contains(text));
        bytes = new.map(|text| text.len()).sum();
    }
    Ok(Cost {
        control: median(control),
        all: median(all),
        bytes,
    })
}

/// CPU time of the process in milliseconds.
fn cpu() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 * 1e3 + time.tv_nsec as f64 / 1e6
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// A resource as it travels.
fn text(resource: &Resource) -> Vec<u8> {
    serde_json::to_vec(resource).unwrap_or_default()
}

/// One proxy, which compiles what it is sent.
async fn connect(
    controller: &Arc<Controller>,
    name: &InstanceName,
    id: SpiffeId,
) -> Outcome<watch::Receiver<AdsStatus>> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address: SocketAddr = listener.local_addr()?;
    let ads = AdsService::new(controller.clone(), move |_| Some(id.clone())).into_server();
    let served = Server::builder().add_service(ads);
    tokio::spawn(served.serve_with_incoming(TcpIncoming::from(listener)));
    let channel = Endpoint::from_shared(format!("http://{address}"))?;
    let client = AdsClient::new(Arc::new(move || channel.connect_lazy()), name.clone());
    let status = client.status();
    let held: Arc<Mutex<Option<Arc<Snapshot>>>> = Arc::default();
    tokio::spawn(async move {
        let never: Infallible = client
            .run(move |config| std::future::ready(apply(&held, config)))
            .await;
        never
    });
    Ok(status)
}

fn apply(held: &Mutex<Option<Arc<Snapshot>>>, config: Arc<ProxyConfig>) -> Result<(), String> {
    let mut held = held.lock().unwrap_or_else(PoisonError::into_inner);
    let compiled = match held.as_ref() {
        Some(before) => Snapshot::compile_again(config, before),
        None => Snapshot::compile(config),
    };
    *held = Some(Arc::new(compiled.map_err(|e| e.to_string())?));
    Ok(())
}

async fn applied(status: &mut watch::Receiver<AdsStatus>, generation: Generation) -> Outcome<()> {
    let done = status.wait_for(|s| s.applied >= Some(generation));
    tokio::time::timeout(Duration::from_secs(120), done).await??;
    Ok(())
}

fn write(folder: &Path, services: usize) -> Outcome<()> {
    let mut workloads = String::new();
    for n in 0..WORKLOADS {
        writeln!(
            workloads,
            "    - {{name: w{n}, command: [x], labels: {{app: s{n}}}, ports: [{{port: 9080, name: http}}]}}"
        )?;
    }
    let local = "apiVersion: reeve.dev/v1alpha1\nkind: LocalMesh\nmetadata: {name: local}\nspec:\n  workloads:\n";
    fs::write(folder.join("workloads.yaml"), format!("{local}{workloads}"))?;
    for number in 0..services.div_ceil(PER_FILE) {
        fs::write(
            folder.join(format!("services-{number:02}.yaml")),
            file(number, 0),
        )?;
    }
    Ok(())
}

/// A file of services; `change` is seen in a route of one of them.
fn file(number: usize, change: usize) -> String {
    let all = (number * PER_FILE..(number + 1) * PER_FILE).enumerate();
    all.map(|(at, n)| service(n, if at == 7 { change } else { 0 }))
        .collect()
}

fn service(n: usize, change: usize) -> String {
    format!(
        "apiVersion: v1
kind: Service
metadata: {{name: s{n}}}
spec: {{selector: {{app: s{n}}}, ports: [{{port: 9080, name: http}}]}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: s{n}}}
spec:
  hosts: [s{n}]
  http:
    - match: [{{uri: {{prefix: /r{change}/}}, headers: {{end-user: {{exact: jason}}}}}}]
      route: [{{destination: {{host: s{n}}}}}]
      timeout: 2s
    - route: [{{destination: {{host: s{n}}}}}]
---
"
    )
}
