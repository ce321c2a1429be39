//! Cross-origin resource sharing, as Envoy's filter does it
//! (<https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_filters/cors_filter>).

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, header};
use reeve_core::model::{CorsPolicy, StringMatch};

use super::{
    RouteError,
    header_ops::header_value,
    matcher::{Case, TextMatcher},
};

/// A compiled [`CorsPolicy`].
#[derive(Debug)]
pub(crate) struct Cors {
    origins: Vec<TextMatcher>,
    any_origin: bool,
    methods: Option<HeaderValue>,
    headers: Option<HeaderValue>,
    expose: Option<HeaderValue>,
    max_age: Option<HeaderValue>,
    credentials: bool,
    ignore_unmatched: bool,
}

impl Cors {
    /// Compiles `policy`, which stands in the route named `route`.
    pub(crate) fn compile(policy: &CorsPolicy, route: &str) -> Result<Self, RouteError> {
        let list = |items: &[String]| match items {
            [] => Ok(None),
            items => header_value(&items.join(","), route).map(Some),
        };
        let origins = policy.allow_origins.iter();
        let compile = |m| TextMatcher::compile(m, Case::Sensitive, route);
        let star = |m: &StringMatch| matches!(m, StringMatch::Exact(text) if text == "*");
        Ok(Self {
            any_origin: policy.allow_origins.iter().any(star),
            origins: origins.map(compile).collect::<Result<_, _>>()?,
            methods: list(&policy.allow_methods)?,
            headers: list(&policy.allow_headers)?,
            expose: list(&policy.expose_headers)?,
            max_age: policy.max_age.map(|age| HeaderValue::from(age.as_secs())),
            credentials: policy.allow_credentials,
            ignore_unmatched: policy.ignore_unmatched_preflights,
        })
    }

    /// The request's origin, if it may read the answer.
    pub(crate) fn allowed(&self, request: &HeaderMap) -> Option<HeaderValue> {
        let origin = request.get(header::ORIGIN)?;
        let text = origin.to_str().ok().filter(|text| !text.is_empty())?;
        // An expression that has `*` itself among what it matches allows all, as Envoy has it.
        let holds = |m: &TextMatcher| m.holds("*") || m.holds(text);
        (self.any_origin || self.origins.iter().any(holds)).then(|| origin.clone())
    }

    /// The answer to a preflight, if this is one that is answered here.
    pub(crate) fn preflight(
        &self,
        method: &Method,
        request: &HeaderMap,
    ) -> Option<Response<Bytes>> {
        let there = |name: &HeaderName| request.get(name).filter(|value| !value.is_empty());
        there(&header::ORIGIN)?;
        let wanted_method = there(&header::ACCESS_CONTROL_REQUEST_METHOD)?;
        if method != Method::OPTIONS {
            return None;
        }
        let origin = self.allowed(request);
        if origin.is_none() && !self.ignore_unmatched {
            return None;
        }
        let mut response = Response::new(Bytes::new());
        let headers = response.headers_mut();
        let mut set = |name: HeaderName, value: Option<HeaderValue>| {
            if let Some(value) = value {
                headers.insert(name, value);
            }
        };
        set(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        set(
            header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
            self.credentials.then(|| HeaderValue::from_static("true")),
        );
        let star = |list: &Option<HeaderValue>, asked: Option<&HeaderValue>| match list {
            Some(list) if list == "*" => asked.cloned(),
            list => list.clone(),
        };
        set(
            header::ACCESS_CONTROL_ALLOW_METHODS,
            star(&self.methods, Some(wanted_method)),
        );
        let wanted_headers = request.get(header::ACCESS_CONTROL_REQUEST_HEADERS);
        set(
            header::ACCESS_CONTROL_ALLOW_HEADERS,
            star(&self.headers, wanted_headers),
        );
        set(header::ACCESS_CONTROL_MAX_AGE, self.max_age.clone());
        Some(response)
    }

    /// Lets `origin`, which is allowed, read a response.
    pub(crate) fn mark(&self, origin: &HeaderValue, response: &mut HeaderMap) {
        response.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        if self.credentials {
            let yes = HeaderValue::from_static("true");
            response.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, yes);
        }
        if let Some(expose) = &self.expose {
            response.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, expose.clone());
        }
    }
}
