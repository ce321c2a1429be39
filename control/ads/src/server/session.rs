//! What the server knows about one proxy: subscriptions, what was sent, what is in flight. No I/O.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource as Envelope,
};
use prost::Message;
use reeve_core::model::{Generation, ProxyConfig, Resource, ResourceKind};

use super::AckReport;
use crate::wire::{self, WireError};

/// Resources are split over several responses beyond this size.
const RESPONSE_BYTES: usize = 1024 * 1024;
/// Longest NACK text that is kept.
const MAX_ERROR_BYTES: usize = 4096;

/// Names one resource.
type Key = (ResourceKind, String);

/// One resource as the proxy holds it, to the best of our knowledge.
struct Held {
    version: String,
    /// What was sent; absent when the proxy brought it from an earlier stream.
    sent: Option<Resource>,
}

/// The generation that the proxy was last sent.
struct Sent {
    nonce: String,
    generation: Generation,
    policy_hash: String,
    answered: bool,
}

/// One proxy's stream.
#[derive(Default)]
pub(crate) struct Session {
    subscribed: BTreeSet<ResourceKind>,
    held: BTreeMap<Key, Held>,
    nonces: u64,
    last: Option<Sent>,
}

impl Session {
    /// Whether a generation may be sent: everything is subscribed and the one before is answered.
    pub(crate) fn is_ready(&self) -> bool {
        let answered = self.last.as_ref().is_none_or(|sent| sent.answered);
        answered && self.subscribed.len() == ResourceKind::ALL.len()
    }

    /// Takes in a subscription or an answer; an answer to a generation is reported.
    pub(crate) fn receive(
        &mut self,
        request: DeltaDiscoveryRequest,
    ) -> Result<Option<AckReport>, WireError> {
        let kind = wire::kind_of(&request.type_url)?;
        if self.subscribed.insert(kind) {
            self.remember(kind, request.initial_resource_versions);
        }
        if request.response_nonce.is_empty() {
            return Ok(None);
        }
        let error = request.error_detail.map(|status| bounded(status.message));
        Ok(self.answered(kind, &request.response_nonce, error))
    }

    /// What brings the proxy from what it holds to `config`, the generation last.
    pub(crate) fn update(
        &mut self,
        config: &ProxyConfig,
    ) -> Result<Vec<DeltaDiscoveryResponse>, serde_json::Error> {
        let mut changed: BTreeMap<ResourceKind, Vec<Envelope>> = BTreeMap::new();
        let mut present = BTreeSet::new();
        for resource in config.resources() {
            let key = (resource.kind(), resource.name().into_owned());
            if let Some(envelope) = self.changed(&key, resource)? {
                changed.entry(key.0).or_default().push(envelope);
            }
            present.insert(key);
        }
        let mut removed: BTreeMap<ResourceKind, Vec<String>> = BTreeMap::new();
        self.held.retain(|key, _| {
            let keep = present.contains(key);
            if !keep {
                removed.entry(key.0).or_default().push(key.1.clone());
            }
            keep
        });
        let mut responses = Vec::new();
        for kind in ResourceKind::ALL {
            let resources = changed.remove(&kind).unwrap_or_default();
            let removed = removed.remove(&kind).unwrap_or_default();
            if !resources.is_empty() || !removed.is_empty() {
                self.respond(config, kind, resources, removed, &mut responses);
            }
        }
        self.last = Some(Sent {
            nonce: self.nonces.to_string(),
            generation: config.generation,
            policy_hash: config.policies.mesh_hash.clone(),
            answered: false,
        });
        Ok(responses)
    }

    fn remember(&mut self, kind: ResourceKind, versions: HashMap<String, String>) {
        for (name, version) in versions {
            let held = Held {
                version,
                sent: None,
            };
            self.held.insert((kind, name), held);
        }
    }

    fn answered(
        &mut self,
        kind: ResourceKind,
        nonce: &str,
        error: Option<String>,
    ) -> Option<AckReport> {
        let sent = self.last.as_mut()?;
        let whole = kind == ResourceKind::Generation && sent.nonce == nonce;
        // A part that is refused by itself speaks for its generation, but does not end the wait for its answer.
        if !whole && error.is_none() {
            return None;
        }
        sent.answered |= whole;
        Some(AckReport {
            generation: sent.generation,
            policy_hash: sent.policy_hash.clone(),
            error,
        })
    }

    /// The envelope to send for `resource`, if the proxy does not hold it as it is. The generation always travels:
    /// its answer says what is in force, also after a reconnect.
    fn changed(
        &mut self,
        key: &Key,
        resource: Resource,
    ) -> Result<Option<Envelope>, serde_json::Error> {
        let always = key.0 == ResourceKind::Generation;
        if let Some(held) = self.held.get(key)
            && !always
            && held.sent.as_ref() == Some(&resource)
        {
            return Ok(None);
        }
        let envelope = wire::encode(&resource)?;
        let held = Held {
            version: envelope.version.clone(),
            sent: Some(resource),
        };
        let before = self.held.insert(key.clone(), held);
        let same = before.is_some_and(|before| before.version == envelope.version);
        Ok((always || !same).then_some(envelope))
    }

    fn respond(
        &mut self,
        config: &ProxyConfig,
        kind: ResourceKind,
        resources: Vec<Envelope>,
        removed: Vec<String>,
        responses: &mut Vec<DeltaDiscoveryResponse>,
    ) {
        let mut removed = Some(removed);
        for resources in chunks(resources) {
            self.nonces += 1;
            responses.push(DeltaDiscoveryResponse {
                system_version_info: config.generation.to_string(),
                resources,
                type_url: wire::type_url(kind),
                removed_resources: removed.take().unwrap_or_default(),
                nonce: self.nonces.to_string(),
                ..DeltaDiscoveryResponse::default()
            });
        }
    }
}

/// Splits resources by size; at least one (perhaps empty) part.
fn chunks(resources: Vec<Envelope>) -> Vec<Vec<Envelope>> {
    let mut parts = Vec::new();
    let mut part = Vec::new();
    let mut bytes = 0;
    for resource in resources {
        let len = resource.encoded_len();
        if !part.is_empty() && bytes + len > RESPONSE_BYTES {
            parts.push(std::mem::take(&mut part));
            bytes = 0;
        }
        bytes += len;
        part.push(resource);
    }
    parts.push(part);
    parts
}

fn bounded(mut text: String) -> String {
    let end = (0..=MAX_ERROR_BYTES.min(text.len()))
        .rev()
        .find(|at| text.is_char_boundary(*at))
        .unwrap_or(0);
    text.truncate(end);
    text
}
