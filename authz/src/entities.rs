//! Requests and entities for Cedar, built by typed code from what the proxy verified.
//!
//! The data path never checks them against the schema (that alone would cost more than the decision); the property
//! test below does it for every shape of request instead.

use std::collections::{BTreeSet, HashMap, HashSet};

use cedar_policy::{
    Context, Entities, Entity, EntityId, EntityTypeName, EntityUid, Request, RestrictedExpression,
};
use jiff::Timestamp;
use reeve_core::{
    Namespace, SpiffeId, TrustDomain, UnixTime,
    decision::{AccessRequest, HttpContext, Principal, User},
};

use crate::{
    mesh_schema::{EntityTypes, MeshSchema},
    uses::Uses,
};

/// Path segments that policies can name; the schema lists them.
pub(crate) const MAX_NAMED_SEGMENTS: usize = 16;

/// A question in Cedar's terms.
#[derive(Debug)]
pub(crate) struct Question {
    pub(crate) request: Request,
    pub(crate) entities: Entities,
}

/// Why a request could not be put to Cedar. No input is known to cause it; the engine then denies.
#[derive(Debug, thiserror::Error)]
pub(crate) enum QuestionError {
    #[error("the schema has no action {0}")]
    Action(reeve_core::decision::Action),
    #[error(
        "exactly one service is named when it is asked for alone, and its trust domain is known"
    )]
    ServiceAlone,
    #[error("Cedar refuses it: {0}")]
    Cedar(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl QuestionError {
    fn cedar(error: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Cedar(Box::new(error))
    }
}

impl Question {
    /// Puts `request` in Cedar's terms, with those parts that `uses` names. `home` is the mesh's trust domain.
    pub(crate) fn new(
        mesh: &MeshSchema,
        uses: &Uses,
        home: Option<&TrustDomain>,
        request: &AccessRequest,
    ) -> Result<Self, QuestionError> {
        let builder = Builder {
            types: &mesh.types,
            uses,
            home,
        };
        let (action, action_entity) = mesh
            .action(request.action)
            .ok_or(QuestionError::Action(request.action))?;
        let mut graph = Graph::default();
        let principal = builder.principal(&mut graph, &request.principal);
        let resource = builder.resource(&mut graph, request)?;
        let mut entities = graph.into_entities();
        entities.push(action_entity.clone());
        let context = builder.context(request, &mut entities)?;
        Ok(Self {
            request: Request::new(principal, action.clone(), resource, context, None)
                .map_err(QuestionError::cedar)?,
            entities: Entities::from_entities(entities, None).map_err(QuestionError::cedar)?,
        })
    }
}

/// Entities without attributes and their parents; one entry each, also when principal and resource are the same.
#[derive(Debug, Default)]
struct Graph(Vec<(EntityUid, HashSet<EntityUid>)>);

impl Graph {
    fn add(&mut self, uid: &EntityUid, parents: impl IntoIterator<Item = EntityUid>) {
        match self.0.iter_mut().find(|(known, _)| known == uid) {
            Some((_, known)) => known.extend(parents),
            None => self.0.push((uid.clone(), parents.into_iter().collect())),
        }
    }

    fn into_entities(self) -> Vec<Entity> {
        self.0
            .into_iter()
            .map(|(uid, parents)| Entity::new_no_attrs(uid, parents))
            .collect()
    }
}

#[derive(Clone, Copy)]
struct Builder<'a> {
    types: &'a EntityTypes,
    uses: &'a Uses,
    home: Option<&'a TrustDomain>,
}

impl Builder<'_> {
    fn principal(self, graph: &mut Graph, principal: &Principal) -> EntityUid {
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
    fn workload(self, graph: &mut Graph, id: &SpiffeId) -> EntityUid {
        let workload = uid(&self.types.workload, id.as_str());
        let domain = id.trust_domain();
        let mut parents = vec![uid(&self.types.trust_domain, domain.as_str())];
        if let Some((namespace, account)) = id.namespace_and_account() {
            let name = format!("{domain}/ns/{namespace}/sa/{account}");
            let account = uid(&self.types.service_account, &name);
            let namespace = self.namespace(graph, &domain, &namespace);
            if self.uses.hierarchy {
                graph.add(&account, [namespace.clone()]);
            }
            parents.extend([account, namespace]);
        } else if self.uses.hierarchy {
            graph.add(&uid(&self.types.trust_domain, domain.as_str()), []);
        }
        graph.add(&workload, parents);
        workload
    }

    fn namespace(self, graph: &mut Graph, domain: &TrustDomain, name: &Namespace) -> EntityUid {
        let namespace = uid(&self.types.namespace, &format!("{domain}/ns/{name}"));
        if self.uses.hierarchy {
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
    ) -> Result<EntityUid, QuestionError> {
        let resource = &request.resource;
        let domain = resource_domain(request, self.home).ok_or(QuestionError::ServiceAlone)?;
        let above = [
            self.namespace(graph, &domain, &resource.namespace),
            uid(&self.types.trust_domain, domain.as_str()),
        ];
        let mut services = Vec::new();
        for name in &resource.services {
            let service = uid(&self.types.service, name.as_str());
            graph.add(&service, above.iter().cloned());
            services.push(service);
        }
        if let Some(id) = &resource.workload {
            let workload = self.workload(graph, id);
            graph.add(&workload, services);
            graph.add(&workload, above);
            return Ok(workload);
        }
        match <[EntityUid; 1]>::try_from(services) {
            Ok([service]) => Ok(service),
            Err(_) => Err(QuestionError::ServiceAlone),
        }
    }

    fn context(
        self,
        request: &AccessRequest,
        entities: &mut Vec<Entity>,
    ) -> Result<Context, QuestionError> {
        let context = &request.context;
        let mut pairs = Vec::with_capacity(8);
        let mut put = |name: &str, value: &dyn Fn() -> RestrictedExpression| {
            if self.uses.attribute(name) {
                pairs.push((name.to_owned(), value()));
            }
        };
        put("source_ip", &|| {
            // An IPv4 caller on a dual-stack socket is that IPv4 address.
            RestrictedExpression::new_ip(context.source_ip.to_canonical().to_string())
        });
        put("port", &|| long(context.port.into()));
        put("mtls", &|| RestrictedExpression::new_bool(context.mtls));
        put("time", &|| {
            RestrictedExpression::new_datetime(datetime(context.time))
        });
        if let Some(http) = &context.http {
            put("method", &|| text(&http.method));
            put("host", &|| text(&http.host));
            put("path", &|| text(&http.path));
            if self.uses.attribute("path_segments") {
                pairs.push(("path_segments".to_owned(), path_segments(&http.path)?));
            }
            if let Some(grpc) = http.grpc.as_ref().filter(|_| self.uses.attribute("grpc")) {
                let parts = [("service", &grpc.service), ("method", &grpc.method)];
                let parts = parts.map(|(name, value)| (name.to_owned(), text(value)));
                pairs.push((
                    "grpc".to_owned(),
                    RestrictedExpression::new_record(parts).map_err(QuestionError::cedar)?,
                ));
            }
            self.request_entities(http, request.user.as_ref(), &mut pairs, entities)?;
        }
        Context::from_pairs(pairs).map_err(QuestionError::cedar)
    }

    fn request_entities(
        self,
        http: &HttpContext,
        user: Option<&User>,
        pairs: &mut Vec<(String, RestrictedExpression)>,
        entities: &mut Vec<Entity>,
    ) -> Result<(), QuestionError> {
        let mut put = |name: &'static str, kind, attributes, tags| {
            let uid = uid(kind, name);
            let entity = Entity::new_with_tags(uid.clone(), attributes, HashSet::new(), tags)
                .map_err(QuestionError::cedar)?;
            entities.push(entity);
            pairs.push((name.to_owned(), RestrictedExpression::new_entity_uid(uid)));
            Ok::<_, QuestionError>(())
        };
        if self.uses.attribute("headers") {
            let tags = tags(&self.uses.headers, |name| http.headers.get(name));
            put("headers", &self.types.headers, HashMap::new(), tags)?;
        }
        if self.uses.attribute("query") {
            let tags = tags(&self.uses.query, |name| http.query.get(name));
            put("query", &self.types.query, HashMap::new(), tags)?;
        }
        if let Some(user) = user.filter(|_| self.uses.attribute("user")) {
            let attributes = HashMap::from([
                ("issuer".to_owned(), text(&user.issuer)),
                ("subject".to_owned(), text(&user.subject)),
            ]);
            let tags = tags(&self.uses.claims, |name| user.claims.get(name));
            put("user", &self.types.user, attributes, tags)?;
        }
        Ok(())
    }
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

fn uid(kind: &EntityTypeName, id: &str) -> EntityUid {
    EntityUid::from_type_name_and_id(kind.clone(), EntityId::new(id))
}

fn text(value: &str) -> RestrictedExpression {
    RestrictedExpression::new_string(value.to_owned())
}

fn long(value: i64) -> RestrictedExpression {
    RestrictedExpression::new_long(value)
}

fn tags<'a>(
    names: &BTreeSet<String>,
    values: impl Fn(&str) -> Option<&'a BTreeSet<String>>,
) -> HashMap<String, RestrictedExpression> {
    let set = |values: &BTreeSet<String>| {
        RestrictedExpression::new_set(values.iter().map(|value| text(value)))
    };
    names
        .iter()
        .filter_map(|name| Some((name.clone(), set(values(name)?))))
        .collect()
}

/// `count` and the first parts, by the rule that the schema states.
fn path_segments(path: &str) -> Result<RestrictedExpression, QuestionError> {
    let rest = path.strip_prefix('/').unwrap_or(path);
    let parts = || rest.split('/').filter(|_| !rest.is_empty());
    let count = i64::try_from(parts().count()).unwrap_or(i64::MAX);
    let named = parts()
        .take(MAX_NAMED_SEGMENTS)
        .enumerate()
        .map(|(at, part)| (format!("s{}", at + 1), text(part)));
    let all = named.chain([("count".to_owned(), long(count))]);
    RestrictedExpression::new_record(all).map_err(QuestionError::cedar)
}

/// Cedar's datetime form with milliseconds, UTC; times beyond the year 9999 are its last.
pub(crate) fn datetime(time: UnixTime) -> String {
    let millis = i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
    let time = Timestamp::from_millisecond(millis).unwrap_or(Timestamp::MAX);
    time.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string()
}

#[cfg(test)]
mod tests;
