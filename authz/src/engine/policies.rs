//! Policies in force together: the index over them, and what all of them look at.
//!
//! Those of the next generation are made from those of the one before; what did not change is shared.

use std::{cmp::Ordering, collections::BTreeMap, sync::Arc};

use reeve_core::{
    PolicyId, TrustDomain,
    decision::{AccessRequest, Decision, Effect, Reason},
};

use super::{MAX_CANDIDATES, Needs, memory, verdict};
use crate::{
    compile::Compiled,
    entities::{Ground, Looks, Parties, Question, QuestionError, Reach},
    explain,
    index::{self, Index, Step, Together},
    mesh_schema::MeshSchema,
    moments::Calendar,
    store::Store,
    uses::Uses,
};

/// A set of policies that decides.
#[derive(Debug)]
pub(super) struct Policies {
    /// Tells this compilation from every other of the process.
    pub(super) number: u64,
    pub(super) mesh: Arc<MeshSchema>,
    /// What is known of entities.
    pub(super) store: Arc<Store>,
    /// The mesh's trust domain.
    pub(super) home: Option<TrustDomain>,
    pub(super) index: Index,
    /// What opaque connections must not slip past: the weakened forms of `forbid`s that look at HTTP.
    blind: Index,
    named: Named,
    /// When answers may change by time alone.
    pub(super) calendar: Calendar,
    /// Ordered by id.
    all: Vec<Arc<Compiled>>,
}

/// How many policies name each.
#[derive(Clone, Debug, Default)]
struct Named {
    headers: BTreeMap<String, u32>,
    query: BTreeMap<String, u32>,
    claims: BTreeMap<String, u32>,
    labels: BTreeMap<String, u32>,
    entities: BTreeMap<(String, String), u32>,
    hierarchy: u32,
    sni: u32,
}

impl Policies {
    /// `all`, ordered by id, in the place of those `before`.
    pub(super) fn new(
        (mesh, store): (Arc<MeshSchema>, Arc<Store>),
        all: Vec<Arc<Compiled>>,
        before: Option<&Self>,
    ) -> Self {
        let mut this = Self {
            number: memory::next_number(),
            mesh,
            store,
            home: None,
            index: before.map(|b| b.index.clone()).unwrap_or_default(),
            blind: before.map(|b| b.blind.clone()).unwrap_or_default(),
            named: before.map(|b| b.named.clone()).unwrap_or_default(),
            calendar: before.map(|b| b.calendar.clone()).unwrap_or_default(),
            all: Vec::new(),
        };
        for (policy, step) in changes(before.map_or(&[], Self::all), &all) {
            this.change(policy, step);
        }
        this.all = all;
        this
    }

    fn change(&mut self, policy: &Arc<Compiled>, step: Step) {
        self.index.change(policy, step);
        if let Some(weak) = &policy.weak {
            self.blind.change(weak, step);
        }
        self.named.count(&policy.checked.uses, step);
        let checked = &policy.checked;
        self.calendar.change(&checked.moments, checked.until, step);
    }

    pub(super) fn settle(&mut self, home: TrustDomain) {
        self.home = Some(home);
        self.number = memory::next_number();
    }

    pub(super) fn all(&self) -> &[Arc<Compiled>] {
        &self.all
    }

    pub(super) fn needs(&self) -> Needs {
        Needs {
            headers: self.named.headers.keys().cloned().collect(),
            query: self.named.query.keys().cloned().collect(),
            labels: self.named.labels.keys().cloned().collect(),
            sni: self.named.sni > 0,
        }
    }

    /// What may be asked about beyond a request's own parties.
    pub(super) fn reach(&self) -> Reach {
        Reach {
            beyond: self.named.hierarchy > 0,
            named: self.named.entities.keys().cloned().collect(),
        }
    }

    /// What questions are put with.
    pub(super) fn ground(&self) -> Ground<'_> {
        Ground {
            mesh: &self.mesh,
            home: self.home.as_ref(),
            store: &self.store,
        }
    }

    pub(super) fn crowd(&self, services: usize) -> Option<Vec<PolicyId>> {
        if self.all.len() <= MAX_CANDIDATES {
            return None;
        }
        let together = Together {
            services,
            groups: self.store.most_ancestors,
        };
        let trees: Vec<_> = self
            .all
            .iter()
            .filter_map(|policy| Some((policy, policy.tree()?)))
            .collect();
        let policies = trees.iter().map(|(policy, tree)| {
            let source = &policy.source;
            (&source.id, source.scope.as_ref(), tree)
        });
        let crowd = index::most_candidates(&self.mesh, policies, together, MAX_CANDIDATES);
        (crowd.count > MAX_CANDIDATES).then_some(crowd.policies)
    }

    pub(super) fn decide(&self, request: &AccessRequest) -> Decision {
        // SECURITY: what cannot be asked is closed, as when a forbid cannot be evaluated.
        memory::decide(self, request)
            .unwrap_or_else(|_| Decision::without_policy(Effect::Deny, Reason::ForbidError))
    }

    /// The denial, if a `forbid` that looks at HTTP might apply.
    pub(super) fn blindly(&self, request: &AccessRequest) -> Option<Decision> {
        // SECURITY: as above.
        self.ask_blindly(request).unwrap_or_else(|_| {
            let decision = Decision::without_policy(Effect::Deny, Reason::ForbidError);
            Some(decision)
        })
    }

    fn ask_blindly(&self, request: &AccessRequest) -> Result<Option<Decision>, QuestionError> {
        let shelf = self.blind.shelf(request, self.ground());
        let mut candidates = self.blind.candidates(&shelf, request, &self.store);
        candidates.retain(|policy| policy.is_in_force(request.context.time));
        if candidates.is_empty() {
            return Ok(None);
        }
        let uses: Vec<_> = candidates.iter().map(|p| &p.checked.uses).collect();
        let looks = Looks(&uses);
        let parties = Parties::new(self.ground(), &looks.reach(), request)?;
        let (asked, entities) = parties.asked(self.ground(), looks, request)?;
        let found = verdict::judge(&candidates, asked, &entities).policies;
        let denied = || Decision {
            policies: found.clone(),
            ..Decision::without_policy(Effect::Deny, Reason::ForbidError)
        };
        Ok((!found.is_empty()).then(denied))
    }

    pub(super) fn explain(&self, request: &AccessRequest) -> Vec<explain::PolicyVerdict> {
        // Everything is built here: a part of a policy may be asked on its own.
        let everything = Uses {
            whole_context: true,
            hierarchy: true,
            headers: self.named.headers.keys().cloned().collect(),
            query: self.named.query.keys().cloned().collect(),
            claims: self.named.claims.keys().cloned().collect(),
            entities: self.named.entities.keys().cloned().collect(),
            ..Uses::default()
        };
        let looks = Looks(&[&everything]);
        let Ok(question) = Question::new(self.ground(), looks, request) else {
            return Vec::new();
        };
        let concerned = self.all.iter().filter(|p| {
            let scope = p.source.scope.as_ref();
            scope.is_none_or(|namespace| *namespace == request.resource.namespace)
        });
        let mut verdicts: Vec<_> = concerned
            .map(|policy| explain::verdict(policy, &question, request.context.time))
            .collect();
        explain::nearest_first(&mut verdicts);
        verdicts
    }
}

impl Named {
    fn count(&mut self, uses: &Uses, step: Step) {
        let names = [
            (&mut self.headers, &uses.headers),
            (&mut self.query, &uses.query),
            (&mut self.claims, &uses.claims),
            (&mut self.labels, &uses.labels),
        ];
        for (counts, names) in names {
            names.iter().for_each(|name| step.count(counts, name));
        }
        for entity in &uses.entities {
            step.count(&mut self.entities, entity);
        }
        if uses.hierarchy {
            step.take(&mut self.hierarchy);
        }
        if uses.attribute("sni") {
            step.take(&mut self.sni);
        }
    }
}

/// The policies that come and go between two lists, each ordered by id.
fn changes<'a>(
    before: &'a [Arc<Compiled>],
    after: &'a [Arc<Compiled>],
) -> Vec<(&'a Arc<Compiled>, Step)> {
    let (mut before, mut after) = (before.iter().peekable(), after.iter().peekable());
    let mut found = Vec::new();
    loop {
        let order = match (before.peek(), after.peek()) {
            (None, None) => return found,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(old), Some(new)) => old.source.id.cmp(&new.source.id),
        };
        let goes = before.next_if(|_| order.is_le());
        let comes = after.next_if(|_| order.is_ge());
        match (goes, comes) {
            (Some(old), Some(new)) if Arc::ptr_eq(old, new) => {}
            (old, new) => {
                found.extend(old.map(|old| (old, Step::Goes)));
                found.extend(new.map(|new| (new, Step::Comes)));
            }
        }
    }
}
