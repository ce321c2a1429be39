//! What requests and policies are compared by: short texts about one thing, interned as numbers.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet, HashMap},
};

/// A number for a fact that some policy demands.
pub(super) type FactId = u32;
/// "Whatever it is."
pub(super) const ANY: FactId = 0;

/// What a fact is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum About {
    /// Entity types.
    Workload,
    Unauthenticated,
    ServiceAccount,
    Service,
    Namespace,
    TrustDomain,
    /// `context.user.subject`
    Subject,
    /// `context.path`
    Path,
    /// What `context.path` starts with, up to a slash.
    PathPrefix,
    /// `context.host`
    Host,
    /// `context.grpc.service`
    GrpcService,
}

/// Number of variants of [`About`].
const ABOUTS: usize = 11;

/// What a fact with a name is about: a member of a tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Tag {
    /// A claim of the user.
    Claim,
    /// A header.
    Header,
    /// A query parameter.
    Query,
}

impl About {
    /// The entity type of that name.
    pub(super) fn entity(name: &str) -> Option<Self> {
        Some(match name {
            "Workload" => Self::Workload,
            "Unauthenticated" => Self::Unauthenticated,
            "ServiceAccount" => Self::ServiceAccount,
            "Service" => Self::Service,
            "Namespace" => Self::Namespace,
            "TrustDomain" => Self::TrustDomain,
            _ => return None,
        })
    }

    /// How many requests share such a fact, roughly: lower is better to look up by.
    fn breadth(self) -> u8 {
        match self {
            Self::Workload | Self::Unauthenticated | Self::Subject | Self::Path => 0,
            Self::ServiceAccount | Self::GrpcService => 1,
            Self::Service | Self::PathPrefix => 2,
            Self::Namespace => 3,
            Self::TrustDomain | Self::Host => 4,
        }
    }
}

/// One fact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fact {
    /// `About` is this text.
    Text(About, Box<str>),
    /// The tag of this name has this member.
    Member(Tag, Box<str>, Box<str>),
}

impl Fact {
    pub(super) fn breadth(&self) -> u8 {
        match self {
            Self::Text(about, _) => about.breadth(),
            Self::Member(..) => 1,
        }
    }
}

type Ids = HashMap<Box<str>, FactId>;

/// Every fact that some policy demands.
#[derive(Debug, Default)]
pub(super) struct Facts {
    last: FactId,
    texts: [Ids; ABOUTS],
    tags: BTreeMap<(Tag, Box<str>), Ids>,
}

impl Facts {
    /// Numbers for `wanted`, one of which must hold; [`ANY`] when nothing is demanded.
    pub(super) fn file(&mut self, wanted: Option<Vec<Fact>>) -> Vec<FactId> {
        let Some(facts) = wanted else {
            return vec![ANY];
        };
        let mut ids: Vec<_> = facts.into_iter().map(|fact| self.intern(fact)).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    fn intern(&mut self, fact: Fact) -> FactId {
        let (ids, text) = match fact {
            Fact::Text(about, text) => match self.texts.get_mut(about as usize) {
                Some(ids) => (ids, text),
                None => return ANY,
            },
            Fact::Member(tag, name, member) => (self.tags.entry((tag, name)).or_default(), member),
        };
        *ids.entry(text).or_insert_with(|| {
            self.last += 1;
            self.last
        })
    }

    /// [`ANY`] and the numbers of those entities that any policy names.
    pub(super) fn of_entities(&self, lineage: &[(About, Cow<'_, str>)]) -> Vec<FactId> {
        let known = lineage
            .iter()
            .filter_map(|(about, id)| self.of_text(*about, id));
        let mut found: Vec<_> = [ANY].into_iter().chain(known).collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    /// The number of a fact, if any policy demands it.
    pub(super) fn of_text(&self, about: About, text: &str) -> Option<FactId> {
        self.texts.get(about as usize)?.get(text).copied()
    }

    /// Whether any policy demands something about `about`.
    pub(super) fn any_about(&self, about: About) -> bool {
        self.texts
            .get(about as usize)
            .is_some_and(|ids| !ids.is_empty())
    }

    /// Adds the numbers of those members that any policy demands.
    pub(super) fn of_tags<'a>(
        &self,
        values: impl Fn(Tag, &str) -> Option<&'a BTreeSet<String>>,
        found: &mut Vec<FactId>,
    ) {
        for ((tag, name), ids) in &self.tags {
            let values = values(*tag, name).into_iter().flatten();
            found.extend(values.filter_map(|value| ids.get(value.as_str()).copied()));
        }
    }
}
