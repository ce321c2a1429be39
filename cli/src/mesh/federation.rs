//! Federation with other trust domains: their bundles go to the authority, ours is served, and changes are put on record.

use std::{path::PathBuf, sync::Arc};

use reeve_audit::{EventKind, EventRecord};
use reeve_ca::CertificateAuthority;
use reeve_control::Controller;
use reeve_core::{Clock, UnixTime, error_chain};
use reeve_federation::{
    BundleEndpoint, ChangeKind, DomainStatus, FederationChange, FederationSink, Follower,
    FollowerOptions, Wanted,
};
use reeve_svid::{CredentialsWatch, Federated, TrustBundle};
use tokio::sync::watch;

use super::events::Recorder;

/// Gives the authority what is fetched.
#[derive(Debug)]
struct Sink {
    ca: Arc<CertificateAuthority>,
    events: Arc<Recorder>,
}

impl FederationSink for Sink {
    fn install(&self, federated: Arc<Federated>) -> bool {
        let told = self.ca.federate(federated);
        if let Err(error) = &told {
            let error = error_chain(error);
            tracing::error!(
                error,
                "members cannot be told the bundles of other trust domains"
            );
        }
        told.is_ok()
    }

    fn changed(&self, change: &FederationChange) {
        tracing::info!(?change, "federation");
        let event = EventRecord::new(EventKind::FederationChanged)
            .with("trust_domain", change.trust_domain.as_str());
        let event = match &change.what {
            ChangeKind::Bundle {
                sequence,
                authorities,
            } => event
                .with("change", "bundle")
                .with("sequence", sequence.to_string())
                .with("authorities", authorities.to_string()),
            ChangeKind::Withdrawn => event.with("change", "withdrawn"),
        };
        self.events.record(event);
    }
}

/// What follows the others' bundles, those that are known being in force when this returns, and what serves ours.
pub(super) fn parts(
    (ca, events): (&Arc<CertificateAuthority>, &Arc<Recorder>),
    controller: &Arc<Controller>,
    credentials: &CredentialsWatch,
    (state, clock): (PathBuf, Arc<dyn Clock>),
) -> (Follower, BundleEndpoint) {
    let endpoint = BundleEndpoint {
        clock: Arc::clone(&clock),
        wanted: wanted(controller),
        bundle: ca.bundle(),
        credentials: credentials.clone(),
    };
    let follower = Follower::open(FollowerOptions {
        clock,
        state,
        wanted: wanted(controller),
        own: ca.bundle(),
        sink: Arc::new(Sink {
            ca: Arc::clone(ca),
            events: Arc::clone(events),
        }),
    });
    // Before any proxy asks: none is to lose keys because we started again.
    controller.take_bundle(&ca.bundle().borrow());
    (follower, endpoint)
}

/// Has tokens of trust domains verified with the keys that their bundles have now, without end.
pub(super) async fn tell_keys(
    mut bundle: watch::Receiver<Arc<TrustBundle>>,
    controller: Arc<Controller>,
) {
    loop {
        let now = Arc::clone(&bundle.borrow_and_update());
        controller.take_bundle(&now);
        // Cancel-safe: `changed` is.
        if bundle.changed().await.is_err() {
            return;
        }
    }
}

fn wanted(controller: &Arc<Controller>) -> Wanted {
    let mesh = controller.mesh();
    Arc::new(move || mesh.borrow().as_ref().map(|mesh| mesh.federation()))
}

/// In Prometheus' text format.
pub(super) fn metrics(domains: &[DomainStatus], now: UnixTime) -> String {
    type Value = fn(&DomainStatus, UnixTime) -> u64;
    let gauges: [(&str, &str, Value); 4] = [
        (
            "reeve_federated_bundle_age_seconds",
            "How long ago each federated trust domain's bundle was fetched or configured.",
            |domain, now| domain.as_of.map_or(0, |at| now.since(at).as_secs()),
        ),
        (
            "reeve_federated_bundle_sequence",
            "Its sequence, as its publisher counts.",
            |domain, _| domain.sequence.unwrap_or_default(),
        ),
        (
            "reeve_federated_bundle_authorities",
            "Its authorities; with none, the trust domain's workloads are refused.",
            |domain, _| u64::try_from(domain.authorities).unwrap_or(u64::MAX),
        ),
        (
            "reeve_federated_bundle_failures",
            "How often in a row fetching it has failed.",
            |domain, _| domain.failures.into(),
        ),
    ];
    let mut text = String::new();
    for (name, help, value) in gauges.into_iter().filter(|_| !domains.is_empty()) {
        text.push_str(&format!("# HELP {name} {help}\n# TYPE {name} gauge\n"));
        for domain in domains {
            let (of, value) = (domain.trust_domain.as_str(), value(domain, now));
            text.push_str(&format!("{name}{{trust_domain=\"{of}\"}} {value}\n"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_trust_domain_has_its_age_and_its_failures() {
        let domain = DomainStatus {
            trust_domain: "other.org".parse().unwrap(),
            sequence: Some(7),
            authorities: 2,
            jwt_keys: 1,
            source: None,
            as_of: Some(UnixTime::from_secs(100)),
            refresh_ms: 1000,
            endpoint: None,
            profile: None,
            endpoint_spiffe_id: None,
            failures: 3,
            error: None,
        };
        let text = metrics(&[domain], UnixTime::from_secs(160));
        for line in [
            "reeve_federated_bundle_age_seconds{trust_domain=\"other.org\"} 60",
            "reeve_federated_bundle_sequence{trust_domain=\"other.org\"} 7",
            "reeve_federated_bundle_authorities{trust_domain=\"other.org\"} 2",
            "reeve_federated_bundle_failures{trust_domain=\"other.org\"} 3",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
        }
        assert_eq!(metrics(&[], UnixTime::from_secs(160)), "");
    }
}
