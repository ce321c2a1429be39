//! `PeerAuthentication`, `PathNormalization` and `RequestAuthentication`, and which workloads they hold for.

use std::{collections::BTreeMap, time::Duration};

use reeve_core::{
    Namespace, TrustDomain,
    model::{JwtRule, MtlsMode, PathNormalization},
};

use serde::{Deserialize, Serialize};

use super::{LocalWorkload, service::is_subset};

/// Which workloads an object holds for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Scope {
    /// `None` = the root namespace: all of them.
    pub(crate) namespace: Option<Namespace>,
    /// Labels they must have; empty = all.
    pub(crate) selector: BTreeMap<String, String>,
}

impl Scope {
    /// Whether it holds for `workload`.
    pub(crate) fn covers(&self, workload: &LocalWorkload) -> bool {
        self.covers_labels(&workload.namespace, &workload.labels)
    }

    /// Whether it holds for what has these labels.
    pub(crate) fn covers_labels(
        &self,
        namespace: &Namespace,
        labels: &BTreeMap<String, String>,
    ) -> bool {
        self.namespace.as_ref().is_none_or(|n| n == namespace) && is_subset(&self.selector, labels)
    }

    /// 2 = picked by labels, 1 = the whole namespace, 0 = the mesh.
    pub(crate) fn rank(&self) -> u8 {
        match (&self.namespace, self.selector.is_empty()) {
            (_, false) => 2,
            (Some(_), true) => 1,
            (None, true) => 0,
        }
    }
}

/// No [`ModeRule`] is about this port.
pub(crate) const NO_PORT: u16 = 0;

/// A mode of workloads as a whole, and of their ports; `None` = inherit (`UNSET`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ModeRule<M> {
    pub(crate) scope: Scope,
    pub(crate) mode: Option<M>,
    pub(crate) ports: BTreeMap<u16, Option<M>>,
}

pub(crate) type PeerAuthentication = ModeRule<MtlsMode>;
pub(crate) type PathRule = ModeRule<PathNormalization>;

impl<M: Copy> ModeRule<M> {
    /// What `rules` say of one port: the workload's (port, then as a whole), the namespace's, the mesh's. `UNSET` asks the
    /// next.
    pub(crate) fn mode_at(rules: &[Self], workload: &LocalWorkload, port: u16) -> Option<M> {
        Self::said_at(rules, workload, port).map(|said| said.mode)
    }

    /// The same, and which of `rules` says it.
    pub(crate) fn said_at(rules: &[Self], workload: &LocalWorkload, port: u16) -> Option<Said<M>> {
        let covering = (0..).zip(rules).filter(|(_, r)| r.scope.covers(workload));
        let mut covering: Vec<(usize, &Self)> = covering.collect();
        covering.sort_by_key(|(_, rule)| std::cmp::Reverse(rule.scope.rank()));
        let said = |by_port| {
            move |&(rule, r): &(usize, &Self)| {
                let mode = match by_port {
                    true => r.ports.get(&port).copied().flatten(),
                    false => r.mode,
                }?;
                Some(Said {
                    rule,
                    by_port,
                    mode,
                })
            }
        };
        let by_port = covering.iter().find_map(said(true));
        by_port.or_else(|| covering.iter().find_map(said(false)))
    }
}

/// A mode, and which rule says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Said<M> {
    /// Its place among all.
    pub(crate) rule: usize,
    /// Whether it is for the port, and not for the workload as a whole.
    pub(crate) by_port: bool,
    pub(crate) mode: M,
}

/// A `RequestAuthentication`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RequestAuthentication {
    /// It holds for what one of them covers.
    pub(crate) scopes: Vec<Scope>,
    pub(crate) rules: Vec<RequestRule>,
}

impl RequestAuthentication {
    /// Whether it holds for `workload`.
    pub(crate) fn covers(&self, workload: &LocalWorkload) -> bool {
        self.scopes.iter().any(|scope| scope.covers(workload))
    }

    /// Whether it holds for whatever has these labels.
    pub(crate) fn covers_labels(
        &self,
        namespace: &Namespace,
        labels: &BTreeMap<String, String>,
    ) -> bool {
        let covers = |scope: &Scope| scope.covers_labels(namespace, labels);
        self.scopes.iter().any(covers)
    }
}

/// One `jwtRules` entry and where its keys come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RequestRule {
    /// `jwks` is filled in for inline keys only.
    pub(crate) rule: JwtRule,
    pub(crate) jwks: Jwks,
}

/// Where keys come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Jwks {
    /// In the object.
    Inline,
    /// Fetched.
    From(KeySource),
    /// A trust domain's, of the bundle that its workloads are known by.
    Of(TrustDomain),
}

/// Where keys are fetched from, and how long that may take.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct KeySource {
    pub(crate) place: KeyPlace,
    pub(crate) timeout: Duration,
}

/// Where keys are.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyPlace {
    /// The key set itself.
    Uri(String),
    /// The configuration of an issuer, which says where (OpenID Connect Discovery 1.0 section 4).
    Discovery(String),
}

impl KeyPlace {
    /// What is asked first.
    pub(crate) fn uri(&self) -> &str {
        match self {
            Self::Uri(uri) | Self::Discovery(uri) => uri,
        }
    }
}
