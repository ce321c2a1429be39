//! From a generation of configuration to what inquiries are judged by.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use http::HeaderName;
use reeve_audit::{LookedFor, Redaction};
use reeve_authz::{Engine, JwtVerifier};
use reeve_control::{Controller, Mesh, Place, Places};
use reeve_core::model::Generation;
use reeve_ext_authz::{Court, Subjects};
use reeve_proxy::inquiry::{Rules, Subject};
use tokio::sync::watch;

/// How often it is looked whether the keys of tokens have changed.
const LOOK: Duration = Duration::from_secs(1);

/// What a court was made of.
type Made = (Generation, Arc<Mesh>, Places);

/// Makes a new court whenever what it is made of has changed, for ever.
pub(super) async fn follow(controller: &Controller, courts: &watch::Sender<Option<Arc<Court>>>) {
    let mut mesh = controller.mesh();
    let mut last = controller.places();
    loop {
        // Cancel-safe: `changed` is; a change is seen again by looking.
        tokio::select! {
            changed = mesh.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(LOOK) => {}
        }
        last = refresh(controller, courts, last);
    }
}

/// Makes a new court, unless nothing has changed since `last`; a configuration that cannot be judged by changes nothing.
pub(super) fn refresh(
    controller: &Controller,
    courts: &watch::Sender<Option<Arc<Court>>>,
    last: Option<Made>,
) -> Option<Made> {
    let Some((generation, mesh, places)) = controller.places() else {
        return last;
    };
    let known = last
        .as_ref()
        .is_some_and(|(g, m, p)| *g == generation && Arc::ptr_eq(m, &mesh) && *p == places);
    if known && courts.borrow().is_some() {
        return last;
    }
    let before = courts.borrow().clone();
    match court(generation, &mesh, &places, before.as_deref()) {
        Ok(court) => {
            courts.send_replace(Some(Arc::new(court)));
            tracing::info!(%generation, "the configuration is judged by");
        }
        Err(fault) => tracing::error!(fault, "the configuration cannot be judged by"),
    }
    Some((generation, mesh, places))
}

/// What records do not keep: wherever a token may be taken from, its bytes are not recorded.
fn redaction(mesh: &Mesh, places: &Places) -> Redaction {
    let all = places.workloads.values().chain(places.services.values());
    let rules: Vec<_> = all.flat_map(|place| &place.jwt_rules).collect();
    let headers = rules.iter().flat_map(|rule| &rule.from_headers);
    let query = rules.iter().flat_map(|rule| &rule.from_params);
    Redaction::new(
        &mesh.settings.field_classes,
        headers.map(|header| header.name.as_str()),
        query.map(String::as_str),
    )
}

fn court(
    generation: Generation,
    mesh: &Mesh,
    places: &Places,
    before: Option<&Court>,
) -> Result<Court, String> {
    let slice = mesh.all_policies();
    let known = before.map(|court| court.rules.engine.as_ref());
    let engine = Engine::compile_after(&slice, known).map_err(|faults| {
        let faults: Vec<_> = faults.iter().map(|f| f.message.as_str()).collect();
        faults.join("; ")
    })?;
    let engine = engine.in_trust_domain(mesh.settings.trust_domain.clone());
    let needed = engine.needs().headers.iter();
    let named: BTreeSet<&String> = needed.chain(&mesh.settings.recorded_headers).collect();
    let headers = named
        .iter()
        .map(|name| HeaderName::try_from(name.as_str()).map_err(|_| format!("header {name:?}")))
        .collect::<Result<_, _>>()?;
    let looked_for = LookedFor::new(
        named.iter().map(|name| name.as_str()),
        engine.needs().query.iter().map(String::as_str),
        false,
    );
    let subject = |place: &Place| {
        Arc::new(Subject {
            resource: place.resource.clone(),
            state: place.state,
            jwt: Arc::new(JwtVerifier::compile(&place.jwt_rules)),
            path_normalization: place.path_normalization,
            port_normalization: place.port_normalization.clone(),
        })
    };
    let workloads = places.workloads.iter();
    let services = places.services.iter();
    Ok(Court {
        rules: Rules {
            generation,
            projection_hash: reeve_authz::slice_hash(&slice),
            engine: Arc::new(engine),
            headers,
            looked_for,
            redaction: redaction(mesh, places),
            path_normalization: mesh.settings.path_normalization,
        },
        subjects: Subjects {
            workloads: workloads.map(|(id, p)| (id.clone(), subject(p))).collect(),
            services: services
                .map(|(name, p)| (name.clone(), subject(p)))
                .collect(),
        },
        root_namespace: mesh.settings.root_namespace.clone(),
    })
}
