//! Requests and entities for Cedar, built by typed code from what the proxy verified.
//!
//! The data path never checks them against the schema (that alone would cost more than the decision); the property
//! test below does it for every shape of request instead.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet, HashSet},
    net::IpAddr,
    sync::Arc,
};

use cedar_policy_core::{
    ast::{
        Context, Eid, Entity, EntityType, EntityUID, EntityUIDEntry, Name, PartialValue, Request,
        Value,
    },
    entities::{Entities, NoEntitiesSchema, TCComputation},
    extensions::Extensions,
};
use jiff::Timestamp;
use reeve_core::{
    Namespace, SpiffeId, TrustDomain, UnixTime,
    decision::{AccessRequest, HttpContext, Principal, User},
};

use crate::{
    mesh_schema::{EntityTypes, MeshSchema},
    store::{Node, Store},
    uses::Uses,
};

/// Path segments that policies can name; the schema lists them.
pub const MAX_NAMED_SEGMENTS: usize = 16;

const SEGMENT_NAMES: [&str; MAX_NAMED_SEGMENTS] = [
    "s1", "s2", "s3", "s4", "s5", "s6", "s7", "s8", "s9", "s10", "s11", "s12", "s13", "s14", "s15",
    "s16",
];

/// A question in Cedar's terms.
#[derive(Debug)]
pub(crate) struct Question {
    pub(crate) request: cedar_policy::Request,
    pub(crate) entities: cedar_policy::Entities,
}

/// What questions are put with, beside the request itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ground<'a> {
    pub(crate) mesh: &'a MeshSchema,
    /// The mesh's trust domain.
    pub(crate) home: Option<&'a TrustDomain>,
    pub(crate) store: &'a Store,
}

/// What is asked about beyond the principal, the resource, and what they are in.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reach {
    /// Whether anything is.
    pub(crate) beyond: bool,
    /// Entities that are looked into by name: type and id.
    pub(crate) named: Vec<(String, String)>,
}

/// What each of the policies that are asked looks at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Looks<'a>(pub(crate) &'a [&'a Uses]);

/// Why a request could not be put to Cedar. No input is known to cause it; the engine then denies.
#[derive(Debug, thiserror::Error)]
pub(crate) enum QuestionError {
    #[error("the schema has no action {0}")]
    Action(reeve_core::decision::Action),
    #[error(
        "exactly one service is named when it is asked for alone, and its trust domain is known"
    )]
    ServiceAlone,
    #[error("Cedar's extension function gives no value")]
    Extension,
    #[error("Cedar refuses it: {0}")]
    Cedar(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl QuestionError {
    fn cedar(error: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Cedar(Box::new(error))
    }
}

impl Question {
    /// Puts `request` in Cedar's terms, with those parts that `uses` names.
    pub(crate) fn new(
        ground: Ground<'_>,
        uses: Looks<'_>,
        request: &AccessRequest,
    ) -> Result<Self, QuestionError> {
        let parties = Parties::new(ground, &uses.reach(), request)?;
        let (request, entities) = parties.asked(ground, uses, request)?;
        Ok(Self {
            request: request.into(),
            entities: entities.into_owned().into(),
        })
    }
}

/// Who asks, for what, and what is asked for: the part of a question that many requests share.
#[derive(Debug)]
pub(crate) struct Parties {
    principal: EntityUIDEntry,
    action: EntityUIDEntry,
    resource: EntityUIDEntry,
    entities: Entities,
}

impl Parties {
    /// Those of `request`, and what `reach` goes to.
    pub(crate) fn new(
        ground: Ground<'_>,
        reach: &Reach,
        request: &AccessRequest,
    ) -> Result<Self, QuestionError> {
        let Ground { mesh, home, store } = ground;
        let hierarchy = reach.beyond;
        let builder = Builder {
            types: &mesh.types,
            hierarchy,
            home,
            store,
        };
        let (action, action_entity) = mesh
            .action(request.action)
            .ok_or(QuestionError::Action(request.action))?;
        let mut graph = Graph::default();
        let principal = builder.principal(&mut graph, &request.principal);
        let resource = builder.resource(&mut graph, request)?;
        if hierarchy {
            graph.go_on(store, reach);
        }
        let mut entities = graph.into_entities(store);
        entities.push(action_entity.clone());
        // All ancestors of what a request names are its direct parents; only membership of something else has to be
        // worked out.
        let closure = if hierarchy {
            TCComputation::ComputeNow
        } else {
            TCComputation::AssumeAlreadyComputed
        };
        let entities = Entities::from_entities(
            entities,
            None::<&NoEntitiesSchema>,
            closure,
            Extensions::all_available(),
        );
        let known = |uid| EntityUIDEntry::known(uid, None);
        Ok(Self {
            principal: known(principal),
            action: known(action.clone()),
            resource: known(resource),
            entities: entities.map_err(QuestionError::cedar)?,
        })
    }

    /// The whole question: `request`, whose parties these are, with those parts that `uses` names.
    pub(crate) fn asked(
        &self,
        ground: Ground<'_>,
        uses: Looks<'_>,
        request: &AccessRequest,
    ) -> Result<(Request, Cow<'_, Entities>), QuestionError> {
        let Ground { mesh, store, .. } = ground;
        let (context, more) = Circumstances { mesh, store, uses }.of(request)?;
        let asked = Request::new_unchecked(
            self.principal.clone(),
            self.action.clone(),
            self.resource.clone(),
            Some(context),
        );
        if more.is_empty() {
            return Ok((asked, Cow::Borrowed(&self.entities)));
        }
        let entities = self.entities.clone().add_entities(
            more.into_iter().map(Arc::new),
            None::<&NoEntitiesSchema>,
            TCComputation::AssumeAlreadyComputed,
            Extensions::all_available(),
        );
        Ok((asked, Cow::Owned(entities.map_err(QuestionError::cedar)?)))
    }
}

impl Looks<'_> {
    /// Whether any of them looks at `context.<name>`.
    pub(crate) fn attribute(self, name: &str) -> bool {
        self.0.iter().any(|uses| uses.attribute(name))
    }

    /// Whether any of them looks at the end user.
    pub(crate) fn user(self) -> bool {
        self.0.iter().any(|uses| uses.user())
    }

    /// Whether any of them looks at the context as a whole.
    pub(crate) fn everything(self) -> bool {
        self.0.iter().any(|uses| uses.whole_context)
    }

    /// What they ask about beyond the request's parties.
    pub(crate) fn reach(self) -> Reach {
        let named = self.0.iter().flat_map(|uses| uses.entities.iter().cloned());
        Reach {
            beyond: self.0.iter().any(|uses| uses.hierarchy),
            named: named.collect(),
        }
    }
}

/// Entities and their parents; one entry each, also when principal and resource are the same. What is known of each
/// besides comes from the store.
#[derive(Debug, Default)]
struct Graph(Vec<(EntityUID, HashSet<EntityUID>)>);

impl Graph {
    fn add(&mut self, uid: &EntityUID, parents: impl IntoIterator<Item = EntityUID>) {
        match self.0.iter_mut().find(|(known, _)| known == uid) {
            Some((_, known)) => known.extend(parents),
            None => self.0.push((uid.clone(), parents.into_iter().collect())),
        }
    }

    /// Adds every entity that these, and those named, lead to.
    fn go_on(&mut self, store: &Store, reach: &Reach) {
        let mut seen: HashSet<EntityUID> = self.0.iter().map(|(uid, _)| uid.clone()).collect();
        let mut open: Vec<&Node> = self.0.iter().filter_map(|(uid, _)| store.of(uid)).collect();
        let named = reach.named.iter();
        for node in named.filter_map(|(kind, id)| store.node(kind, id)) {
            if seen.insert(node.entity.uid().clone()) {
                self.add(node.entity.uid(), node.entity.parents().cloned());
                open.push(node);
            }
        }
        while let Some(node) = open.pop() {
            for uid in node.leads_to() {
                if seen.insert(uid.clone())
                    && let Some(node) = store.of(uid)
                {
                    self.add(uid, node.entity.parents().cloned());
                    open.push(node);
                }
            }
        }
    }

    fn into_entities(self, store: &Store) -> Vec<Entity> {
        let each = self.0.into_iter();
        each.map(|(uid, parents)| {
            let Some(known) = store.of(&uid) else {
                return entity(uid, parents, [], []);
            };
            let attributes = known.entity.attrs().map(|(n, v)| (n.clone(), v.clone()));
            let tags = known.entity.tags().map(|(n, v)| (n.clone(), v.clone()));
            Entity::new_with_attr_partial_value(uid, attributes, HashSet::new(), parents, tags)
        })
        .collect()
    }
}

#[derive(Clone, Copy)]
struct Builder<'a> {
    types: &'a EntityTypes,
    hierarchy: bool,
    home: Option<&'a TrustDomain>,
    store: &'a Store,
}

impl Builder<'_> {
    fn principal(self, graph: &mut Graph, principal: &Principal) -> EntityUID {
        match principal {
            Principal::Workload(id) => self.workload(graph, id),
            Principal::Unauthenticated => {
                let uid = uid(&self.types.unauthenticated, "unauthenticated");
                graph.add(&uid, []);
                uid
            }
        }
    }

    /// A workload and what its identity says it belongs to. All ancestors are direct parents, so that membership
    /// needs no further entities.
    fn workload(self, graph: &mut Graph, id: &SpiffeId) -> EntityUID {
        let workload = uid(&self.types.workload, id.as_str());
        let domain = id.trust_domain();
        let mut parents = vec![uid(&self.types.trust_domain, domain.as_str())];
        if let Some((namespace, account)) = id.namespace_and_account() {
            let name = format!("{domain}/ns/{namespace}/sa/{account}");
            let account = uid(&self.types.service_account, &name);
            let namespace = self.namespace(graph, &domain, &namespace);
            if self.hierarchy {
                graph.add(&account, [namespace.clone()]);
            }
            parents.extend([account, namespace]);
        } else if self.hierarchy {
            graph.add(&uid(&self.types.trust_domain, domain.as_str()), []);
        }
        let groups = self.groups([&workload].into_iter().chain(&parents));
        graph.add(&workload, parents);
        graph.add(&workload, groups);
        workload
    }

    /// What these are in, beside what their names say.
    fn groups<'u>(self, uids: impl Iterator<Item = &'u EntityUID>) -> Vec<EntityUID> {
        let groups = uids.flat_map(|uid| self.store.ancestors(uid));
        groups.cloned().collect()
    }

    fn namespace(self, graph: &mut Graph, domain: &TrustDomain, name: &Namespace) -> EntityUID {
        let namespace = uid(&self.types.namespace, &format!("{domain}/ns/{name}"));
        if self.hierarchy {
            let domain = uid(&self.types.trust_domain, domain.as_str());
            graph.add(&domain, []);
            graph.add(&namespace, [domain]);
        }
        namespace
    }

    /// The workload behind the listener with its services as parents, or a service alone.
    fn resource(
        self,
        graph: &mut Graph,
        request: &AccessRequest,
    ) -> Result<EntityUID, QuestionError> {
        let resource = &request.resource;
        let domain = resource_domain(request, self.home).ok_or(QuestionError::ServiceAlone)?;
        let above = [
            self.namespace(graph, &domain, &resource.namespace),
            uid(&self.types.trust_domain, domain.as_str()),
        ];
        let around = self.groups(above.iter());
        let mut services = Vec::new();
        for name in &resource.services {
            let service = uid(&self.types.service, name.as_str());
            graph.add(&service, above.iter().cloned());
            graph.add(&service, self.groups([&service].into_iter()));
            graph.add(&service, around.iter().cloned());
            services.push(service);
        }
        if let Some(id) = &resource.workload {
            let workload = self.workload(graph, id);
            graph.add(&workload, self.groups(services.iter()));
            graph.add(&workload, services);
            graph.add(&workload, above);
            graph.add(&workload, around);
            return Ok(workload);
        }
        match <[EntityUID; 1]>::try_from(services) {
            Ok([service]) => Ok(service),
            Err(_) => Err(QuestionError::ServiceAlone),
        }
    }
}

/// The circumstances of a request, as far as policies look at them.
#[derive(Clone, Copy)]
struct Circumstances<'a> {
    mesh: &'a MeshSchema,
    store: &'a Store,
    uses: Looks<'a>,
}

impl Circumstances<'_> {
    /// The context, and the entities that it refers to.
    fn of(self, request: &AccessRequest) -> Result<(Context, Vec<Entity>), QuestionError> {
        let functions = &self.mesh.functions;
        let mut entities = Vec::new();
        let context = &request.context;
        let mut values = BTreeMap::new();
        let mut put = |name: &'static str, value: &dyn Fn() -> Result<Value, QuestionError>| {
            if self.uses.attribute(name) {
                values.insert(name.into(), value()?);
            }
            Ok::<_, QuestionError>(())
        };
        // An IPv4 caller on a dual-stack socket is that IPv4 address.
        let ip = |ip: IpAddr| extension(&functions.ip, &ip.to_canonical().to_string());
        put("source_ip", &|| ip(context.source_ip))?;
        put("remote_ip", &|| ip(context.client_ip()))?;
        if let Some(address) = context.destination_ip {
            put("destination_ip", &|| ip(address))?;
        }
        if let Some(name) = &context.sni {
            put("sni", &|| Ok(text(name)))?;
        }
        put("port", &|| Ok(Value::from(i64::from(context.port))))?;
        put("mtls", &|| Ok(Value::from(context.mtls)))?;
        if let Some(id) = request.principal.spiffe_id() {
            put("principal_id", &|| Ok(text(id.as_str())))?;
        }
        put("time", &|| {
            extension(&functions.datetime, &datetime(context.time))
        })?;
        if let Some(http) = &context.http {
            put("method", &|| Ok(text(&http.method)))?;
            put("host", &|| Ok(text(&http.host)))?;
            put("path", &|| Ok(text(&http.path)))?;
            put("path_segments", &|| Ok(path_segments(&http.path)))?;
            if let Some(grpc) = &http.grpc {
                let parts = [
                    ("service", text(&grpc.service)),
                    ("method", text(&grpc.method)),
                ];
                put("grpc", &|| Ok(Value::record(parts.clone(), None)))?;
            }
            for entity in self.request_entities(http, request.user.as_deref()) {
                let uid = entity.uid().clone();
                let name = uid.eid().clone().into_smolstr();
                values.insert(name, Value::from(uid));
                entities.push(entity);
            }
        }
        Ok((Context::Value(values.into()), entities))
    }

    /// The entities that hold tags; each has the name of the attribute that refers to it as its id.
    fn request_entities(self, http: &HttpContext, user: Option<&User>) -> Vec<Entity> {
        let types = &self.mesh.types;
        let mut found = Vec::new();
        if self.uses.attribute("headers") {
            let tags = self.tags(|uses| &uses.headers, &http.headers, set);
            found.push(entity(
                uid(&types.headers, "headers"),
                HashSet::new(),
                [],
                tags,
            ));
        }
        if self.uses.attribute("header_text") {
            let tags = self.tags(|uses| &uses.headers, &http.headers, joined);
            let uid = uid(&types.header_text, "header_text");
            found.push(entity(uid, HashSet::new(), [], tags));
        }
        if self.uses.attribute("claim_lines") {
            let none = BTreeMap::new();
            let claims = user.map_or(&none, |user| &user.claims);
            let tags: Vec<_> = self.tags(|uses| &uses.claims, claims, lines).collect();
            let uid = uid(&types.claim_lines, "claim_lines");
            found.push(entity(uid, HashSet::new(), [], tags));
        }
        if self.uses.attribute("query") {
            let tags = self.tags(|uses| &uses.query, &http.query, set);
            found.push(entity(uid(&types.query, "query"), HashSet::new(), [], tags));
        }
        if let Some(user) = user.filter(|_| self.uses.attribute("user")) {
            let tags = self.tags(|uses| &uses.claims, &user.claims, set);
            let attributes = [
                ("issuer", text(&user.issuer)),
                ("subject", text(&user.subject)),
            ];
            let groups = self.groups_of(user);
            found.push(entity(uid(&types.user, "user"), groups, attributes, tags));
        }
        found
    }

    /// What an end user is in, as the claims say.
    fn groups_of(self, user: &User) -> HashSet<EntityUID> {
        let mut found = HashSet::new();
        for (kind, claim) in self.mesh.claimed() {
            let values = user.claims.get(&claim.name);
            let values = values.filter(|_| claim.issuer == user.issuer);
            let Some(kind) = self.mesh.added_type(kind) else {
                continue;
            };
            for value in values.into_iter().flatten() {
                let group = uid(kind, value);
                found.extend(self.store.ancestors(&group).iter().cloned());
                found.insert(group);
            }
        }
        found
    }

    /// Those of `values` that are named.
    fn tags(
        self,
        named: impl Fn(&Uses) -> &BTreeSet<String>,
        values: &BTreeMap<String, BTreeSet<String>>,
        value: fn(&BTreeSet<String>) -> Value,
    ) -> impl Iterator<Item = (&str, Value)> {
        let wanted = move |name: &str| self.uses.0.iter().any(|uses| named(uses).contains(name));
        let wanted = values.iter().filter(move |(name, _)| wanted(name));
        wanted.map(move |(name, members)| (name.as_str(), value(members)))
    }
}

/// Every value of a tag.
fn set(members: &BTreeSet<String>) -> Value {
    Value::set(members.iter().map(|member| text(member)), None)
}

/// As HTTP joins lines (RFC 9110 section 5.3).
fn joined(members: &BTreeSet<String>) -> Value {
    let members: Vec<&str> = members.iter().map(String::as_str).collect();
    text(&members.join(","))
}

/// SECURITY: no value makes a line of its own within it.
fn lines(members: &BTreeSet<String>) -> Value {
    let mut all = String::from("\n");
    for member in members {
        all.push_str(&member.replace('\n', "\u{fffd}"));
        all.push('\n');
    }
    text(&all)
}

/// The trust domain that a request's resource belongs to.
pub(crate) fn resource_domain(
    request: &AccessRequest,
    home: Option<&TrustDomain>,
) -> Option<TrustDomain> {
    // A service outside the mesh has no identity of its own to say its trust domain. It is the mesh's; where that
    // was not told, it is the asker's, since a proxy's own workload asks. SECURITY: without any, a forbid on the
    // service's namespace would miss.
    let own = request.resource.workload.as_ref();
    let own = own.map(SpiffeId::trust_domain);
    let asker = || request.principal.spiffe_id().map(SpiffeId::trust_domain);
    own.or_else(|| home.cloned()).or_else(asker)
}

fn uid(kind: &EntityType, id: &str) -> EntityUID {
    EntityUID::from_components(kind.clone(), Eid::new(id), None)
}

fn entity<'a>(
    uid: EntityUID,
    parents: HashSet<EntityUID>,
    attributes: impl IntoIterator<Item = (&'a str, Value)>,
    tags: impl IntoIterator<Item = (&'a str, Value)>,
) -> Entity {
    let named = |(name, value): (&str, Value)| (name.into(), PartialValue::from(value));
    Entity::new_with_attr_partial_value(
        uid,
        attributes.into_iter().map(named),
        HashSet::new(),
        parents,
        tags.into_iter().map(named),
    )
}

fn text(value: &str) -> Value {
    Value::from(value)
}

/// What an extension function makes of a text.
fn extension(function: &Name, argument: &str) -> Result<Value, QuestionError> {
    let function = Extensions::all_available()
        .func(function)
        .map_err(QuestionError::cedar)?;
    match function.call(&[text(argument)]) {
        Ok(PartialValue::Value(value)) => Ok(value),
        Ok(PartialValue::Residual(_)) => Err(QuestionError::Extension),
        Err(e) => Err(QuestionError::cedar(e)),
    }
}

/// `count` and the first parts, by the rule that the schema states.
fn path_segments(path: &str) -> Value {
    let rest = path.strip_prefix('/').unwrap_or(path);
    let parts = || rest.split('/').filter(|_| !rest.is_empty());
    let count = i64::try_from(parts().count()).unwrap_or(i64::MAX);
    let named = parts()
        .take(MAX_NAMED_SEGMENTS)
        .zip(SEGMENT_NAMES)
        .map(|(part, name)| (name, text(part)));
    Value::record(named.chain([("count", Value::from(count))]), None)
}

/// Cedar's datetime form with milliseconds, UTC; times beyond the year 9999 are its last.
pub fn datetime(time: UnixTime) -> String {
    let millis = i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
    let time = Timestamp::from_millisecond(millis).unwrap_or(Timestamp::MAX);
    time.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string()
}

#[cfg(test)]
mod tests;
