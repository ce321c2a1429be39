//! What an answer changes of a request's head, and what of it may not be changed.

use envoy_types::pb::envoy::{
    config::core::v3::{HeaderValue as Wanted, HeaderValueOption},
    service::auth::v3::OkHttpResponse,
};
use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::{head::Head, headers, limits::MAX_EXTERNAL_HEADERS, query};

/// `HeaderAppendAction`.
const ADD_IF_ABSENT: i32 = 1;
const OVERWRITE_IF_EXISTS: i32 = 3;

/// Changes to a request's headers, and what the caller gets with the response.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Edits {
    /// Replace the request's own.
    pub(super) set: HeaderMap,
    /// Stand beside the request's own.
    pub(super) added: HeaderMap,
    /// Stand where the request has none.
    pub(super) missing: HeaderMap,
    /// Replace the request's own, if it has any.
    pub(super) replaced: HeaderMap,
    /// Go.
    pub(super) removed: Vec<HeaderName>,
    pub(super) told: HeaderMap,
    /// Parameters of the query that go.
    pub(super) query_removed: Vec<String>,
    /// Parameters of the query, as they are sent, which replace the request's own.
    pub(super) query_set: Vec<(String, String)>,
}

impl Edits {
    /// What an answer by gRPC says; `None` if a name or value is none.
    pub(super) fn of_grpc(ok: &OkHttpResponse) -> Option<Self> {
        let mut edits = Self::default();
        if ok.headers.len() > MAX_EXTERNAL_HEADERS {
            return None;
        }
        for option in &ok.headers {
            let (name, value) = pair(option.header.as_ref()?)?;
            #[expect(deprecated, reason = "servers still say it so")]
            let append = option.append;
            let into = match (append.map(|append| append.value), option.append_action) {
                (Some(true), _) => &mut edits.added,
                (None, ADD_IF_ABSENT) => &mut edits.missing,
                (None, OVERWRITE_IF_EXISTS) => &mut edits.replaced,
                (Some(false) | None, _) => &mut edits.set,
            };
            into.append(name, value);
        }
        let lists = [
            &mut edits.set,
            &mut edits.added,
            &mut edits.missing,
            &mut edits.replaced,
        ];
        lists.into_iter().for_each(clean);
        for name in ok.headers_to_remove.iter().take(MAX_EXTERNAL_HEADERS) {
            let name = HeaderName::try_from(name.as_str()).ok()?;
            edits.removed.extend((name != header::HOST).then_some(name));
        }
        edits.told = told(&ok.response_headers_to_add);
        edits.query_of(ok)?;
        Some(edits)
    }

    /// SECURITY: what would end the query, or make another parameter of one, is no answer.
    fn query_of(&mut self, ok: &OkHttpResponse) -> Option<()> {
        let (set, removed) = (&ok.query_parameters_to_set, &ok.query_parameters_to_remove);
        if set.len().saturating_add(removed.len()) > MAX_EXTERNAL_HEADERS {
            return None;
        }
        for parameter in set {
            let (name, value) = (&parameter.key, &parameter.value);
            if name.is_empty() || !query::is_part(name) || !query::is_part(value) {
                return None;
            }
            self.query_set.push((name.clone(), value.clone()));
        }
        self.query_removed.clone_from(removed);
        Some(())
    }

    /// Changes `request`, and adds to what its caller gets.
    pub(super) fn apply(self, request: &mut Head, told: &mut HeaderMap) {
        let headers = &mut request.headers;
        for name in &self.removed {
            headers.remove(name);
        }
        // A map hands on what it holds under the same name one after the other, the first in place of what was there.
        headers.extend(self.set);
        let replaced = self.replaced.into_iter();
        let mut last = None;
        let mut kept = HeaderMap::new();
        for (name, value) in replaced {
            last = name.or(last);
            if let Some(name) = last.clone().filter(|name| headers.contains_key(name)) {
                kept.append(name, value);
            }
        }
        headers.extend(kept);
        for (name, value) in &self.missing {
            if !headers.contains_key(name) {
                headers.insert(name.clone(), value.clone());
            }
        }
        for (name, value) in &self.added {
            headers.append(name.clone(), value.clone());
        }
        told.extend(self.told);
        if !self.query_removed.is_empty() || !self.query_set.is_empty() {
            let query = request.query.take().unwrap_or_default();
            request.query = query::changed(&query, self.query_removed, &self.query_set);
        }
    }
}

/// Headers for a caller.
pub(super) fn told(wanted: &[HeaderValueOption]) -> HeaderMap {
    let mut all = HeaderMap::new();
    let pairs = wanted
        .iter()
        .filter_map(|option| pair(option.header.as_ref()?));
    for (name, value) in pairs.take(MAX_EXTERNAL_HEADERS) {
        all.append(name, value);
    }
    clean(&mut all);
    all
}

/// SECURITY: nobody outside the mesh says what only the mesh may, nor what frames or routes a message.
pub(super) fn clean(headers: &mut HeaderMap) {
    headers::remove_hop_by_hop(headers);
    headers::remove_reserved(headers);
    headers.remove(header::CONTENT_LENGTH);
    headers.remove(header::HOST);
}

fn pair(wanted: &Wanted) -> Option<(HeaderName, HeaderValue)> {
    let name = HeaderName::try_from(wanted.key.as_str()).ok()?;
    let value = match wanted.raw_value.as_slice() {
        [] => HeaderValue::try_from(wanted.value.as_str()),
        raw => HeaderValue::from_bytes(raw),
    };
    Some((name, value.ok()?))
}
