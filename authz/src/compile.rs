//! From policy sources to policies that may decide.

use std::{collections::BTreeMap, sync::Arc};

use cedar_policy::{
    Policy, PolicySet, Template,
    ffi::DetailedError,
    pst::{self, BinaryOp, Clause, Expr, Literal, StaticPolicy, UnaryOp, Var},
};
use cedar_policy_core::ast;
use jiff::Timestamp;
use reeve_core::{PolicyId, UnixTime, model::PolicySource};

use crate::{
    PolicyFault, bounds,
    check::{self, Checked, Place},
    entities,
    fault::merged,
    mesh_schema::MeshSchema,
};

/// Most policies in one slice.
pub(crate) const MAX_POLICIES: usize = 20_000;
/// Longest text of one policy.
pub(crate) const MAX_POLICY_BYTES: usize = 64 * 1024;

/// A policy that may decide.
#[derive(Debug)]
pub(crate) struct Compiled {
    pub(crate) source: PolicySource,
    pub(crate) checked: Checked,
    /// What is evaluated: the source, and its `@until` as a condition.
    pub(crate) policy: Policy,
    /// All of it as one expression, scope first.
    pub(crate) condition: ast::Expr,
}

/// Policies that may decide, ordered by id.
type Compilation = (&'static MeshSchema, Vec<Arc<Compiled>>);

/// Parses, checks and validates `sources`, apart from those that are among `before`, which is ordered by id; reports
/// all faults.
pub(crate) fn compile(
    sources: &[PolicySource],
    before: &[Arc<Compiled>],
) -> Result<Compilation, Vec<PolicyFault>> {
    let mesh = match (MeshSchema::get(), sources.first()) {
        (Ok(mesh), _) => mesh,
        (Err(e), Some(first)) => return Err(vec![fault(first, e.to_string())]),
        (Err(_), None) => return Err(Vec::new()),
    };
    let mut all = BTreeMap::new();
    let mut faults = Vec::new();
    let mut set = PolicySet::new();
    for source in sources.iter().take(MAX_POLICIES) {
        let compiled = match known(before, source) {
            Some(compiled) => compiled,
            None => match compile_one(source) {
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
        if all.insert(source.id.clone(), compiled).is_some() {
            faults.push(fault(source, "another policy has this id".to_owned()));
        }
    }
    if let Some(beyond) = sources.get(MAX_POLICIES) {
        faults.push(fault(beyond, format!("more than {MAX_POLICIES} policies")));
    }
    for (id, diagnostic) in mesh.validate(&set) {
        let compiled = PolicyId::parse(&id).ok().and_then(|id| all.get(&id));
        if let Some(source) = compiled.map(|c| &c.source) {
            faults.push(PolicyFault::of_cedar(&source.id, &source.text, &diagnostic));
        }
    }
    if faults.is_empty() {
        Ok((mesh, all.into_values().collect()))
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
fn compile_one(source: &PolicySource) -> Result<(Policy, Compiled), Vec<PolicyFault>> {
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
    let checked = check::check(&written, place)?;
    let policy = match checked.until {
        None => written.clone(),
        Some(until) => limited(&checked.tree, until)
            .map(|policy| policy.new_id(id))
            .map_err(|e| vec![fault(source, e.to_string())])?,
    };
    let compiled = Compiled {
        source: source.clone(),
        checked,
        condition: AsRef::<ast::Policy>::as_ref(&policy).condition(),
        policy,
    };
    Ok((written, compiled))
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
        "policy templates are not supported".to_owned(),
    )
    .with_help("write the policy once for each principal or resource that it concerns")
}

/// The policy with `@until` as a condition: Cedar decides, and the clock is the request's.
fn limited(tree: &pst::Template, until: Timestamp) -> Result<Policy, pst::PstConstructionError> {
    let millis = u64::try_from(until.as_millisecond()).unwrap_or_default();
    let until = entities::datetime(UnixTime::from_millis(millis));
    let now = Expr::GetAttr {
        expr: Expr::Var(Var::Context).into(),
        attr: "time".into(),
    };
    let limit = Expr::UnaryOp {
        op: UnaryOp::Datetime,
        expr: Expr::Literal(Literal::String(until.into())).into(),
    };
    let mut tree = tree.clone();
    tree.try_add_clause(Clause::When(
        Expr::BinaryOp {
            op: BinaryOp::Less,
            left: now.into(),
            right: limit.into(),
        }
        .into(),
    ))?;
    Policy::from_pst(pst::Policy::Static(StaticPolicy::try_from(tree)?))
}

fn fault(source: &PolicySource, message: String) -> PolicyFault {
    PolicyFault::at(&source.id, &source.text, 0, message)
}

#[cfg(test)]
mod tests;
