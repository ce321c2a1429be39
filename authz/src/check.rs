//! What a policy must satisfy beyond Cedar's grammar and types before it may decide anything.

use cedar_policy::{
    Policy,
    pst::{EntityOrSlot, PrincipalConstraint, Template},
};
use jiff::{Timestamp, civil::Date, tz::TimeZone};
use reeve_core::{PolicyId, UnixTime, model::PolicyMode};

use crate::{PolicyFault, ids, mesh_schema::MeshSchema, moments::Moments, uses::Uses};

/// The annotations that mean something.
const ANNOTATIONS: &str = "@id, @description, @owner, @mode(\"shadow\") and @until(\"2030-12-31\")";

/// A policy's text within the text that faults are placed in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    /// The policy at fault.
    pub(crate) id: &'a PolicyId,
    /// What was handed in.
    pub(crate) document: &'a str,
    /// Where the policy starts in it.
    pub(crate) offset: usize,
}

impl Place<'_> {
    /// A fault at the first place where the policy says `needle`, else where the policy starts.
    pub(crate) fn fault(&self, needle: &str, message: String) -> PolicyFault {
        let rest = self.document.get(self.offset..).unwrap_or_default();
        let at = rest.find(needle).unwrap_or_default();
        PolicyFault::at(self.id, self.document, self.offset + at, message)
    }
}

/// What was learnt of a policy that passed.
#[derive(Debug)]
pub(crate) struct Checked {
    /// What it looks at.
    pub(crate) uses: Uses,
    /// `@mode`.
    pub(crate) mode: PolicyMode,
    /// `@until`: from then on it does not decide.
    pub(crate) until: Option<UnixTime>,
    /// When its conditions may flip by time alone.
    pub(crate) moments: Moments,
}

/// Checks annotations, entity ids and tag names; gives the policy's syntax tree as well.
pub(crate) fn check(
    mesh: &MeshSchema,
    policy: &Policy,
    place: Place<'_>,
) -> Result<(Checked, Template), Vec<PolicyFault>> {
    let tree = match policy.to_pst() {
        Ok(tree) => tree.body().clone(),
        Err(e) => return Err(vec![place.fault("", e.to_string())]),
    };
    let mut faults = Vec::new();
    let mut mode = PolicyMode::Enforce;
    let mut until = None;
    for (name, value) in policy.annotations() {
        match (name, value) {
            ("id" | "description" | "owner", "") => {
                faults.push(place.fault(&format!("@{name}"), format!("@{name} needs a value")));
            }
            ("id" | "description" | "owner", _) => {}
            ("mode", "shadow") => mode = PolicyMode::Shadow,
            ("mode", _) => faults.push(
                place
                    .fault("@mode", format!("unknown mode {value:?}"))
                    .with_help("@mode(\"shadow\") is the only one; a policy without it binds"),
            ),
            ("until", _) => match parse_until(value) {
                Some(time) => until = Some(time),
                None => faults.push(
                    place
                        .fault("@until", format!("{value:?} is not a date"))
                        .with_help("write a date such as 2030-12-31, or a time such as 2030-12-31T18:00:00Z"),
                ),
            },
            _ => faults.push(
                place
                    .fault(&format!("@{name}"), format!("unknown annotation @{name}"))
                    .with_help(format!("known are {ANNOTATIONS}")),
            ),
        }
    }
    check_ids(policy, &tree, place, &mut faults);
    let uses = Uses::of(&tree).with_claims_of(mesh);
    check_tags(&uses, place, &mut faults);
    if faults.is_empty() {
        let checked = Checked {
            moments: Moments::of(&tree, &uses),
            uses,
            mode,
            until,
        };
        Ok((checked, tree))
    } else {
        Err(faults)
    }
}

fn check_ids(policy: &Policy, tree: &Template, place: Place<'_>, faults: &mut Vec<PolicyFault>) {
    for uid in policy.entity_literals() {
        if let Some((message, help)) = ids::misspelt(&uid) {
            faults.push(place.fault(&uid.to_string(), message).with_help(help));
        }
    }
    let (PrincipalConstraint::In(parent) | PrincipalConstraint::IsIn(_, parent)) = &tree.principal
    else {
        return;
    };
    if let EntityOrSlot::Entity(uid) = parent
        && uid.ty.to_string() == "Service"
    {
        let message = format!("no principal is known to be in {uid}");
        faults.push(place.fault(&uid.to_string(), message).with_help(
            "callers are known by identity: name a ServiceAccount, Namespace or Workload",
        ));
    }
}

fn check_tags(uses: &Uses, place: Place<'_>, faults: &mut Vec<PolicyFault>) {
    for expr in &uses.indirect {
        faults.push(
            place
                .fault(expr, format!("{expr} does not spell out what is looked up"))
                .with_help("write the name itself: context.headers.hasTag(\"end-user\"), and the like for context.query and context.user"),
        );
    }
    for name in &uses.headers {
        if name.bytes().any(|b| b.is_ascii_uppercase()) {
            faults.push(
                place
                    .fault(
                        &format!("{name:?}"),
                        format!("header {name:?} can never be met"),
                    )
                    .with_help("header names are in lower case here"),
            );
        }
    }
}

/// `@until`: the first instant at which the policy no longer applies, as RFC 3339 has it. A bare date means the end of
/// that day, UTC.
pub fn parse_until(value: &str) -> Option<UnixTime> {
    let time: Timestamp = if value.len() == "2030-12-31".len() {
        let next_day = value.parse::<Date>().ok()?.tomorrow().ok()?;
        next_day.to_zoned(TimeZone::UTC).ok()?.timestamp()
    } else if value.contains('[') {
        // A time with the name of its zone is none of RFC 3339's.
        return None;
    } else {
        value.parse().ok()?
    };
    // What lapsed before 1970 has lapsed.
    let millis = u64::try_from(time.as_millisecond()).unwrap_or_default();
    Some(UnixTime::from_millis(millis))
}

#[cfg(test)]
mod tests;
