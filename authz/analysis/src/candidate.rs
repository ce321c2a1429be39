//! A configuration that recorded decisions are judged by.

use std::{collections::BTreeMap, fmt};

use reeve_audit::{Direction, LookedFor};
use reeve_authz::{Asked, Engine, Foreseen, Foresight, Needs, Searched, Sight};
use reeve_core::{
    decision::{AccessRequest, Action, Decision, Effect, Reason, ResourceRef, apply_state},
    model::ServiceState,
};
use serde::Serialize;

use crate::line::Recorded;

/// What a configuration says of places where requests are decided.
pub trait Places: Send + Sync {
    /// The rules of the proxy in front of `resource` at `port`.
    fn place(&self, resource: &ResourceRef, port: u16) -> Place;
}

/// The rules of a place.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Whether policies bind there.
    pub state: ServiceState,
    /// Whether HTTP is expected there.
    pub http: bool,
    /// Whether tokens are verified there.
    pub tokens: bool,
}

/// Policies and places.
pub struct Candidate {
    policies: Foresight,
    places: Box<dyn Places>,
}

impl fmt::Debug for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Candidate").finish_non_exhaustive()
    }
}

/// What becomes of a recorded decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Flip {
    /// It was allowed, and would be denied.
    NewlyDenied,
    /// It was denied, and would be allowed.
    NewlyPermitted,
    /// It depends on something that the record lacks.
    Undetermined,
    /// It comes out as it did.
    Same,
    /// It was not decided by policies, and comes out as it did.
    NotByPolicy,
}

/// A recorded decision, judged.
#[derive(Clone, Debug)]
pub(crate) struct Judged {
    pub(crate) flip: Flip,
    /// What would be answered; absent where that is undetermined.
    pub(crate) after: Option<Decision>,
    /// What the record lacks.
    pub(crate) missing: Vec<String>,
}

impl Candidate {
    /// These policies, which bind where `places` says.
    pub fn new(engine: Engine, places: Box<dyn Places>) -> Self {
        Self {
            policies: Foresight::new(engine),
            places,
        }
    }

    /// What its policies look at.
    pub(crate) fn sight(&self) -> &Sight {
        self.policies.sight()
    }

    pub(crate) fn judge(&self, recorded: &Recorded) -> Judged {
        self.judge_at(recorded, self.place(recorded))
    }

    /// The same, where these rules hold.
    pub(crate) fn judge_at(&self, recorded: &Recorded, place: Place) -> Judged {
        let Recorded {
            request, decision, ..
        } = recorded;
        if !by_policy(decision.reason) || !can_be_asked(&request.resource) {
            return Judged::certain(Flip::NotByPolicy, decision.clone());
        }
        let foreseen = match place.state {
            ServiceState::Open => {
                Foreseen::Certain(Decision::without_policy(Effect::Allow, Reason::ServiceOpen))
            }
            ServiceState::Shadow => Foreseen::Certain(Decision::without_policy(
                Effect::Allow,
                Reason::ServiceShadow,
            )),
            state @ ServiceState::Enforced => match self.ask(recorded, place) {
                Foreseen::Certain(judged) => Foreseen::Certain(apply_state(state, judged)),
                open @ Foreseen::Open(_) => open,
            },
        };
        match foreseen {
            Foreseen::Open(missing) => {
                Judged::open(missing.iter().map(ToString::to_string).collect())
            }
            Foreseen::Certain(after) => {
                let enforced = place.state == ServiceState::Enforced;
                // Before transformations it was another request, which the candidate would be asked about, too.
                let earlier = !recorded.transformations.is_empty() && enforced;
                if earlier && after.is_allow() && self.policies.http_matters(request) {
                    let by = recorded.transformations.join(", ");
                    return Judged::open(vec![format!("the request before {by} changed it")]);
                }
                Judged::certain(flip(decision.effect, after.effect), after)
            }
        }
    }

    /// Whether the answer to `request` may depend on when it is asked.
    pub(crate) fn depends_on_time(&self, request: &AccessRequest) -> bool {
        can_be_asked(&request.resource) && self.policies.time_matters(request)
    }

    fn place(&self, recorded: &Recorded) -> Place {
        let request = &recorded.request;
        match recorded.direction {
            Direction::Inbound => self.places.place(&request.resource, request.context.port),
            // A gateway asked by the outside, and what has no proxy of its own: policies always bind there.
            Direction::Outbound => Place {
                state: ServiceState::Enforced,
                ..self.places.place(&request.resource, request.context.port)
            },
        }
    }

    fn ask(&self, recorded: &Recorded, place: Place) -> Foreseen {
        let LookedFor {
            headers,
            query,
            token,
        } = &recorded.looked_for;
        // What was redacted was there, and nobody knows what it was.
        let redacted = &recorded.redacted;
        let kept = |names: &[String], taken: &BTreeMap<String, _>| {
            let names = names.iter().filter(|name| !taken.contains_key(*name));
            names.cloned().collect()
        };
        let names = Needs {
            headers: kept(headers, &redacted.headers),
            query: kept(query, &redacted.query),
            ..Needs::default()
        };
        let claims = redacted.claims.keys().cloned().collect();
        let context = redacted.context.keys().cloned().collect();
        let known = Searched {
            names: &names,
            // Where tokens are not verified, policies see no end user whatever the request carries.
            user: *token || !place.tokens,
            redacted_claims: &claims,
            redacted_context: &context,
        };
        let opaque = recorded.request.action == Action::Connect && place.http;
        let asked = if opaque {
            Asked::Opaquely
        } else {
            Asked::Plainly
        };
        self.policies.ask(&recorded.request, known, asked)
    }
}

impl Judged {
    fn certain(flip: Flip, after: Decision) -> Self {
        Self {
            flip,
            after: Some(after),
            missing: Vec::new(),
        }
    }

    fn open(missing: Vec<String>) -> Self {
        Self {
            flip: Flip::Undetermined,
            after: None,
            missing,
        }
    }
}

fn flip(before: Effect, after: Effect) -> Flip {
    match (before, after) {
        (Effect::Allow, Effect::Deny) => Flip::NewlyDenied,
        (Effect::Deny, Effect::Allow) => Flip::NewlyPermitted,
        (Effect::Allow, Effect::Allow) | (Effect::Deny, Effect::Deny) => Flip::Same,
    }
}

/// Whether policies, or the state of a service, led to the decision.
fn by_policy(reason: Reason) -> bool {
    match reason {
        Reason::Permitted
        | Reason::ServiceOpen
        | Reason::ServiceShadow
        | Reason::NoPermit
        | Reason::Forbidden
        | Reason::ForbidError
        | Reason::TooManyPolicies => true,
        Reason::NoPolicySet
        | Reason::InvalidToken
        | Reason::PlaintextRefused
        | Reason::AmbiguousPath
        | Reason::NotEntitled
        | Reason::NotInRegistry
        | Reason::ExternallyDenied
        | Reason::ExternallyUnanswered
        | Reason::NoRoute => false,
    }
}

/// An address outside the mesh that stands for no service is known to no policy.
fn can_be_asked(resource: &ResourceRef) -> bool {
    resource.workload.is_some() || resource.services.len() == 1
}

#[cfg(test)]
mod tests;
