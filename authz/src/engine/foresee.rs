//! Answers to requests of which not everything is known, such as those that a record tells of.
//!
//! What is not known is tried out: a header, a query parameter and a claim can only be there or not, and contain each
//! text that a policy spells out or not; what else they contain makes no difference to any policy. So a few requests
//! stand for all that the unknown one may have been, and the answer is certain when all of them get the same.
//!
//! INVARIANT: an answer is certain only when no value of what is unknown could change it. What cannot be tried out (a
//! comparison with something that is not spelled out, too many cases) leaves it open.

mod values;

use std::{collections::BTreeSet, fmt, sync::Arc};

use reeve_core::decision::{AccessRequest, Decision, Effect};
use serde::Serialize;

use super::{Engine, Needs, State, policies::Policies};
use crate::{compile::Compiled, index::Sieve, uses::Uses};

use self::values::{Read, Slot};

/// Most requests that are tried out for one.
const MAX_CASES: usize = 1024;

/// What was looked for in a request, beside what it has.
#[derive(Clone, Copy, Debug)]
pub struct Searched<'a> {
    /// Headers, and query parameters.
    pub names: &'a Needs,
    /// Whether it is known that there is no end user if the request has none.
    pub user: bool,
    /// Claims that the end user has, whose values were not kept; `sub` is the subject.
    pub redacted_claims: &'a BTreeSet<String>,
    /// What of the context the request has and was not kept, by its name there.
    pub redacted_context: &'a BTreeSet<String>,
}

/// A part of a request that nobody looked for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unknown {
    /// A header.
    Header(String),
    /// A query parameter.
    Query(String),
    /// The end user, with all claims.
    User,
    /// A claim of the end user.
    Claim(String),
    /// Something else of the context, by its name there.
    Context(String),
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header(name) => write!(f, "header {name}"),
            Self::Query(name) => write!(f, "query parameter {name}"),
            Self::User => f.write_str("the end user's token"),
            Self::Claim(name) => write!(f, "claim {name}"),
            Self::Context(name) => write!(f, "context.{name}"),
        }
    }
}

/// An answer to a request of which not everything is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Foreseen {
    /// Whatever the unknown parts are. Which policies decide may depend on them.
    Certain(Decision),
    /// It depends on these.
    Open(Vec<Unknown>),
}

/// How a question is put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// As it stands: [`Engine::decide`].
    Plainly,
    /// For a connection that could not be read as HTTP where HTTP is expected: [`Engine::decide_opaque`].
    Opaquely,
}

/// What policies look at, of what differs from request to request.
#[derive(Clone, Debug, Default)]
pub struct Sight {
    uses: Uses,
    /// Whether any looks at the end user.
    pub user: bool,
}

impl Sight {
    fn of(policies: &[Arc<Compiled>]) -> Self {
        let mut uses = Uses::default();
        for policy in policies {
            uses.merge(policy.checked.uses.clone());
        }
        Self {
            user: uses.user(),
            uses,
        }
    }

    /// Whether any looks at `context.<name>`.
    pub fn attribute(&self, name: &str) -> bool {
        self.uses.attribute(name)
    }

    /// Whether any looks at that header.
    pub fn header(&self, name: &str) -> bool {
        self.uses.whole_context || self.uses.headers.contains(name)
    }

    /// Whether any looks at that query parameter.
    pub fn query(&self, name: &str) -> bool {
        self.uses.whole_context || self.uses.query.contains(name)
    }

    /// Whether any looks at that claim.
    pub fn claim(&self, name: &str) -> bool {
        self.uses.whole_context || self.uses.claims.contains(name)
    }
}

/// An engine that answers requests of which not everything is known.
#[derive(Debug)]
pub struct Foresight {
    engine: Engine,
    /// Policies that look at parts that may be unknown, and what each reads of them.
    reading: Vec<(Arc<Compiled>, Read)>,
    /// Policies that look at the time, or lapse.
    timed: Vec<Arc<Compiled>>,
    sight: Sight,
}

impl Foresight {
    /// Answers as `engine` does.
    pub fn new(engine: Engine) -> Self {
        let those = |is: fn(&Compiled) -> bool| -> Vec<_> {
            let all = engine.policies().map_or(&[][..], Policies::all);
            all.iter().filter(|policy| is(policy)).cloned().collect()
        };
        Self {
            reading: those(|policy| {
                let uses = &policy.checked.uses;
                !uses.headers.is_empty() || !uses.query.is_empty() || uses.user()
            })
            .into_iter()
            .map(|policy| (Arc::clone(&policy), Read::of(&policy)))
            .collect(),
            timed: those(|policy| {
                policy.checked.until.is_some() || policy.checked.uses.attribute("time")
            }),
            sight: Sight::of(engine.policies().map_or(&[], Policies::all)),
            engine,
        }
    }

    /// What its policies look at: requests that differ in nothing else, and not in the time if that matters, get the
    /// same answer.
    pub fn sight(&self) -> &Sight {
        &self.sight
    }

    /// Answers `request`, whose headers, query parameters and end user are there only as far as they were looked for.
    pub fn ask(&self, request: &AccessRequest, known: Searched<'_>, asked: Asked) -> Foreseen {
        let certain = |request| Foreseen::Certain(self.put(request, asked));
        if let Some(unknown) = self.not_told(request, known) {
            return Foreseen::Open(unknown);
        }
        if request.context.http.is_none() || self.reading.is_empty() {
            return certain(request);
        }
        let Some(sieve) = self.sieve(request) else {
            return certain(request);
        };
        let reading = self.reading.iter();
        let reading = reading.filter(|(policy, _)| sieve.lets_through(policy));
        let slots = values::slots(reading.map(|(_, read)| read), request, known);
        if slots.is_empty() {
            return certain(request);
        }
        match cases(&slots) {
            Some(count) => self.try_out(request, &slots, count, asked),
            None => Foreseen::Open(slots.into_iter().map(|slot| slot.unknown).collect()),
        }
    }

    /// What policies that can concern `request` look at of its context and the record lacks: what was not kept, and what was
    /// not told yet when it was written.
    fn not_told(&self, request: &AccessRequest, known: Searched<'_>) -> Option<Vec<Unknown>> {
        let mut lacking: BTreeSet<_> = lacks(request).into_iter().collect();
        for name in known.redacted_context {
            lacking.insert(name);
            // What policies read it by, too.
            lacking.extend((name == "path").then_some("path_segments"));
            lacking.extend(
                (name == "source_ip" && request.context.remote_ip.is_none()).then_some("remote_ip"),
            );
        }
        lacking.retain(|name| self.sight.attribute(name));
        if lacking.is_empty() {
            return None;
        }
        let sieve = self.sieve(request)?;
        let all = self.engine.policies().map_or(&[][..], Policies::all);
        let looks = |name: &str| {
            let mut concerning = all.iter().filter(|policy| sieve.lets_through(policy));
            concerning.any(|policy| policy.checked.uses.attribute(name))
        };
        lacking.retain(|name| looks(name));
        let unknown = lacking.into_iter();
        let unknown: Vec<_> = unknown
            .map(|name| Unknown::Context(name.to_owned()))
            .collect();
        (!unknown.is_empty()).then_some(unknown)
    }

    /// Whether the answer to `request` may be another one at another time.
    pub fn time_matters(&self, request: &AccessRequest) -> bool {
        let mut timed = self.timed.iter();
        self.sieve(request)
            .is_some_and(|sieve| timed.any(|policy| sieve.lets_through(policy)))
    }

    /// Whether any policy that can concern `request` looks at what HTTP adds to it.
    pub fn http_matters(&self, request: &AccessRequest) -> bool {
        const HTTP: [&str; 8] = [
            "host",
            "path",
            "path_segments",
            "method",
            "grpc",
            "headers",
            "header_text",
            "query",
        ];
        let Some(sieve) = self.sieve(request) else {
            return false;
        };
        let all = self.engine.policies().map_or(&[][..], Policies::all);
        let concerning = all.iter().filter(|policy| sieve.lets_through(policy));
        concerning
            .map(|policy| &policy.checked.uses)
            .any(|uses| HTTP.into_iter().any(|name| uses.attribute(name)))
    }

    /// Lets the policies through that can apply to `request`, whatever its headers, query, path and user are.
    fn sieve<'r>(&'r self, request: &'r AccessRequest) -> Option<Sieve<'r>> {
        let policies = self.engine.policies()?;
        Some(Sieve::of(request, policies.ground()))
    }

    fn put(&self, request: &AccessRequest, asked: Asked) -> Decision {
        match asked {
            Asked::Plainly => self.engine.decide(request),
            Asked::Opaquely => self.engine.decide_opaque(request),
        }
    }

    fn try_out(
        &self,
        request: &AccessRequest,
        slots: &[Slot],
        count: usize,
        asked: Asked,
    ) -> Foreseen {
        // The first case: nothing of it is there.
        let first = self.put(request, asked);
        let mut effects = vec![first.effect];
        let mut tried = request.clone();
        for case in 1..count {
            let mut rest = case;
            for slot in slots {
                slot.fill(&mut tried, rest % slot.count());
                rest /= slot.count();
            }
            effects.push(self.put(&tried, asked).effect);
        }
        if effects.iter().all(|effect| *effect == first.effect) {
            return Foreseen::Certain(first);
        }
        Foreseen::Open(that_matter(slots, &effects))
    }
}

impl Engine {
    fn policies(&self) -> Option<&Policies> {
        match &self.state {
            State::Closed(_) => None,
            State::Open(policies) => Some(policies),
        }
    }
}

/// What a record of before the connection was told lacks of it. Who tells the address that was called tells the server name
/// as well, if there is one.
fn lacks(request: &AccessRequest) -> Vec<&'static str> {
    match (&request.context.destination_ip, &request.context.sni) {
        (Some(_), _) => Vec::new(),
        (None, Some(_)) => vec!["destination_ip"],
        (None, None) => vec!["destination_ip", "sni"],
    }
}

/// How many cases there are, if they can all be tried.
fn cases(slots: &[Slot]) -> Option<usize> {
    let every = slots.iter().try_fold(1usize, |product, slot| {
        product.checked_mul(slot.is_closed().then(|| slot.count())?)
    });
    every.filter(|count| *count <= MAX_CASES)
}

/// The slots that alone can change the effect, whatever the others are.
fn that_matter(slots: &[Slot], effects: &[Effect]) -> Vec<Unknown> {
    let mut stride = 1;
    let mut found = Vec::new();
    for slot in slots {
        let matters = effects.iter().enumerate().any(|(case, effect)| {
            let own = case / stride % slot.count();
            let without = effects.get(case - own * stride);
            without.is_some_and(|other| other != effect)
        });
        if matters {
            found.push(slot.unknown.clone());
        }
        stride *= slot.count();
    }
    found
}

#[cfg(test)]
mod tests;
