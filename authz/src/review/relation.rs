//! How facts, and so policies, stand to each other.

use cedar_policy::pst::PatternElem;
use reeve_core::SpiffeId;

use super::region::{Atom, Branch, Region, Side, Uid};
use crate::Known;

/// What follows from what, in a mesh of which this much is known.
#[derive(Clone, Copy, Debug)]
pub(super) struct Relations<'a> {
    pub(super) known: Option<&'a Known>,
}

impl Relations<'_> {
    /// If no branch of `region` can hold: two facts of the first that exclude each other.
    pub(super) fn contradiction(self, region: &Region) -> Option<(String, String)> {
        let mut first = None;
        for branch in &region.branches {
            let found = self.clash(branch)?;
            first = first.or(Some(found));
        }
        first
    }

    fn clash(self, branch: &Branch) -> Option<(String, String)> {
        for (at, fact) in branch.iter().enumerate() {
            if fact.atom == Atom::Never {
                return Some((fact.said.clone(), fact.said.clone()));
            }
            let later = branch.iter().skip(at + 1);
            if let Some(other) = later.clone().find(|o| self.excludes(&fact.atom, &o.atom)) {
                return Some((fact.said.clone(), other.said.clone()));
            }
        }
        None
    }

    /// Whether `wide` holds wherever `narrow` does.
    pub(super) fn covers(self, wide: &Region, narrow: &Region) -> bool {
        narrow.branches.iter().all(|given| {
            self.clash(given).is_some()
                || wide.branches.iter().any(|wanted| {
                    let follows =
                        |want: &Atom| given.iter().any(|has| self.implies(&has.atom, want));
                    wanted.iter().all(|want| follows(&want.atom))
                })
        })
    }

    /// The resources of scopes that may cover a scope with this one: itself, those it is in, and any.
    pub(super) fn resources_around(self, resource: Option<&str>) -> Vec<Option<String>> {
        let mut around = vec![None];
        let Some(resource) = resource else {
            // A namespace's own policies are covered by those on the namespace.
            if let Some(known) = self.known {
                let namespaces = known
                    .ids("Namespace")
                    .map(|id| Some(shown("Namespace", id)));
                around.extend(namespaces);
            }
            return around;
        };
        around.push(Some(resource.to_owned()));
        let Some((kind, id)) = resource.split_once("::\"") else {
            return around;
        };
        let uid = Uid {
            kind: kind.to_owned(),
            id: id.trim_end_matches('"').to_owned(),
        };
        around.extend(
            self.above(&uid)
                .iter()
                .map(|uid| Some(shown(&uid.kind, &uid.id))),
        );
        around
    }

    /// Whether `then` holds whenever `given` does.
    fn implies(self, given: &Atom, then: &Atom) -> bool {
        if given == then || *given == Atom::Never {
            return true;
        }
        match (given, then) {
            (Atom::Not(a), Atom::Not(b)) => self.implies(b, a),
            (Atom::Not(_), _) => false,
            (_, Atom::Not(b)) => self.excludes(given, b),
            (Atom::Actions(a), Atom::Actions(b)) => a & !b == 0,
            (Atom::Tenant(namespace), Atom::In(Side::Resource, parents)) => {
                let home = self.known.map(|known| known.home().to_string());
                let own = home.map(|home| format!("{home}/ns/{namespace}"));
                parents
                    .iter()
                    .any(|p| p.kind == "Namespace" && own.as_deref() == Some(p.id.as_str()))
            }
            (Atom::Equals(a, uid), Atom::Is(b, kind)) => a == b && uid.kind == *kind,
            (Atom::Equals(a, uid), Atom::In(b, parents)) => {
                a == b && parents.iter().any(|p| self.within(uid, p))
            }
            (Atom::In(a, all), Atom::In(b, parents)) => {
                let inside = |uid: &Uid| parents.iter().any(|p| self.within(uid, p));
                a == b && all.iter().all(inside)
            }
            (Atom::In(Side::Principal, all), Atom::Is(Side::Principal, kind)) => {
                kind == "Workload" && all.iter().all(is_identity)
            }
            (Atom::Text(a, text), Atom::Like(b, pattern)) => a == b && matches(pattern, text),
            (Atom::Like(a, narrow), Atom::Like(b, wide)) => a == b && is_wider(wide, narrow),
            (Atom::Number(a, low, high), Atom::Number(b, least, most)) => {
                a == b && least <= low && high <= most
            }
            (Atom::Members(a, all), Atom::Has(b, one)) => a == b && all.contains(one),
            _ => false,
        }
    }

    /// Whether the two never hold together.
    fn excludes(self, one: &Atom, other: &Atom) -> bool {
        match (one, other) {
            (Atom::Never, _) | (_, Atom::Never) => true,
            (Atom::Not(_), Atom::Not(_)) => false,
            (Atom::Not(a), b) | (b, Atom::Not(a)) => self.implies(b, a),
            _ => self.apart(one, other) || self.apart(other, one),
        }
    }

    /// The same, of facts that are not negated; in one order.
    fn apart(self, one: &Atom, other: &Atom) -> bool {
        match (one, other) {
            (Atom::Actions(a), Atom::Actions(b)) => a & b == 0,
            (Atom::Is(a, kind), Atom::Is(b, other)) => a == b && kind != other,
            (Atom::Is(a, kind), Atom::Equals(b, uid)) => a == b && uid.kind != *kind,
            (Atom::Is(Side::Principal, kind), Atom::In(Side::Principal, all)) => {
                kind == "Unauthenticated" && all.iter().all(is_identity)
            }
            (Atom::Is(Side::Principal, kind), Atom::Holds(term)) => {
                kind == "Unauthenticated" && term == "context.mtls"
            }
            (Atom::Equals(a, uid), Atom::Equals(b, other)) => a == b && uid != other,
            // A caller has one account, namespace and trust domain; a resource may be in several services.
            (Atom::Equals(Side::Principal, uid), Atom::In(Side::Principal, all)) => {
                all.iter().all(|other| self.separate(uid, other))
            }
            (Atom::In(Side::Principal, some), Atom::In(Side::Principal, all)) => some
                .iter()
                .all(|uid| all.iter().all(|other| self.separate(uid, other))),
            (Atom::Text(a, text), Atom::Text(b, other)) => a == b && text != other,
            (Atom::Text(a, text), Atom::Like(b, pattern)) => a == b && !matches(pattern, text),
            (Atom::Like(a, pattern), Atom::Like(b, other)) => {
                let (pattern, other) = (beginning(pattern), beginning(other));
                a == b && !pattern.starts_with(&other) && !other.starts_with(&pattern)
            }
            (Atom::Number(a, low, high), Atom::Number(b, least, most)) => {
                a == b && (high < least || most < low)
            }
            (Atom::Members(a, all), Atom::Members(b, other)) => a == b && all != other,
            (Atom::Members(a, all), Atom::Has(b, one)) => a == b && !all.contains(one),
            _ => false,
        }
    }

    /// Whether no caller is in both.
    fn separate(self, one: &Uid, other: &Uid) -> bool {
        let unauthenticated = |uid: &Uid| uid.kind == "Unauthenticated";
        let known = |uid: &Uid| is_identity(uid) || unauthenticated(uid);
        known(one) && known(other) && !self.within(one, other) && !self.within(other, one)
    }

    /// Whether `uid` is `parent` or in it.
    fn within(self, uid: &Uid, parent: &Uid) -> bool {
        uid == parent || self.above(uid).contains(parent)
    }

    /// What an entity is in, as far as its id or the mesh says.
    fn above(self, uid: &Uid) -> Vec<Uid> {
        let up = |kind: &str, id: String| Uid {
            kind: kind.to_owned(),
            id,
        };
        let mut found = Vec::new();
        let whole = match uid.kind.as_str() {
            "Workload" => uid.id.clone(),
            "ServiceAccount" | "Namespace" => format!("spiffe://{}", uid.id),
            "Service" => {
                let namespace = self.known.and_then(|known| known.namespace_of(&uid.id));
                let Some(namespace) = namespace else {
                    return found;
                };
                found.push(up("Namespace", namespace.to_owned()));
                format!("spiffe://{namespace}")
            }
            _ => return found,
        };
        let Ok(id) = SpiffeId::parse(&whole) else {
            return found;
        };
        let domain = id.trust_domain();
        if let Some((namespace, account)) = id.namespace_and_account() {
            if uid.kind == "Workload" {
                found.push(up(
                    "ServiceAccount",
                    format!("{domain}/ns/{namespace}/sa/{account}"),
                ));
            }
            found.push(up("Namespace", format!("{domain}/ns/{namespace}")));
        }
        found.push(up("TrustDomain", domain.to_string()));
        found
    }
}

/// An entity as Cedar writes it.
fn shown(kind: &str, id: &str) -> String {
    format!("{kind}::{id:?}")
}

/// Whether it stands in the tree of identities, of which a caller has one branch.
fn is_identity(uid: &Uid) -> bool {
    matches!(
        uid.kind.as_str(),
        "Workload" | "ServiceAccount" | "Namespace" | "TrustDomain"
    )
}

/// What a pattern spells out before its first wildcard.
fn beginning(pattern: &[PatternElem]) -> String {
    let chars = pattern.iter().map_while(|elem| match elem {
        PatternElem::Char(c) => Some(*c),
        PatternElem::Wildcard => None,
    });
    chars.collect()
}

/// Whether everything that matches `narrow` matches `wide`, as far as beginnings tell.
fn is_wider(wide: &[PatternElem], narrow: &[PatternElem]) -> bool {
    let Some((PatternElem::Wildcard, start)) = wide.split_last() else {
        return wide == narrow;
    };
    !start.contains(&PatternElem::Wildcard) && beginning(narrow).starts_with(&beginning(start))
        || wide == narrow
}

/// Whether `text` matches: wildcards stand for any characters. In steps of its length times the pattern's at most.
fn matches(pattern: &[PatternElem], text: &str) -> bool {
    let text: Vec<char> = text.chars().collect();
    let (mut p, mut t) = (0, 0);
    let mut back: Option<(usize, usize)> = None;
    while t < text.len() {
        match (pattern.get(p), text.get(t)) {
            (Some(PatternElem::Wildcard), _) => {
                back = Some((p, t));
                p += 1;
            }
            (Some(PatternElem::Char(c)), Some(have)) if c == have => {
                p += 1;
                t += 1;
            }
            _ => match back {
                Some((wildcard, from)) => {
                    back = Some((wildcard, from + 1));
                    p = wildcard + 1;
                    t = from + 1;
                }
                None => return false,
            },
        }
    }
    pattern
        .get(p..)
        .is_some_and(|rest| rest.iter().all(|elem| *elem == PatternElem::Wildcard))
}
