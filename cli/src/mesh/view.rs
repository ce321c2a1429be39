//! What the HTTP API shows, and what an operator may do over the mesh socket.

use std::{path::PathBuf, sync::Arc, time::Duration};

use futures_util::future::{BoxFuture, FutureExt};
use http::Extensions;
use reeve_ads::CircuitHub;
use reeve_audit::{AuditLog, EventKind, EventRecord};
use reeve_ca::{Caller, CertificateAuthority, Entries, JoinTokens, RotateError, UnixPeer};
use reeve_console::{
    AdminView, AuditFacts, CaFacts, ChaosRequest, ConfigFacts, CreatedToken, DrillNote,
    FaultRequest, Graph, JobDone, LockRequest, MeshFacts, MeshView, MigrationNote, RevokeRequest,
    RotateRequest, Status, TokenRefused, TokenRequest, TrailRead, UnlockRequest,
};
use reeve_control::{Controller, instances::Instances};
use reeve_core::{Clock, UnixTime, error_chain, model::AuditReplica};
use reeve_federation::DomainStatus;
use reeve_sidecar::whois::WhoIs;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::{
    attest::own_user, events::Recorder, federation, graph, migrations::LastStand, renewals,
    replicas::Replicas, settings::Kept, unprotected,
};

/// Longest life of a join token: a day.
const MAX_TOKEN_SECONDS: u64 = 24 * 60 * 60;

/// The mesh process as its interfaces see it.
pub(super) struct View {
    pub(super) settings: Kept,
    pub(super) started_at: UnixTime,
    pub(super) controller: Arc<Controller>,
    pub(super) circuits: Arc<CircuitHub>,
    pub(super) replicas: Arc<Replicas>,
    pub(super) ca: Arc<CertificateAuthority>,
    pub(super) federation: watch::Receiver<Vec<DomainStatus>>,
    pub(super) tokens: Arc<JoinTokens>,
    pub(super) entries: Arc<Entries>,
    pub(super) whois: WhoIs,
    pub(super) log: Arc<AuditLog>,
    pub(super) events: Arc<Recorder>,
    pub(super) registry: prometheus::Registry,
    pub(super) instances: PathBuf,
    pub(super) folder: PathBuf,
    pub(super) state: PathBuf,
    pub(super) last_stand: LastStand,
    pub(super) clock: Arc<dyn Clock>,
}

impl View {
    /// How the keys of token issuers stand, as (name, help, value).
    fn token_key_gauges(&self) -> [(&'static str, &'static str, u64); 4] {
        let keys = self.controller.status().token_keys;
        let now = self.clock.now();
        let ages = keys.iter().filter_map(|k| Some(now.since(k.fetched_at?)));
        let oldest = ages.max().unwrap_or_default();
        [
            (
                "reeve_jwks_sources",
                "Places that keys of token issuers are fetched from.",
                count(keys.len()),
            ),
            (
                "reeve_jwks_failing",
                "Those of them whose last fetch failed.",
                count(keys.iter().filter(|k| k.failures > 0).count()),
            ),
            (
                "reeve_jwks_missing",
                "Those of them that there are no keys of, so that their issuers' tokens are refused.",
                count(keys.iter().filter(|k| k.keys == 0).count()),
            ),
            (
                "reeve_jwks_oldest_seconds",
                "Age of the oldest fetched keys in use.",
                oldest.as_secs(),
            ),
        ]
    }

    /// The replicas that the mesh is to have.
    pub(super) fn expected_replicas(&self) -> Vec<AuditReplica> {
        let mesh = self.controller.mesh().borrow().clone();
        let elsewhere = mesh.map(|mesh| mesh.settings.audit_replicas_elsewhere.clone());
        let here = Instances::read(&self.instances).map(|instances| instances.mesh.replicas);
        let mut all = here.unwrap_or_default();
        all.extend(elsewhere.unwrap_or_default());
        all
    }

    /// Where our bundle is served, and how the endpoint is known.
    fn bundle_endpoint(&self) -> Option<Value> {
        let mesh = self.controller.mesh();
        let mesh = mesh.borrow();
        let serving = mesh.as_ref()?.settings.federation.serving.as_ref()?;
        let id = self.settings.mesh_identity();
        let by_web = serving.certificate.is_some();
        Some(json!({
            "address": serving.address,
            "profile": if by_web { "https_web" } else { "https_spiffe" },
            "endpoint_spiffe_id": (!by_web).then_some(id),
            "refresh_hint_seconds": serving.refresh_hint.as_secs(),
        }))
    }

    fn jobs_done(&self) -> Vec<JobDone> {
        let instances = Instances::read(&self.instances).map(|all| all.instances);
        let done = instances.unwrap_or_default().into_iter().filter_map(|i| {
            Some(JobDone {
                instance: i.instance,
                workload: i.workload,
                exit_code: i.exit_code?,
            })
        });
        done.collect()
    }
}

impl MeshView for View {
    fn status(&self) -> Status {
        let control = self.controller.status();
        let log = self.log.status();
        let ca = self.ca.status();
        let (issued, refused) = self.events.identities();
        let instances = Instances::read(&self.instances).ok();
        let intercepted = instances.is_some_and(|instances| instances.mesh.capture.is_some());
        Status {
            generation: control.generation,
            policy_hash: control.policy_hash,
            mesh: MeshFacts {
                trust_domain: self.settings.trust_domain.clone(),
                root_namespace: self.settings.root_namespace.clone(),
                started_at: self.started_at,
                version: env!("CARGO_PKG_VERSION").to_owned(),
                isolates_processes: intercepted,
                unprotected: unprotected::list(intercepted),
            },
            proxies: values(&control.proxies),
            circuits: self.circuits.open(),
            token_keys: values(&control.token_keys),
            jobs: self.jobs_done(),
            config: ConfigFacts {
                applied_at: control.applied_at,
                faults: values(&control.faults),
                refused_since: control.refused_since,
                warnings: values(&control.warnings),
            },
            ca: CaFacts {
                authorities: ca.roots,
                bundle_sequence: ca.bundle_sequence,
                renewal: ca.renewal,
                rotation: ca.rotation.and_then(|now| serde_json::to_value(now).ok()),
                certificate_ttl_ms: millis(self.settings.certificate_ttl),
                rotation_wait_ms: millis(self.settings.rotation_wait),
                root_not_after: ca.root_not_after,
                intermediate_not_after: ca.intermediate_not_after,
                custody: serde_json::to_value(ca.custody).unwrap_or_default(),
                issued,
                refused,
                bundle_endpoint: self.bundle_endpoint(),
                federation: values(&self.federation.borrow()),
            },
            audit: AuditFacts {
                records: log.records,
                tree_size: log.tree_size,
                checkpoint: log.checkpoint,
                verifier_key: log.verifier_key,
                proxies: log.proxies,
                witnesses: log.witnesses.to_string(),
                replicas: self
                    .replicas
                    .facts(self.clock.now(), &self.expected_replicas()),
            },
        }
    }

    fn instances(&self) -> Option<Value> {
        let instances = Instances::read(&self.instances).ok()?;
        serde_json::to_value(instances).ok()
    }

    fn chaos(&self) -> Value {
        serde_json::to_value(self.controller.chaos()).unwrap_or_default()
    }

    fn members(&self) -> Value {
        Value::Array(values(&self.ca.members()))
    }

    fn entries(&self) -> Value {
        Value::Array(values(&self.entries.status()))
    }

    fn mtls(&self) -> BoxFuture<'_, Result<Value, String>> {
        self.how_mtls_stands().boxed()
    }

    fn revoked(&self) -> Value {
        Value::Array(values(&self.ca.revoked()))
    }

    fn graph(&self) -> BoxFuture<'_, Graph> {
        async {
            let mesh = self.controller.mesh().borrow().clone();
            let instances = Instances::read(&self.instances).ok();
            match (mesh, instances) {
                (Some(mesh), Some(instances)) => graph::read(&mesh, &instances).await,
                (None, _) | (_, None) => Graph::default(),
            }
        }
        .boxed()
    }

    fn metrics(&self) -> String {
        let encoder = prometheus::TextEncoder::new();
        let mut text = encoder
            .encode_to_string(&self.registry.gather())
            .unwrap_or_default();
        let status = self.status();
        let connected = status
            .proxies
            .iter()
            .filter(|proxy| proxy.get("connected") == Some(&Value::Bool(true)))
            .count();
        for (name, help, value) in [
            (
                "reeve_config_generation",
                "The newest configuration generation.",
                status.generation.0,
            ),
            (
                "reeve_config_faults",
                "Faults that keep the folder from being applied.",
                count(status.config.faults.len()),
            ),
            (
                "reeve_proxies",
                "Instances that have a proxy.",
                count(status.proxies.len()),
            ),
            (
                "reeve_proxies_connected",
                "Proxies with an open configuration stream.",
                count(connected),
            ),
            (
                "reeve_audit_records",
                "Records under the audit log's checkpoint.",
                status.audit.records,
            ),
            (
                "reeve_audit_tree_size",
                "Batches under the audit log's checkpoint.",
                status.audit.tree_size,
            ),
        ]
        .into_iter()
        .chain(self.token_key_gauges())
        {
            text.push_str(&format!(
                "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}\n"
            ));
        }
        let ttl = self.settings.certificate_ttl;
        let (authority, members) = (self.ca.status(), self.ca.members());
        let ends = renewals::metrics(&authority, &members, ttl, self.clock.now());
        text.push_str(&ends);
        let domains = self.federation.borrow();
        text.push_str(&federation::metrics(&domains, self.clock.now()));
        text
    }
}

impl AdminView for View {
    /// SECURITY: applications run as the same user as the operator. Whoever the supervisor knows as part of a workload
    /// is not the operator, and a token would give it any identity.
    fn admit<'a>(&'a self, caller: &'a Extensions) -> BoxFuture<'a, Result<(), TokenRefused>> {
        async {
            let Some(peer) = caller.get::<UnixPeer>() else {
                return Err(TokenRefused::Caller("not a local process".to_owned()));
            };
            own_user(peer).map_err(TokenRefused::Caller)?;
            let Ok(known) = self.whois.ask(peer.pid).await else {
                return Ok(());
            };
            let caller = Caller::from(peer).to_string();
            let reason = format!("{caller} belongs to {}", known.instance);
            self.events.record(
                EventRecord::new(EventKind::IdentityRefused)
                    .with("caller", caller)
                    .with("requested", "an operator's right")
                    .with("reason", &reason),
            );
            Err(TokenRefused::Caller(format!(
                "{reason}; only the operator may do that"
            )))
        }
        .boxed()
    }

    fn switch_chaos(&self, request: &ChaosRequest) -> Result<(), TokenRefused> {
        let switched = self.controller.switch_chaos(request.off);
        switched.map_err(|error| TokenRefused::Ourselves(error.to_string()))
    }

    fn rotate(&self, request: &RotateRequest) -> Result<(), TokenRefused> {
        let what = serde_json::from_value(Value::String(request.what.clone()));
        let what = what.map_err(|e| TokenRefused::Request(e.to_string()))?;
        let rotated = self.ca.rotate(what, &*self.events);
        rotated.map_err(|error| match error {
            RotateError::UnderWay(_)
            | RotateError::NotUnderWay
            | RotateError::NoWayBack
            | RotateError::UpstreamDecides(_) => TokenRefused::Request(error.to_string()),
            RotateError::Authority(_) => TokenRefused::Ourselves(error_chain(&error)),
        })
    }

    fn revoke(&self, request: &RevokeRequest) -> Result<(), TokenRefused> {
        self.change_revocations(request)
    }

    fn note_drill(&self, caller: &Extensions, note: &DrillNote) -> Result<(), TokenRefused> {
        self.record_drill(caller, note)
    }

    fn note_migration(
        &self,
        caller: &Extensions,
        note: &MigrationNote,
    ) -> Result<(), TokenRefused> {
        self.record_migration(caller, note)
    }

    fn lock_mtls(&self, caller: &Extensions, request: &LockRequest) -> Result<Value, TokenRefused> {
        self.lock_namespace(caller, request)
    }

    fn unlock_mtls(
        &self,
        caller: &Extensions,
        request: &UnlockRequest,
    ) -> Result<Value, TokenRefused> {
        self.unlock_namespace(caller, request)
    }

    fn fault(&self, caller: &Extensions, request: &FaultRequest) -> Result<(), TokenRefused> {
        self.hold_fault(caller, request)
    }

    fn trail_was_read(&self, caller: &Extensions, read: &TrailRead) -> Result<(), TokenRefused> {
        let peer = caller.get::<UnixPeer>();
        let peer = peer.ok_or_else(|| TokenRefused::Caller("not a local process".to_owned()))?;
        let event = EventRecord::new(EventKind::LogRead)
            .with("filter", &read.filter)
            .with("outcome", "answered")
            .with("shown", read.shown.to_string())
            .with("uid", peer.uid.to_string())
            .with("pid", peer.pid.to_string());
        self.events.record(event);
        Ok(())
    }

    fn create_token(&self, request: &TokenRequest) -> Result<CreatedToken, TokenRefused> {
        if !request.identity.is_member_of(&self.settings.trust_domain) {
            return Err(TokenRefused::Request(format!(
                "{} is not of trust domain {}",
                request.identity,
                self.settings.trust_domain.as_str()
            )));
        }
        let ttl = Duration::from_secs(request.ttl_seconds);
        if !(1..=MAX_TOKEN_SECONDS).contains(&request.ttl_seconds) {
            return Err(TokenRefused::Request(format!(
                "a join token lives 1 to {MAX_TOKEN_SECONDS} seconds"
            )));
        }
        let token = self
            .tokens
            .create(request.identity.clone(), ttl)
            .map_err(|e| TokenRefused::Request(e.to_string()))?;
        let expires_at = self.clock.now().plus(ttl);
        self.events.record(
            EventRecord::new(EventKind::JoinTokenCreated)
                .about(request.identity.clone())
                .with("expires_at_ms", expires_at.as_millis().to_string()),
        );
        Ok(CreatedToken {
            token: token.to_string(),
            identity: request.identity.clone(),
            expires_at,
            bundle: self.ca.bundle().borrow().to_pem(),
        })
    }
}

fn values(list: &[impl Serialize]) -> Vec<Value> {
    let values = list.iter().map(serde_json::to_value);
    values.filter_map(Result::ok).collect()
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn count(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}
