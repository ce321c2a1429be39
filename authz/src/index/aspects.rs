//! Which parts of a request any policy is looked up by, and a request's facts about those.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use reeve_core::decision::{AccessRequest, HttpContext};

use super::{
    fact::{
        About, Fact, FactId, Network, Tag, member_id, network_id, port_id, segment_id, text_id,
    },
    shards::Step,
};
use crate::{
    entities::MAX_NAMED_SEGMENTS,
    store::{Labels, Store},
};

/// Longest beginning of a path that policies are looked up by, in bytes.
pub(super) const MAX_PREFIX_BYTES: usize = 64;

/// What one fact is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Aspect {
    Text(About),
    /// Beginnings of paths, of this length.
    Prefix(usize),
    Segment(u8),
    Port,
    Network {
        v6: bool,
        length: u8,
    },
    Member(Tag, Arc<str>),
}

impl Aspect {
    pub(super) fn of(fact: &Fact) -> Self {
        match fact {
            Fact::Text(About::PathPrefix, prefix) => Self::Prefix(prefix.len()),
            Fact::Text(about, _) => Self::Text(*about),
            Fact::Member(tag, name, _) => Self::Member(*tag, Arc::from(&**name)),
            Fact::Segment(place, _) => Self::Segment(*place),
            Fact::Port(_) => Self::Port,
            Fact::Network(network) => Self::Network {
                v6: network.v6,
                length: network.length,
            },
        }
    }
}

/// How many facts there are about each.
#[derive(Clone, Debug, Default)]
pub(super) struct Aspects {
    /// All but members of tags: there are few kinds of those.
    plain: BTreeMap<Aspect, u32>,
    tags: BTreeMap<Tag, BTreeMap<Arc<str>, u32>>,
}

impl Aspects {
    pub(super) fn count(&mut self, aspects: &[Aspect], step: Step) {
        for aspect in aspects {
            match aspect {
                Aspect::Member(tag, name) => {
                    count(self.tags.entry(*tag).or_default(), name, step);
                }
                Aspect::Text(_)
                | Aspect::Prefix(_)
                | Aspect::Segment(_)
                | Aspect::Port
                | Aspect::Network { .. } => count(&mut self.plain, aspect, step),
            }
        }
    }

    /// The facts of `request` about those.
    pub(super) fn facts(&self, request: &AccessRequest, store: &Store) -> Vec<FactId> {
        let mut found = Vec::with_capacity(self.plain.len() + 8);
        for aspect in self.plain.keys() {
            facts(aspect, request, &mut found);
        }
        for (tag, names) in &self.tags {
            let Some(values) = values(*tag, request, store) else {
                continue;
            };
            let mut take = |name: &str, members: &BTreeSet<String>| {
                found.extend(members.iter().map(|member| member_id(*tag, name, member)));
            };
            // Neither what policies name nor what a request carries costs more than the other.
            if names.len() < values.len() {
                let named = names
                    .keys()
                    .filter_map(|name| values.get_key_value(&**name));
                named.for_each(|(name, members)| take(name, members));
            } else {
                let named = values
                    .iter()
                    .filter(|(name, _)| names.contains_key(name.as_str()));
                named.for_each(|(name, members)| take(name, members));
            }
        }
        found
    }
}

fn count<K: Ord + Clone>(counts: &mut BTreeMap<K, u32>, key: &K, step: Step) {
    let count = counts.entry(key.clone()).or_default();
    step.take(count);
    if *count == 0 {
        counts.remove(key);
    }
}

fn values<'a>(tag: Tag, request: &'a AccessRequest, store: &'a Store) -> Option<&'a Labels> {
    let http = request.context.http.as_ref();
    let resource = &request.resource;
    match tag {
        Tag::Claim => http.and(request.user.as_ref()).map(|user| &user.claims),
        Tag::Header => http.map(|http| &http.headers),
        Tag::Query => http.map(|http| &http.query),
        Tag::PrincipalLabel => {
            let id = request.principal.spiffe_id()?;
            store.labels("Workload", id.as_str())
        }
        // As the question has it: the workload, or the service alone.
        Tag::ResourceLabel => match &resource.workload {
            Some(id) => store.labels("Workload", id.as_str()),
            None => store.labels("Service", resource.services.first()?.as_str()),
        },
    }
}

fn facts(aspect: &Aspect, request: &AccessRequest, found: &mut Vec<FactId>) {
    let context = &request.context;
    match aspect {
        Aspect::Port => found.push(port_id(context.port)),
        Aspect::Network { v6, length } => {
            let address = context.source_ip.to_canonical();
            let network = Network::around(address, *length).filter(|_| address.is_ipv6() == *v6);
            found.extend(network.map(network_id));
        }
        Aspect::Text(_) | Aspect::Prefix(_) | Aspect::Segment(_) => {
            if let Some(http) = &context.http {
                http_facts(aspect, request, http, found);
            }
        }
        Aspect::Member(..) => {}
    }
}

fn http_facts(
    aspect: &Aspect,
    request: &AccessRequest,
    http: &HttpContext,
    found: &mut Vec<FactId>,
) {
    match aspect {
        Aspect::Text(about) => {
            let text = text(*about, request, http);
            found.extend(text.map(|text| text_id(*about, text)));
        }
        Aspect::Prefix(length) => {
            let prefix = http.path.get(..*length);
            found.extend(prefix.map(|prefix| text_id(About::PathPrefix, prefix)));
        }
        Aspect::Segment(place) => {
            let segment = segment(&http.path, *place);
            found.extend(segment.map(|text| segment_id(*place, text)));
        }
        Aspect::Port | Aspect::Network { .. } | Aspect::Member(..) => {}
    }
}

fn text<'a>(about: About, request: &'a AccessRequest, http: &'a HttpContext) -> Option<&'a str> {
    let (user, grpc) = (request.user.as_deref(), http.grpc.as_ref());
    match about {
        About::Subject => user.map(|user| user.subject.as_str()),
        About::Issuer => user.map(|user| user.issuer.as_str()),
        About::Method => Some(&http.method),
        About::Path => Some(&http.path),
        About::Host => Some(&http.host),
        About::GrpcService => grpc.map(|grpc| grpc.service.as_str()),
        About::GrpcMethod => grpc.map(|grpc| grpc.method.as_str()),
        About::PathPrefix
        | About::Workload
        | About::Unauthenticated
        | About::ServiceAccount
        | About::Service
        | About::Namespace
        | About::TrustDomain
        | About::Group(_) => None,
    }
}

/// The part of a path at a place, from 1, as policies see it.
fn segment(path: &str, place: u8) -> Option<&str> {
    let place = usize::from(place).checked_sub(1)?;
    let rest = path.strip_prefix('/').unwrap_or(path);
    if rest.is_empty() || place >= MAX_NAMED_SEGMENTS {
        return None;
    }
    rest.split('/').nth(place)
}
