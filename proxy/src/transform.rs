//! Transformations: changes to requests and responses on the wire.
//!
//! A request's head is changed before it is judged as it will be sent; it is judged as it was received as well
//! (`judge.rs`), so that a transformation lets nothing through. Its body, which no policy reads, is changed after that. A
//! response is changed if the application gave it: what the proxy itself answers stays. Nothing is paid where no
//! transformation concerns the request, and no body is held where none changes it.

mod body;
mod edit;
mod passing;
mod query;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header};
use reeve_core::{
    UnixTime,
    model::{HeaderOps, Otherwise, Transformation, is_untouchable},
};

pub(crate) use self::{
    body::{Gathering, Held, Room, Space, gather},
    edit::Unfit,
    passing::{response, upload},
};
use self::{edit::BodyEdit, query::QueryEdits};
use crate::{
    answer::Answer,
    body::{Source, Upload},
    head::Head,
    limits::MAX_TRANSFORM_BODY_BYTES,
    metrics::Metrics,
    route::{HeaderEdits, Matcher, RouteError},
};

/// What says which bytes a body had; untrue once it is changed (RFC 9530, RFC 3230, RFC 1864, RFC 9110 section 8.8.3).
const OF_THESE_BYTES: [HeaderName; 7] = [
    header::ACCEPT_RANGES,
    header::CONTENT_LENGTH,
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("content-md5"),
    HeaderName::from_static("digest"),
    header::ETAG,
    HeaderName::from_static("repr-digest"),
];

/// The transformations of one workload, in the order in which they act.
#[derive(Debug, Default)]
pub(crate) struct Transformations(Vec<Arc<Compiled>>);

#[derive(Debug)]
struct Compiled {
    name: Arc<str>,
    rule: Transformation,
    when: Vec<Matcher>,
    request_headers: HeaderEdits,
    query: QueryEdits,
    request_body: Option<BodyEdit>,
    response_headers: HeaderEdits,
    response_body: Option<BodyEdit>,
}

/// Those that concern one request, and which of them have acted.
#[derive(Debug)]
pub(crate) struct Applying {
    rules: Vec<Arc<Compiled>>,
    /// On a body or the response.
    acted: Vec<Arc<str>>,
    /// Whether the request asks for no body.
    is_head: bool,
}

impl Transformations {
    /// Compiles `rules`. What `control` refuses is refused here as well: this is the last line.
    pub(crate) fn compile(rules: &[Transformation]) -> Result<Self, RouteError> {
        let each = rules.iter().map(|rule| Compiled::new(rule).map(Arc::new));
        each.collect::<Result<_, _>>().map(Self)
    }

    /// Those that concern the request and are not over at `now`.
    pub(crate) fn concerning(&self, head: &Head, now: UnixTime) -> Option<Applying> {
        if self.0.is_empty() {
            return None;
        }
        let rules: Vec<_> = self
            .0
            .iter()
            .filter(|one| !one.rule.is_over(now) && one.concerns(head))
            .cloned()
            .collect();
        (!rules.is_empty()).then(|| Applying {
            rules,
            acted: Vec::new(),
            is_head: head.method == Method::HEAD,
        })
    }
}

impl Compiled {
    fn new(rule: &Transformation) -> Result<Self, RouteError> {
        let name = rule.name.as_str();
        check_headers(&rule.request.headers, name)?;
        check_headers(&rule.response.headers, name)?;
        if let Some(code) = rule.response.status
            && (!(200..=599).contains(&code) || matches!(code, 204 | 205 | 304))
        {
            let route = name.to_owned();
            return Err(RouteError::Status { route, code });
        }
        let when = rule.when.iter().map(|when| Matcher::compile(when, name));
        let body = |changes: &Option<_>| {
            let changes = changes.as_ref();
            changes.map(|c| BodyEdit::compile(c, name)).transpose()
        };
        Ok(Self {
            name: name.into(),
            when: when.collect::<Result<_, _>>()?,
            request_headers: HeaderEdits::compile(&rule.request.headers, name)?,
            query: QueryEdits::compile(&rule.request.query),
            request_body: body(&rule.request.body)?,
            response_headers: HeaderEdits::compile(&rule.response.headers, name)?,
            response_body: body(&rule.response.body)?,
            rule: rule.clone(),
        })
    }

    fn concerns(&self, head: &Head) -> bool {
        let view = head.view();
        self.when.is_empty() || self.when.iter().any(|when| when.holds(&view))
    }

    fn concerns_status(&self, status: StatusCode) -> bool {
        let meant = &self.rule.response.when_status;
        meant.is_empty() || meant.contains(&status.as_u16())
    }
}

fn check_headers(ops: &HeaderOps, name: &str) -> Result<(), RouteError> {
    let mut names = ops.set.keys().chain(ops.add.keys()).chain(&ops.remove);
    match names.find(|name| is_untouchable(name)) {
        None => Ok(()),
        Some(header) => Err(RouteError::Header {
            route: name.to_owned(),
            part: "name to transform",
            text: header.clone(),
        }),
    }
}

/// What a part of a message is, in metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Request,
    RequestBody,
    Response,
    ResponseBody,
}

impl Part {
    fn as_str(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::RequestBody => "request_body",
            Self::Response => "response",
            Self::ResponseBody => "response_body",
        }
    }
}

fn count(metrics: &Metrics, rule: &Compiled, part: Part, result: &'static str) {
    metrics.transformed(&rule.name, part.as_str(), result);
}

impl Applying {
    /// Their names, owners and ends.
    pub(crate) fn rules(&self) -> impl Iterator<Item = &Transformation> {
        self.rules.iter().map(|one| &one.rule)
    }

    /// Changes a head; the names of those that did.
    pub(crate) fn change_head(&self, head: &mut Head) -> Vec<Arc<str>> {
        let mut acted = Vec::new();
        for one in &self.rules {
            let before = (head.headers.clone(), head.query.clone());
            one.request_headers.apply(&mut head.headers);
            one.query.apply(&mut head.query);
            if before.0 != head.headers || before.1 != head.query {
                acted.push(one.name.clone());
            }
        }
        if self.rules.iter().any(|one| one.response_body.is_some()) {
            ask_for_the_whole(head);
        }
        let fits = |edit: &BodyEdit| edit.means(&head.headers) && edit.fits(&head.headers).is_ok();
        let mut bodies = self
            .rules
            .iter()
            .filter_map(|one| one.request_body.as_ref());
        if bodies.any(fits) {
            forget_bytes(&mut head.headers);
            head.headers.remove(header::EXPECT);
        }
        acted
    }

    /// Counts those that changed the head of a request that was permitted.
    pub(crate) fn count_heads(&self, acted: &[Arc<str>], metrics: &Metrics) {
        for one in self.rules.iter().filter(|one| acted.contains(&one.name)) {
            count(metrics, one, Part::Request, "applied");
        }
    }

    /// Changes a request's body, of which `headers` are what is sent with it; holds it whole only if one of them means it.
    pub(crate) async fn change_upload(
        &mut self,
        headers: &HeaderMap,
        upload: &Upload,
        (space, metrics): (&Space, &Metrics),
    ) -> Result<(), Answer> {
        let edits = self.rules.iter().filter_map(|one| {
            let edit = one.request_body.as_ref()?;
            edit.means(headers).then(|| (one.clone(), edit.clone()))
        });
        let edits: Vec<_> = edits.collect();
        if edits.is_empty() || upload.is_empty() {
            return Ok(());
        }
        let place = (Part::RequestBody, metrics);
        let edits = fitting(edits, headers, place).map_err(Unfit::of_request)?;
        if edits.is_empty() {
            return Ok(());
        }
        let gathered = upload.gather(space, MAX_TRANSFORM_BODY_BYTES).await;
        let (source, acted) = change(gathered, edits, &space.room, place)
            .await
            .map_err(Unfit::of_request)?;
        upload.put_back(source);
        self.note(acted);
        Ok(())
    }

    /// Changes the application's response.
    pub(crate) async fn change_response(
        &mut self,
        response: Response<impl Into<Source>>,
        (space, metrics): (&Space, &Metrics),
    ) -> Result<Response<Source>, Answer> {
        let (mut parts, body) = response.into_parts();
        let mut source: Source = body.into();
        let concerned = self.rules.iter();
        let concerned: Vec<_> = concerned
            .filter(|one| one.concerns_status(parts.status))
            .cloned()
            .collect();
        let whole = has_body(parts.status);
        let edits = concerned.iter().filter_map(|one| {
            let edit = one.response_body.as_ref()?;
            let meant = whole && edit.means(&parts.headers);
            meant.then(|| (one.clone(), edit.clone()))
        });
        let edits: Vec<_> = edits.collect();
        let place = (Part::ResponseBody, metrics);
        let empty = http_body::Body::is_end_stream(&source) && !self.is_head;
        if !edits.is_empty() && !empty {
            let edits = fitting(edits, &parts.headers, place).map_err(Unfit::of_response)?;
            if !edits.is_empty() {
                forget_bytes(&mut parts.headers);
            }
            if !edits.is_empty() && !self.is_head {
                let gathered = gather(source, space, MAX_TRANSFORM_BODY_BYTES).await;
                let (changed, acted) = change(gathered, edits, &space.room, place)
                    .await
                    .map_err(Unfit::of_response)?;
                source = changed;
                self.note(acted);
            }
        }
        for one in concerned {
            let before = (parts.status, parts.headers.clone());
            let status = one.rule.response.status.filter(|_| whole);
            if let Some(status) = status.and_then(|code| StatusCode::from_u16(code).ok()) {
                parts.status = status;
            }
            one.response_headers.apply(&mut parts.headers);
            if before.0 != parts.status || before.1 != parts.headers {
                count(metrics, &one, Part::Response, "applied");
                self.note(vec![one.name.clone()]);
            }
        }
        Ok(Response::from_parts(parts, source))
    }

    fn note(&mut self, acted: Vec<Arc<str>>) {
        for name in acted {
            if !self.acted.contains(&name) {
                self.acted.push(name);
            }
        }
    }

    /// The names of those that changed a body or the response.
    pub(crate) fn acted(&self) -> &[Arc<str>] {
        &self.acted
    }
}

/// Whether responses of that status have a body, and a status that means nothing else.
fn has_body(status: StatusCode) -> bool {
    !status.is_informational() && !matches!(status.as_u16(), 204 | 205 | 304)
}

/// A response that is to be changed is asked for uncompressed, as a whole, and whatever the caller has of it already.
fn ask_for_the_whole(head: &mut Head) {
    let headers = &mut head.headers;
    headers.insert(
        header::ACCEPT_ENCODING,
        HeaderValue::from_static("identity"),
    );
    headers.remove(header::RANGE);
    headers.remove(header::IF_RANGE);
    if matches!(head.method, Method::GET | Method::HEAD) {
        headers.remove(header::IF_NONE_MATCH);
        headers.remove(header::IF_MODIFIED_SINCE);
    }
}

fn forget_bytes(headers: &mut HeaderMap) {
    for name in &OF_THESE_BYTES {
        headers.remove(name);
    }
}

type Edits = Vec<(Arc<Compiled>, BodyEdit)>;

/// Those of `edits` that the headers let; the first that must have it and cannot refuses all.
fn fitting(
    edits: Edits,
    headers: &HeaderMap,
    (part, metrics): (Part, &Metrics),
) -> Result<Edits, Unfit> {
    let mut fit = Vec::new();
    for (one, edit) in edits {
        match edit.fits(headers) {
            Ok(()) => fit.push((one, edit)),
            Err(unfit) => pass(&one, &edit, unfit, (part, metrics))?,
        }
    }
    Ok(fit)
}

/// Counts what could not be changed; an error unless it may pass.
fn pass(
    one: &Compiled,
    edit: &BodyEdit,
    unfit: Unfit,
    (part, metrics): (Part, &Metrics),
) -> Result<(), Unfit> {
    match edit.otherwise {
        Otherwise::Pass => {
            count(metrics, one, part, unfit.passed());
            Ok(())
        }
        Otherwise::Refuse => {
            count(metrics, one, part, unfit.refused());
            Err(unfit)
        }
    }
}

/// Changes what was gathered; the body, and the names of those that changed it.
async fn change(
    gathered: Gathering,
    edits: Edits,
    room: &Room,
    place: (Part, &Metrics),
) -> Result<(Source, Vec<Arc<str>>), Unfit> {
    let (mut held, unfit) = match gathered {
        Gathering::Whole(held) => (held, None),
        Gathering::Part(held, unfit) => (held, Some(unfit)),
        Gathering::Broken(error) => return Ok((Source::Broken(Some(error)), Vec::new())),
    };
    let mut acted = Vec::new();
    if let Some(unfit) = unfit {
        for (one, edit) in &edits {
            pass(one, edit, unfit, place)?;
        }
        return Ok((Source::Held(held), acted));
    }
    for (one, edit) in edits {
        match edit.apply(held.bytes(), room).await {
            Ok(None) => {}
            Ok(Some(changed)) => {
                held.replace(changed);
                count(place.1, &one, place.0, "applied");
                acted.push(one.name.clone());
            }
            Err(unfit) => pass(&one, &edit, unfit, place)?,
        }
    }
    Ok((Source::Held(held), acted))
}
