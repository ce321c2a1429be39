//! The mesh process: kept running like any other, but killed last.

use std::{ffi::OsString, net::SocketAddr, sync::Arc, time::Duration};

use reeve_control::RestartPolicy;
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    Context,
    keep::keep,
    network,
    process::{Output, Spec},
};
use crate::{
    http::{self, Target},
    verb::run::{DeathSignal, PrivilegeArgs},
};

/// How long it may take to write down what it holds.
const GRACE: Duration = Duration::from_secs(5);
/// How often it is asked while it starts.
const ASK: Duration = Duration::from_millis(50);

/// Keeps the mesh process running until `stop`.
pub(crate) async fn run(context: Arc<Context>, stop: CancellationToken) {
    let spec = spec(&context);
    let pid = watch::Sender::new(None);
    let mut seen = pid.subscribe();
    let roster = context.roster.clone();
    let report = async {
        while seen.changed().await.is_ok() {
            roster.set_mesh_pid(*seen.borrow_and_update());
        }
    };
    // Cancel-safe: `report` only reports.
    tokio::select! {
        _ = keep(&context, &spec, RestartPolicy::Always, &pid, &stop) => {}
        () = report => {}
    }
}

fn spec(context: &Context) -> Spec {
    let mesh = context.roster.instances().mesh;
    let state = &context.state;
    let mut command: Vec<OsString> =
        vec![context.reeve.clone().into(), "control".into(), "run".into()];
    let mut flag = |name: &str, value: OsString| command.extend([name.into(), value]);
    flag("--state", state.path().into());
    flag("--folder", context.programs.folder.clone().into());
    flag("--grpc", mesh.grpc.to_string().into());
    flag("--api", mesh.api.to_string().into());
    if context.network.is_some() {
        flag("--socket-group", network::GROUP.to_string().into());
    }
    let mut env = context.own_environment();
    env.extend(context.custody.environment());
    if let Some(store) = &context.audit_store {
        flag("--audit-store", store.to_string().into());
        env.extend(bucket_credentials());
    }
    command.extend(context.custody.flags());
    Spec {
        title: "the mesh process".to_owned(),
        command,
        env,
        dir: state.path().to_owned(),
        death: DeathSignal::Term,
        output: Output::File(state.logs().join("mesh.log")),
        grace: GRACE,
        netns: None,
        privilege: PrivilegeArgs::default(),
        open_files: context.open_files,
        marks: None,
    }
}

/// For processes that write to a bucket alone: no sidecar and no application is to have its credentials.
pub(super) fn bucket_credentials() -> impl Iterator<Item = (OsString, OsString)> {
    std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"AWS_"))
}

/// Waits until the mesh process answers; whether it does.
pub(crate) async fn answers(api: SocketAddr, limit: Duration, stop: &CancellationToken) -> bool {
    let target = Target::Tcp(api);
    let deadline = Instant::now() + limit;
    while Instant::now() < deadline && !stop.is_cancelled() {
        let reply = http::get(&target, "/healthz", Duration::from_secs(1)).await;
        if reply.is_ok_and(|reply| reply.status.is_success()) {
            return true;
        }
        tokio::time::sleep(ASK).await;
    }
    false
}
