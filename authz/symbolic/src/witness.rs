//! A solver's model as a request that can be sent.

use std::collections::{BTreeMap, BTreeSet};

use cedar_policy::{Context, Entity, EntityUid, EvalResult};
use cedar_policy_symcc::Env;
use reeve_core::{
    Namespace, ServiceName, SpiffeId, UnixTime,
    decision::{
        AccessRequest, Action, GrpcMethod, HttpContext, Principal, RequestContext, ResourceRef,
        User,
    },
};

use crate::{
    World,
    literals::Literals,
    world::{Apart, EXCLUSIVE, Side},
};

/// Parts of a path that are written out for a model that only counts them.
const MAX_PARTS: i64 = 64;

/// Gives what a model only describes a name: the solver knows of a principal to which named things it belongs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Namer<'a> {
    pub(crate) world: &'a World,
    pub(crate) literals: &'a Literals,
}

/// Which of the named entities something is, or is in.
type Memberships = BTreeSet<(String, String)>;

impl Namer<'_> {
    /// The request, if the model is one.
    pub(crate) fn request(self, model: &Env) -> Option<AccessRequest> {
        let request = &model.request;
        let principal = match request.principal()? {
            uid if kind(uid) == "Workload" => {
                Principal::Workload(self.identity(&self.memberships(model, uid))?)
            }
            _ => Principal::Unauthenticated,
        };
        let same = request.principal() == request.resource();
        let resource = self.resource(model, request.resource()?, same.then_some(&principal))?;
        let action: Action = request.action()?.id().unescaped().parse().ok()?;
        let context = request.context()?;
        Some(AccessRequest {
            action,
            context: RequestContext {
                http: match action == Action::Connect {
                    true => None,
                    false => Some(self.http(model, context, action)?),
                },
                mtls: matches!(context.get("mtls")?, EvalResult::Bool(true)),
                port: u16::try_from(number(&context.get("port")?)?).ok()?,
                source_ip: address(&context.get("source_ip")?)?,
                remote_ip: Some(address(&context.get("remote_ip")?)?),
                destination_ip: match context.get("destination_ip") {
                    Some(value) => Some(address(&value)?),
                    None => None,
                },
                sni: match context.get("sni") {
                    Some(EvalResult::String(name)) => Some(name.into()),
                    _ => None,
                },
                time: time(&context.get("time")?)?,
            },
            user: user(model, context).map(std::sync::Arc::new),
            principal,
            resource,
        })
    }

    /// In which of two that exclude each other the model has its principal, or its resource.
    pub(crate) fn contradictions(self, model: &Env) -> BTreeSet<Apart> {
        let request = &model.request;
        let sides = [
            (Side::Principal, request.principal()),
            (Side::Resource, request.resource()),
        ];
        let mut found = BTreeSet::new();
        for (who, uid) in sides {
            let memberships = uid.map(|uid| self.memberships(model, uid));
            let memberships = memberships.unwrap_or_default();
            for kind in EXCLUSIVE {
                let ids: Vec<_> = memberships.iter().filter(|(k, _)| k == kind).collect();
                for (number, (_, first)) in ids.iter().enumerate() {
                    let others = ids.iter().skip(number + 1);
                    found.extend(others.map(|(_, second)| Apart {
                        who,
                        kind,
                        ids: (first.clone(), second.clone()),
                    }));
                }
            }
        }
        found
    }

    fn memberships(self, model: &Env, uid: &EntityUid) -> Memberships {
        let above = model.entities.ancestors(uid).into_iter().flatten();
        let all = above.chain([uid]).map(|uid| (kind(uid), id(uid)));
        all.filter(|(kind, id)| self.is_named(kind, id)).collect()
    }

    fn is_named(self, kind: &str, id: &str) -> bool {
        self.literals.of(kind).any(|named| named == id)
    }

    /// An identity that is, and is in, exactly these of the named; one of the mesh's, if there is any.
    fn identity(self, wanted: &Memberships) -> Option<SpiffeId> {
        let wanted: Memberships = wanted
            .iter()
            .filter(|(kind, _)| kind != "Service")
            .cloned()
            .collect();
        let fits = |id: &SpiffeId| self.of_identity(id) == wanted;
        let known = self.world.identities.iter().find(|id| fits(id)).cloned();
        known.or_else(|| {
            let made = self.made_up().into_iter();
            made.filter_map(|id| SpiffeId::parse(&id).ok()).find(fits)
        })
    }

    /// What an identity is, and is in, of the named.
    fn of_identity(self, identity: &SpiffeId) -> Memberships {
        let domain = identity.trust_domain();
        let mut all = vec![
            ("Workload", identity.as_str().to_owned()),
            ("TrustDomain", domain.as_str().to_owned()),
        ];
        if let Some((namespace, account)) = identity.namespace_and_account() {
            all.push(("Namespace", format!("{domain}/ns/{namespace}")));
            all.push((
                "ServiceAccount",
                format!("{domain}/ns/{namespace}/sa/{account}"),
            ));
        }
        let named = all.into_iter().filter(|(kind, id)| self.is_named(kind, id));
        named.map(|(kind, id)| (kind.to_owned(), id)).collect()
    }

    /// Identities of and beside everything that is named.
    fn made_up(self) -> Vec<String> {
        let named = |kind| self.literals.of(kind).map(str::to_owned);
        let mut all: Vec<String> = named("Workload").collect();
        all.extend(named("ServiceAccount").map(|id| format!("spiffe://{id}")));
        all.extend(named("Namespace").map(|id| format!("spiffe://{id}/sa/some-account")));
        for domain in named("TrustDomain") {
            all.push(format!(
                "spiffe://{domain}/ns/some-namespace/sa/some-account"
            ));
            all.push(format!("spiffe://{domain}/some/workload"));
        }
        all.push("spiffe://partner.example/ns/some-namespace/sa/some-account".to_owned());
        all
    }

    fn resource(
        self,
        model: &Env,
        uid: &EntityUid,
        same: Option<&Principal>,
    ) -> Option<ResourceRef> {
        let memberships = self.memberships(model, uid);
        let services = memberships.iter().filter(|(kind, _)| kind == "Service");
        let mut services: Vec<ServiceName> = services
            .map(|(_, id)| ServiceName::parse(id).ok())
            .collect::<Option<_>>()?;
        let workload = match (kind(uid).as_str(), same) {
            ("Workload", Some(Principal::Workload(id))) => Some(id.clone()),
            ("Workload", _) => Some(self.identity(&memberships)?),
            _ => None,
        };
        let namespace = match &workload {
            Some(id) => id.namespace_and_account()?.0,
            None => {
                let namespaces: Vec<_> = memberships
                    .iter()
                    .filter(|(kind, _)| kind == "Namespace")
                    .map(|(_, id)| id.clone())
                    .collect();
                let (service, namespace) = self.service(services.first(), &namespaces)?;
                services = vec![service];
                namespace
            }
        };
        Some(ResourceRef {
            address: None,
            namespace,
            services,
            workload,
        })
    }

    /// A service of these namespaces; one of the mesh's, if there is any.
    fn service(
        self,
        named: Option<&ServiceName>,
        namespaces: &[String],
    ) -> Option<(ServiceName, Namespace)> {
        if let Some(service) = named {
            let namespace = self.world.services.get(service)?;
            return Some((service.clone(), namespace.clone()));
        }
        let home = &self.world.home;
        let in_wanted = |namespace: &Namespace| {
            let id = format!("{home}/ns/{namespace}");
            match self.is_named("Namespace", &id) {
                true => namespaces.contains(&id),
                false => namespaces.is_empty(),
            }
        };
        let known = self.world.services.iter().find(|(service, namespace)| {
            !self.is_named("Service", service.as_str()) && in_wanted(namespace)
        });
        if let Some((service, namespace)) = known {
            return Some((service.clone(), namespace.clone()));
        }
        let namespace = match namespaces.first() {
            Some(id) => id.rsplit_once('/')?.1,
            None => "some-namespace",
        };
        let service = format!("some-service.{namespace}.svc.cluster.local");
        Some((
            ServiceName::parse(&service).ok()?,
            Namespace::parse(namespace).ok()?,
        ))
    }

    fn http(self, model: &Env, context: &Context, action: Action) -> Option<HttpContext> {
        let named = |name: &str| self.literals.attributes.contains(name);
        let path = text(&context.get("path")?)?;
        let path = match (named("path"), context.get("path_segments")) {
            (false, Some(EvalResult::Record(segments))) if named("path_segments") => {
                from_segments(&segments)?
            }
            _ if named("path") => path,
            _ => "/".to_owned(),
        };
        let method = match (action, named("method")) {
            (Action::Other, true) => text(&context.get("method")?)?,
            (Action::Other, false) => "PURGE".to_owned(),
            (declared, _) => declared.as_str().to_owned(),
        };
        let grpc = match context.get("grpc") {
            Some(EvalResult::Record(grpc)) if named("grpc") => Some(GrpcMethod {
                service: text(grpc.get("service")?)?,
                method: text(grpc.get("method")?)?,
            }),
            _ => None,
        };
        Some(HttpContext {
            grpc,
            headers: tags(model, context.get("headers").as_ref()),
            host: match named("host") {
                true => text(&context.get("host")?)?,
                false => String::new(),
            },
            method,
            path,
            query: tags(model, context.get("query").as_ref()),
        })
    }
}

fn from_segments(segments: &cedar_policy::Record) -> Option<String> {
    let count = number(segments.get("count")?)?;
    if !(0..=MAX_PARTS).contains(&count) {
        return None;
    }
    let part = |number: i64| match segments.get(format!("s{number}")) {
        Some(part) => text(part),
        None => Some("x".to_owned()),
    };
    let parts: Vec<String> = (1..=count).map(part).collect::<Option<_>>()?;
    Some(format!("/{}", parts.join("/")))
}

fn user(model: &Env, context: &Context) -> Option<User> {
    let value = context.get("user")?;
    let entity = entity(model, Some(&value))?;
    let attribute = |name| text(&entity.attr(name)?.ok()?);
    Some(User {
        claims: tags(model, Some(&value)),
        expires_at: None,
        issuer: attribute("issuer")?,
        subject: attribute("subject")?,
    })
}

fn tags(model: &Env, value: Option<&EvalResult>) -> BTreeMap<String, BTreeSet<String>> {
    let Some(entity) = entity(model, value) else {
        return BTreeMap::new();
    };
    let members = |value| match value {
        Ok(EvalResult::Set(members)) => members.iter().filter_map(text).collect(),
        _ => BTreeSet::new(),
    };
    entity
        .tags()
        .map(|(name, value)| (name.to_owned(), members(value)))
        .collect()
}

fn entity<'a>(model: &'a Env, value: Option<&EvalResult>) -> Option<&'a Entity> {
    match value {
        Some(EvalResult::EntityUid(uid)) => model.entities.get(uid),
        _ => None,
    }
}

fn kind(uid: &EntityUid) -> String {
    uid.type_name().to_string()
}

fn id(uid: &EntityUid) -> String {
    uid.id().unescaped().to_owned()
}

fn text(value: &EvalResult) -> Option<String> {
    let EvalResult::String(text) = value else {
        return None;
    };
    Some(text.clone())
}

fn number(value: &EvalResult) -> Option<i64> {
    let EvalResult::Long(number) = value else {
        return None;
    };
    Some(*number)
}

/// The argument of an extension value, such as `ip("10.0.0.1")`.
fn argument(value: &EvalResult) -> Option<&str> {
    let EvalResult::ExtensionValue(shown) = value else {
        return None;
    };
    shown.split('"').nth(1)
}

/// The address; of a range, its first.
fn address(value: &EvalResult) -> Option<std::net::IpAddr> {
    let shown = argument(value)?;
    let address = shown.split_once('/').map_or(shown, |(first, _)| first);
    address.parse().ok()
}

fn time(value: &EvalResult) -> Option<UnixTime> {
    let time: jiff::Timestamp = match argument(value) {
        Some(shown) if shown.contains('T') => shown.parse().ok()?,
        Some(shown) => format!("{shown}T00:00:00Z").parse().ok()?,
        None => return None,
    };
    Some(UnixTime::from_millis(
        u64::try_from(time.as_millisecond()).ok()?,
    ))
}
