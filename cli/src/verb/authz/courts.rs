//! From a generation of configuration to what inquiries are judged by.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http::HeaderName;
use reeve_audit::{LookedFor, Redaction};
use reeve_authz::{Engine, JwtVerifier};
use reeve_control::{Controller, Mesh, Place, Places};
use reeve_core::model::{Generation, PolicySource};
use reeve_ext_authz::{Court, Subjects};
use reeve_proxy::inquiry::{Rules, Subject};
use tokio::sync::watch;

use super::grants::Safe;

/// How often it is looked whether the keys of tokens have changed, or a break-glass grant is over.
const LOOK: Duration = Duration::from_secs(1);

/// What a court was made of.
#[derive(Debug)]
struct Made {
    generation: Generation,
    mesh: Arc<Mesh>,
    places: Places,
    grants: Arc<[PolicySource]>,
}

/// The court in session, made anew whenever what it is made of has changed.
#[derive(Debug)]
pub(super) struct Courts {
    controller: Arc<Controller>,
    safe: Safe,
    session: watch::Sender<Option<Arc<Court>>>,
    last: Mutex<Option<Made>>,
}

impl Courts {
    /// The first court, of the folder's valid configuration `mesh`.
    pub(super) fn open(controller: Arc<Controller>, safe: Safe) -> Self {
        let this = Self {
            controller,
            safe,
            session: watch::Sender::new(None),
            last: Mutex::default(),
        };
        this.refresh();
        this
    }

    /// The court in session, now and as it changes.
    pub(super) fn session(&self) -> watch::Receiver<Option<Arc<Court>>> {
        self.session.subscribe()
    }

    /// What break-glass grants are kept in.
    pub(super) fn safe(&self) -> &Safe {
        &self.safe
    }

    /// What the court in session was made of; `None` before there is one.
    pub(super) fn mesh(&self) -> Option<Arc<Mesh>> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.as_ref().map(|made| Arc::clone(&made.mesh))
    }

    /// Looks whether anything has changed, for ever.
    pub(super) async fn follow(&self) {
        let mut mesh = self.controller.mesh();
        loop {
            // Cancel-safe: `changed` is; a change is seen again by looking.
            tokio::select! {
                changed = mesh.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(LOOK) => {}
            }
            self.refresh();
            self.safe.shout();
        }
    }

    /// Makes a new court, unless nothing has changed; a configuration that cannot be judged by changes nothing.
    pub(super) fn refresh(&self) {
        let Some((generation, mesh, places)) = self.controller.places() else {
            return;
        };
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let made = Made {
            grants: self.safe.policies(&mesh),
            generation,
            mesh,
            places,
        };
        let before = self.session.borrow().clone();
        if before.is_some() && last.as_ref().is_some_and(|last| last.is(&made)) {
            return;
        }
        match court(&made, before.as_deref()) {
            Ok(court) => {
                self.session.send_replace(Some(Arc::new(court)));
                tracing::info!(%generation, "the configuration is judged by");
            }
            Err(fault) => tracing::error!(fault, "the configuration cannot be judged by"),
        }
        *last = Some(made);
    }
}

impl Made {
    fn is(&self, other: &Self) -> bool {
        self.generation == other.generation
            && Arc::ptr_eq(&self.mesh, &other.mesh)
            && self.places == other.places
            && *self.grants == *other.grants
    }
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

fn court(made: &Made, before: Option<&Court>) -> Result<Court, String> {
    let Made {
        generation,
        mesh,
        places,
        grants,
    } = made;
    let mut slice = mesh.all_policies();
    slice.policies.extend(grants.iter().cloned());
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
            generation: *generation,
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
