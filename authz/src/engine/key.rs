//! What decisions are remembered by, as bytes: exact, since each part says its length.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use reeve_core::decision::{AccessRequest, HttpContext, Principal, User};

use crate::{compile::Compiled, entities::Looks, uses::Uses};

/// Who asks, for what, and what is asked for.
pub(super) fn parties(key: &mut Vec<u8>, request: &AccessRequest) {
    match &request.principal {
        Principal::Unauthenticated => absent(key),
        Principal::Workload(id) => present(key, id.as_str()),
    }
    key.push(request.action as u8);
    let resource = &request.resource;
    match &resource.workload {
        None => absent(key),
        Some(id) => present(key, id.as_str()),
    }
    present(key, resource.namespace.as_str());
    for service in &resource.services {
        present(key, service.as_str());
    }
    absent(key);
    if let Some(address) = resource.address {
        ip(key, address.ip());
        key.extend(address.port().to_le_bytes());
    }
}

/// The candidates, and every value of `request` that `looks` names; false when it is not worth remembering, since the
/// time is among them, or everything.
pub(super) fn values(
    key: &mut Vec<u8>,
    candidates: &[&Compiled],
    looks: Looks<'_>,
    request: &AccessRequest,
) -> bool {
    if looks.attribute("time") || looks.everything() {
        return false;
    }
    length(key, candidates.len());
    for policy in candidates {
        key.extend(policy.number.to_le_bytes());
    }
    let context = &request.context;
    if looks.attribute("source_ip") {
        ip(key, context.source_ip);
    }
    if looks.attribute("remote_ip") {
        ip(key, context.client_ip());
    }
    if looks.attribute("destination_ip") {
        match context.destination_ip {
            None => absent(key),
            Some(address) => ip(key, address),
        }
    }
    if looks.attribute("sni") {
        match &context.sni {
            None => absent(key),
            Some(name) => present(key, name),
        }
    }
    if looks.attribute("port") {
        key.extend(context.port.to_le_bytes());
    }
    if looks.attribute("mtls") {
        key.push(u8::from(context.mtls));
    }
    match &context.http {
        None => absent(key),
        Some(found) => {
            key.push(1);
            http(key, looks, found);
            if looks.user() {
                user(key, looks, request.user.as_deref());
            }
        }
    }
    true
}

fn http(key: &mut Vec<u8>, looks: Looks<'_>, http: &HttpContext) {
    if looks.attribute("method") {
        present(key, &http.method);
    }
    if looks.attribute("host") {
        present(key, &http.host);
    }
    if looks.attribute("path") || looks.attribute("path_segments") {
        present(key, &http.path);
    }
    if looks.attribute("grpc") {
        match &http.grpc {
            None => absent(key),
            Some(grpc) => {
                present(key, &grpc.service);
                present(key, &grpc.method);
            }
        }
    }
    tags(key, looks, |uses| &uses.headers, &http.headers);
    tags(key, looks, |uses| &uses.query, &http.query);
}

fn user(key: &mut Vec<u8>, looks: Looks<'_>, user: Option<&User>) {
    match user {
        None => absent(key),
        Some(user) => {
            present(key, &user.issuer);
            present(key, &user.subject);
            tags(key, looks, |uses| &uses.claims, &user.claims);
        }
    }
}

fn tags(
    key: &mut Vec<u8>,
    looks: Looks<'_>,
    named: impl Fn(&Uses) -> &BTreeSet<String>,
    values: &BTreeMap<String, BTreeSet<String>>,
) {
    for name in looks.0.iter().flat_map(|uses| named(uses)) {
        match values.get(name) {
            None => absent(key),
            Some(members) => {
                key.push(1);
                length(key, members.len());
                members.iter().for_each(|member| present(key, member));
            }
        }
    }
}

fn absent(key: &mut Vec<u8>) {
    key.push(0);
}

fn present(key: &mut Vec<u8>, text: &str) {
    key.push(1);
    length(key, text.len());
    key.extend(text.as_bytes());
}

/// In eight bytes, so that nothing is cut off.
fn length(key: &mut Vec<u8>, length: usize) {
    key.extend((length as u64).to_le_bytes());
}

fn ip(key: &mut Vec<u8>, address: IpAddr) {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            key.push(4);
            key.extend(v4.octets());
        }
        IpAddr::V6(v6) => {
            key.push(6);
            key.extend(v6.octets());
        }
    }
}
