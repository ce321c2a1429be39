//! From policy sources to policies that may decide.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use cedar_policy::{
    Effect as CedarEffect, Policy, PolicySet, Template,
    ffi::DetailedError,
    pst::{self, StaticPolicy},
};
use cedar_policy_core::ast;
use reeve_core::{
    PolicyId, UnixTime,
    decision::Effect,
    model::{PolicyMode, PolicySource},
};

use crate::{
    PolicyFault, bounds,
    check::{self, Checked, Place},
    fault::merged,
    index::Filing,
    mesh_schema::MeshSchema,
    moments::Moments,
    opaque,
    uses::Uses,
};

/// Most policies in one slice.
pub(crate) const MAX_POLICIES: usize = 100_000;
/// Longest text of one policy.
pub(crate) const MAX_POLICY_BYTES: usize = 64 * 1024;

/// A policy that may decide.
#[derive(Debug)]
pub(crate) struct Compiled {
    /// Tells it from every other of the process.
    pub(crate) number: u64,
    pub(crate) source: PolicySource,
    pub(crate) checked: Checked,
    pub(crate) policy: Policy,
    /// All of it as one expression, scope first.
    pub(crate) condition: ast::Expr,
    /// Where it stands in the index.
    pub(crate) filing: Filing,
    /// Of a `forbid` that looks at HTTP, what holds for any connection ([`opaque`]).
    pub(crate) weak: Option<Arc<Self>>,
}

impl Compiled {
    fn new(
        mesh: &MeshSchema,
        source: PolicySource,
        checked: Checked,
        (policy, tree): (Policy, &pst::Template),
    ) -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        Self {
            number: LAST.fetch_add(1, Ordering::Relaxed),
            filing: Filing::of(mesh, tree, source.scope.as_ref()),
            condition: AsRef::<ast::Policy>::as_ref(&policy).condition(),
            weak: None,
            source,
            checked,
            policy,
        }
    }

    /// What the policy does when it applies.
    pub(crate) fn effect(&self) -> Effect {
        match self.policy.effect() {
            CedarEffect::Permit => Effect::Allow,
            CedarEffect::Forbid => Effect::Deny,
        }
    }

    /// Its syntax tree, which is made anew: few ask for it, and it is large.
    pub(crate) fn tree(&self) -> Option<pst::Template> {
        Some(self.policy.to_pst().ok()?.body().clone())
    }

    /// Whether it still decides at `now`: `@until` has not come.
    pub(crate) fn is_in_force(&self, now: UnixTime) -> bool {
        self.checked.until.is_none_or(|until| now < until)
    }
}

/// Parses, checks and validates `sources`, apart from those that are among `before`, which is ordered by id; reports
/// all faults.
pub(crate) fn compile(
    mesh: &MeshSchema,
    sources: &[PolicySource],
    before: &[Arc<Compiled>],
) -> Result<Vec<Arc<Compiled>>, Vec<PolicyFault>> {
    let mut all = Vec::with_capacity(sources.len().min(MAX_POLICIES));
    let mut faults = Vec::new();
    let mut set = PolicySet::new();
    for source in sources.iter().take(MAX_POLICIES) {
        let compiled = match known(before, source) {
            Some(compiled) => compiled,
            None => match compile_one(mesh, source) {
                Ok((written, compiled)) => {
                    if let Err(e) = set.add(written) {
                        faults.push(fault(source, e.to_string()));
                    }
                    Arc::new(compiled)
                }
                Err(found) => {
                    faults.extend(found);
                    continue;
                }
            },
        };
        all.push(compiled);
    }
    if let Some(beyond) = sources.get(MAX_POLICIES) {
        faults.push(fault(beyond, format!("more than {MAX_POLICIES} policies")));
    }
    let id = |compiled: &Arc<Compiled>| compiled.source.id.clone();
    if !all.is_sorted_by(|a, b| a.source.id < b.source.id) {
        all.sort_by(|a, b| a.source.id.cmp(&b.source.id));
        let same = all.windows(2).filter_map(|pair| match pair {
            [a, b] if a.source.id == b.source.id => Some(&b.source),
            _ => None,
        });
        faults.extend(same.map(|twin| fault(twin, "another policy has this id".to_owned())));
    }
    for (name, diagnostic) in mesh.validate(&set) {
        let named = PolicyId::parse(&name).ok();
        let at = named.and_then(|named| all.binary_search_by_key(&named, id).ok());
        if let Some(source) = at.and_then(|at| all.get(at)).map(|c| &c.source) {
            faults.push(PolicyFault::of_cedar(&source.id, &source.text, &diagnostic));
        }
    }
    if faults.is_empty() {
        Ok(all)
    } else {
        Err(merged(faults))
    }
}

fn known(before: &[Arc<Compiled>], source: &PolicySource) -> Option<Arc<Compiled>> {
    let at = before.binary_search_by(|known| known.source.id.cmp(&source.id));
    let known = before.get(at.ok()?)?;
    (known.source == *source).then(|| Arc::clone(known))
}

/// The policy as it was written (whose places validation reports), and as it is evaluated.
fn compile_one(
    mesh: &MeshSchema,
    source: &PolicySource,
) -> Result<(Policy, Compiled), Vec<PolicyFault>> {
    if source.text.len() > MAX_POLICY_BYTES {
        let message = format!("a policy is at most {MAX_POLICY_BYTES} bytes long");
        return Err(vec![fault(source, message)]);
    }
    bounds::check(&source.text).map_err(|e| {
        let at = e.offset;
        vec![PolicyFault::at(&source.id, &source.text, at, e.to_string())]
    })?;
    let id = cedar_policy::PolicyId::new(source.id.as_str());
    let written = Policy::parse(Some(id.clone()), &source.text).map_err(|errors| {
        if Template::parse(Some(id.clone()), &source.text).is_ok() {
            return vec![template_fault(&source.id, &source.text, 0)];
        }
        parse_faults(&source.id, &source.text, &errors)
    })?;
    let place = Place {
        id: &source.id,
        document: &source.text,
        offset: 0,
    };
    let (checked, tree) = check::check(mesh, &written, place)?;
    let parsed = (written.clone(), &tree);
    let mut compiled = Compiled::new(mesh, source.clone(), checked, parsed);
    compiled.weak = weak(mesh, &compiled, &tree).map_err(|_| {
        let message = "the policy cannot be judged for connections".to_owned();
        vec![fault(source, message)]
    })?;
    Ok((written, compiled))
}

/// What a connection that could not be read as HTTP must not slip past.
fn weak(
    mesh: &MeshSchema,
    policy: &Compiled,
    tree: &pst::Template,
) -> Result<Option<Arc<Compiled>>, pst::PstConstructionError> {
    if policy.source.mode != PolicyMode::Enforce || policy.effect() != Effect::Deny {
        return Ok(None);
    }
    let Some(tree) = opaque::weakened(tree)? else {
        return Ok(None);
    };
    let checked = Checked {
        uses: Uses::of(&tree),
        // Those of the whole policy, which are told already.
        moments: Moments::default(),
        ..policy.checked
    };
    let weak = Policy::from_pst(pst::Policy::Static(StaticPolicy::try_from(tree.clone())?))?;
    let source = policy.source.clone();
    let weak = Compiled::new(mesh, source, checked, (weak, &tree));
    Ok(Some(Arc::new(weak)))
}

/// Every diagnostic of a text that does not parse.
pub(crate) fn parse_faults(
    id: &PolicyId,
    text: &str,
    errors: &cedar_policy::ParseErrors,
) -> Vec<PolicyFault> {
    errors
        .iter()
        .map(|e| PolicyFault::of_cedar(id, text, &DetailedError::from(e)))
        .collect()
}

/// Templates are refused by name.
pub(crate) fn template_fault(id: &PolicyId, text: &str, offset: usize) -> PolicyFault {
    let rest = text.get(offset..).unwrap_or_default();
    let slots = ["?principal", "?resource"];
    let at = slots.into_iter().filter_map(|slot| rest.find(slot)).min();
    PolicyFault::at(
        id,
        text,
        offset + at.unwrap_or_default(),
        "a policy with a slot is a template, and belongs in an AccessRole".to_owned(),
    )
    .with_help("an AccessRoleBinding fills the slots; or write the policy for one principal and one resource")
}

fn fault(source: &PolicySource, message: String) -> PolicyFault {
    PolicyFault::at(&source.id, &source.text, 0, message)
}

#[cfg(test)]
mod tests;
