//! Break-glass here too: signed grants in force beside the folder's policies, taken up on `admin.sock` in the state
//! directory.
//!
//! SECURITY: no grant is in force that is not recorded, and none that the folder has ceased to trust. Grants live in
//! memory: a server that starts again has none.

use std::{path::Path, sync::Arc};

use prometheus::{IntGauge, Registry};
use reeve_audit::{AppendError, EventKind, EventRecord, Wal};
use reeve_authz::break_glass::{SignedGrant, Terms};
use reeve_control::Mesh;
use reeve_core::{Clock, error_chain, model::PolicySource};
use reeve_proxy::{
    BreakGlassAsked, BreakGlassGrant, BreakGlassRefused, Grants, SwitchError, Witness,
};
use reeve_sidecar::{BreakGlassDoor, BreakGlassPlace, break_glass_routes, serve_admin};

use super::courts::Courts;

/// The socket, within the state directory.
pub(crate) const ADMIN_SOCKET: &str = "admin.sock";

/// The grants in force here.
#[derive(Debug)]
pub(super) struct Safe {
    grants: Grants,
    told: Told,
    clock: Arc<dyn Clock>,
}

/// Who is told of them.
#[derive(Debug)]
struct Told {
    wal: Arc<Wal>,
    active: IntGauge,
    mesh_wide: IntGauge,
}

impl Witness for Told {
    fn record(&self, event: &EventRecord) -> Result<(), AppendError> {
        self.wal.append(event.clone()).map(drop)
    }

    fn count(&self, grants: usize, mesh_wide: usize) {
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.active.set(number(grants));
        self.mesh_wide.set(number(mesh_wide));
    }
}

impl Safe {
    /// With no grant in it.
    pub(super) fn new(
        wal: Arc<Wal>,
        registry: &Registry,
        clock: Arc<dyn Clock>,
    ) -> prometheus::Result<Self> {
        let gauge = |name: &str, help: &str| {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        let active = gauge("reeve_break_glass_active", "Break-glass grants in force.")?;
        let mesh_wide = gauge(
            "reeve_break_glass_mesh_wide_active",
            "Break-glass grants in force that open every namespace.",
        )?;
        Ok(Self {
            grants: Grants::default(),
            told: Told {
                wal,
                active,
                mesh_wide,
            },
            clock,
        })
    }

    /// The policies of those that `mesh` lets be and whose time is not over; the others end.
    pub(super) fn policies(&self, mesh: &Mesh) -> Arc<[PolicySource]> {
        self.grants.withdraw(&mesh.settings.break_glass, &self.told);
        self.grants.end_what_is_over(self.clock.now(), &self.told);
        self.grants.policies()
    }

    /// Says again what is in force, once in a while.
    pub(super) fn shout(&self) {
        self.grants.shout();
    }

    /// Ends all.
    pub(super) fn leave(&self) {
        self.grants.leave(&self.told);
    }

    fn begin(
        &self,
        mesh: &Mesh,
        grant: &[u8],
        asked: &BreakGlassAsked,
    ) -> Result<BreakGlassGrant, BreakGlassRefused> {
        if asked.reason.trim().is_empty() {
            return Err(BreakGlassRefused::NoReason);
        }
        let signed = SignedGrant::read(grant)?;
        // Every namespace of the folder is judged here: whichever it opens is one of them.
        let namespace = signed.grant.namespace.namespace();
        let namespace = namespace.unwrap_or(&mesh.settings.root_namespace).clone();
        let terms = Terms {
            trust: &mesh.settings.break_glass,
            trust_domain: &mesh.settings.trust_domain,
            namespace: &namespace,
            now: self.clock.now(),
            lasting: asked.lasting,
        };
        self.grants.begin(signed, terms, asked, &self.told)
    }
}

/// Where grants are put in force: the court in session.
#[derive(Clone)]
struct Bench(Arc<Courts>);

impl BreakGlassPlace for Bench {
    fn begin(
        &self,
        grant: &[u8],
        asked: &BreakGlassAsked,
    ) -> Result<BreakGlassGrant, BreakGlassRefused> {
        let (mesh, safe) = (self.0.mesh(), self.0.safe());
        let begun = match mesh {
            Some(mesh) => safe.begin(&mesh, grant, asked),
            None => Err(SwitchError::NoSnapshot.into()),
        };
        if let Err(error) = &begun {
            let why = error_chain(error);
            tracing::warn!(%why, by = ?asked.by, "break-glass was refused");
            let event = EventRecord::new(EventKind::BreakGlassRefused)
                .with("reason", &asked.reason)
                .with("cause", why);
            let add = |event: EventRecord, (name, value): &(&'static str, String)| {
                event.with(name, value)
            };
            let event = asked.by.iter().fold(event, add);
            if let Err(error) = safe.told.record(&event) {
                tracing::error!(%error, "refused break-glass could not be recorded");
            }
        }
        self.0.refresh();
        begun
    }

    fn end(&self, id: &str, by: &[(&'static str, String)]) -> Result<(), BreakGlassRefused> {
        let safe = self.0.safe();
        let ended = safe.grants.end(id, by, &safe.told);
        self.0.refresh();
        ended
    }

    fn in_force(&self) -> Vec<BreakGlassGrant> {
        let safe = self.0.safe();
        safe.grants.in_force(safe.clock.now())
    }
}

/// Takes up grants on the socket in `state`, for ever.
pub(super) fn door(
    state: &Path,
    courts: Arc<Courts>,
    wal: Arc<Wal>,
) -> anyhow::Result<impl Future<Output = ()>> {
    let listener = reeve_sidecar::socket::bind(&state.join(ADMIN_SOCKET), "the admin socket")?;
    let routes = break_glass_routes(BreakGlassDoor {
        place: Bench(courts),
        wal,
        supervisor: None,
    });
    Ok(serve_admin(listener, routes))
}
