//! The parameters that were given, read as what they mean.

use std::collections::BTreeMap;

use jiff::{Timestamp, civil::Date, tz::TimeZone};
use reeve_authz::{Known, nearest};
use reeve_control::{Mesh, Service};
use reeve_core::{Namespace, ServiceAccount, ServiceName, SpiffeId, TrustDomain, decision::Action};
use serde_json::{Value, json};

use super::{super::explain::full_name, Intent, groups, parts::claim_condition};
use crate::problem::Problem;

/// What the builder of an intent has to go by.
pub(super) struct Given<'a> {
    /// The mesh whose things are named, if one is at hand.
    pub(super) mesh: Option<(&'a Mesh, &'a Known)>,
    pub(super) domain: TrustDomain,
    /// Asked for by the command line.
    pub(super) namespace: Option<Namespace>,
    pub(super) values: BTreeMap<&'static str, String>,
}

/// What a policy protects.
#[derive(Debug)]
pub(super) struct Target {
    /// As a resource of a policy's scope.
    pub(super) scope: String,
    pub(super) namespace: Namespace,
    /// Its short name.
    pub(super) name: String,
    /// A resource for cases.
    pub(super) sample: Value,
    /// A port for cases.
    pub(super) port: u16,
    /// Whether it speaks no HTTP.
    pub(super) is_tcp: bool,
}

impl Target {
    /// What it is asked for where nothing else is said.
    pub(super) fn action(&self) -> Action {
        match self.is_tcp {
            true => Action::Connect,
            false => Action::Get,
        }
    }
}

/// Who calls.
#[derive(Debug)]
pub(super) struct Caller {
    pub(super) among: Among,
    /// A member, for cases.
    pub(super) sample: SpiffeId,
    /// As it was given.
    pub(super) shown: String,
}

/// What tells a caller.
#[derive(Debug)]
pub(super) enum Among {
    /// It is this entity.
    Exactly(String),
    /// It is in this entity.
    In(String),
    /// A label of its workload's has this value.
    Labelled(String, String),
}

/// What tells an end user who has a role.
pub(super) struct Role {
    pub(super) issuer: String,
    pub(super) claim: String,
    /// What the claim has to hold.
    pub(super) value: String,
    /// As a condition of a policy.
    pub(super) condition: String,
}

/// The values of `intent`'s parameters, defaults included.
pub(super) fn values(
    intent: &Intent,
    params: &[(String, String)],
) -> Result<BTreeMap<&'static str, String>, Problem> {
    let mut values = BTreeMap::new();
    for (name, value) in params {
        let Some(param) = intent.params.iter().find(|p| p.name == name) else {
            let known: Vec<_> = intent.params.iter().map(|p| p.name).collect();
            let near = nearest(name, known.iter().copied());
            let fix = near.map(|near| format!("did you mean {near}?"));
            let fix = fix.unwrap_or_else(|| format!("it has: {}", known.join(", ")));
            return Err(wrong(format!("{} has no parameter {name}", intent.name)).fix(fix));
        };
        if value.trim().is_empty() {
            return Err(wrong(format!("{name} is empty")));
        }
        if values.insert(param.name, value.clone()).is_some() {
            return Err(wrong(format!("{name} is given twice"))
                .fix("write several values with commas between them"));
        }
    }
    for param in intent.params {
        match (values.contains_key(param.name), param.default) {
            (false, Some(default)) => drop(values.insert(param.name, default.to_owned())),
            (false, None) if param.required => {
                return Err(wrong(format!("{} needs {}", intent.name, param.name))
                    .fix(format!("add --param {}=… ({})", param.name, param.about)));
            }
            _ => {}
        }
    }
    Ok(values)
}

/// A parameter that makes no sense.
pub(super) fn wrong(what: impl std::fmt::Display) -> Problem {
    Problem::new(what).into_answer()
}

/// A text as a string of Cedar.
pub(super) fn quoted(text: &str) -> Result<String, Problem> {
    if text.chars().any(char::is_control) {
        return Err(wrong(format!("{text:?} has control characters")));
    }
    Ok(format!(
        "\"{}\"",
        text.replace('\\', "\\\\").replace('"', "\\\"")
    ))
}

impl Given<'_> {
    /// The value of a parameter, or its default.
    pub(super) fn value(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    /// The value of a parameter that is there.
    pub(super) fn text(&self, name: &str) -> &str {
        self.value(name).unwrap_or_default()
    }

    /// The values between commas.
    pub(super) fn list(&self, name: &str) -> Vec<&str> {
        let values = self.text(name).split(',').map(str::trim);
        values.filter(|value| !value.is_empty()).collect()
    }

    /// `service` or `namespace`: exactly one of them.
    pub(super) fn target(&self) -> Result<Target, Problem> {
        match (self.value("service"), self.value("namespace")) {
            (Some(service), None) => self.service(service),
            (None, Some(namespace)) => self.whole_namespace(namespace),
            _ => Err(wrong("either service or namespace says what it is about")),
        }
    }

    /// The service that is named.
    pub(super) fn service(&self, name: &str) -> Result<Target, Problem> {
        let full = full_name(name);
        let host = ServiceName::parse(&full).map_err(|e| wrong(format!("service: {e}")))?;
        let service = match &self.mesh {
            Some((mesh, known)) => Some(found(&host, mesh, known)?),
            None => None,
        };
        let labels: Vec<&str> = full.split('.').collect();
        let namespace = match (service, labels.as_slice()) {
            (Some(service), _) => service.namespace.clone(),
            (None, [_, namespace, "svc", ..]) => {
                Namespace::parse(namespace).map_err(|e| wrong(format!("service: {e}")))?
            }
            (None, _) => match &self.namespace {
                Some(namespace) => namespace.clone(),
                None => {
                    return Err(wrong(format!("{host} says no namespace")).fix("add --namespace"));
                }
            },
        };
        let short = service.map_or_else(|| full.clone(), |s| s.name.clone());
        let short = short.split('.').next().unwrap_or_default().to_owned();
        let protocols = service.map(|s| s.ports.iter().map(|p| p.protocol.is_http()));
        Ok(Target {
            scope: format!("resource in Service::{:?}", host.as_str()),
            sample: self.sample(&host, &namespace, service, &short),
            port: service.and_then(|s| s.ports.first()).map_or(80, |p| p.port),
            is_tcp: protocols.is_some_and(|mut p| p.len() > 0 && !p.any(|http| http)),
            name: short,
            namespace,
        })
    }

    fn sample(
        &self,
        host: &ServiceName,
        namespace: &Namespace,
        service: Option<&Service>,
        short: &str,
    ) -> Value {
        let alone = json!({"namespace": namespace, "services": [host]});
        let workload = match (&self.mesh, service) {
            (Some((mesh, _)), Some(service)) => {
                let mut behind = mesh.workloads.iter().filter(|w| service.selects(w));
                behind.find_map(|w| w.identity.clone())
            }
            _ => ServiceAccount::parse(short)
                .ok()
                .map(|account| self.domain.workload(namespace, &account)),
        };
        match workload {
            Some(id) => json!({"workload": id, "namespace": namespace, "services": [host]}),
            None => alone,
        }
    }

    /// The namespace that is named, which must be there.
    pub(super) fn namespace_id(&self, name: &str) -> Result<(Namespace, String), Problem> {
        let namespace = Namespace::parse(name).map_err(|e| wrong(format!("namespace: {e}")))?;
        let id = format!("{}/ns/{namespace}", self.domain);
        self.known("Namespace", &id, name)?;
        Ok((namespace, id))
    }

    fn whole_namespace(&self, name: &str) -> Result<Target, Problem> {
        let (namespace, id) = self.namespace_id(name)?;
        let host = format!("anything.{namespace}.svc.cluster.local");
        let account = ServiceAccount::parse("anything").map_err(Problem::new)?;
        let workload = self.domain.workload(&namespace, &account);
        Ok(Target {
            scope: format!("resource in Namespace::{id:?}"),
            sample: json!({"workload": workload, "namespace": namespace, "services": [host]}),
            port: 80,
            is_tcp: false,
            name: namespace.to_string(),
            namespace,
        })
    }

    /// Callers: SPIFFE IDs, service accounts (`web`, `shop/web`), namespaces (`namespace:shop`), groups of the mesh's own
    /// (`Team::books`) and labels (`label:app=web`).
    pub(super) fn callers(&self, param: &str, home: &Namespace) -> Result<Vec<Caller>, Problem> {
        let each = self.list(param);
        each.into_iter()
            .map(|text| self.caller(text, home))
            .collect()
    }

    fn caller(&self, text: &str, home: &Namespace) -> Result<Caller, Problem> {
        if text.starts_with("spiffe://") {
            let id = SpiffeId::parse(text).map_err(|e| wrong(format!("{text}: {e}")))?;
            self.known("Workload", text, text)?;
            return Ok(Caller {
                among: Among::Exactly(format!("Workload::{text:?}")),
                shown: text.to_owned(),
                sample: id,
            });
        }
        let anybody = ServiceAccount::parse("anybody").map_err(Problem::new)?;
        if let Some(name) = text.strip_prefix("namespace:") {
            let (namespace, id) = self.namespace_id(name)?;
            return Ok(Caller {
                among: Among::In(format!("Namespace::{id:?}")),
                shown: text.to_owned(),
                sample: self.domain.workload(&namespace, &anybody),
            });
        }
        if let Some(label) = text.strip_prefix("label:") {
            return groups::labelled(self, label, text);
        }
        if let Some((kind, id)) = text.split_once("::") {
            return groups::of_group(self, kind, id.trim_matches('"'), text);
        }
        let (namespace, account) = text.split_once('/').unwrap_or((home.as_str(), text));
        let parsed = (Namespace::parse(namespace), ServiceAccount::parse(account));
        let (Ok(namespace), Ok(account)) = parsed else {
            return Err(wrong(format!("{text} is no caller")).fix(
                "write a service account (web, or shop/web), a SPIFFE ID, namespace:shop, Team::books or label:app=web",
            ));
        };
        let id = format!("{}/ns/{namespace}/sa/{account}", self.domain);
        self.known("ServiceAccount", &id, text)?;
        Ok(Caller {
            among: Among::In(format!("ServiceAccount::{id:?}")),
            shown: text.to_owned(),
            sample: self.domain.workload(&namespace, &account),
        })
    }

    /// Refuses what is not in the mesh, if there is one.
    fn known(&self, kind: &str, id: &str, shown: &str) -> Result<(), Problem> {
        let Some((_, known)) = &self.mesh else {
            return Ok(());
        };
        // What other trust domains have is not for this folder to say.
        let own = id.trim_start_matches("spiffe://");
        if !own.starts_with(&format!("{}/", known.home())) || known.has(kind, id) {
            return Ok(());
        }
        Err(unknown(known, kind, id, shown))
    }

    /// `role`: a value of `claim` in tokens of `issuer`, or a group of end users.
    pub(super) fn role(&self) -> Result<Role, Problem> {
        let role = self.text("role");
        if let Some((kind, id)) = role.split_once("::") {
            return groups::of_users(self, kind, id.trim_matches('"'));
        }
        let (issuer, claim) = (self.text("issuer"), self.text("claim"));
        if issuer.is_empty() {
            return Err(
                wrong("a claim is worth what its issuer is").fix("add --param issuer=… (iss)")
            );
        }
        Ok(Role {
            condition: claim_condition(issuer, claim, role)?,
            issuer: issuer.to_owned(),
            claim: claim.to_owned(),
            value: role.to_owned(),
        })
    }

    /// HTTP methods, or `connect`.
    pub(super) fn methods(&self, target: &Target) -> Result<Vec<Action>, Problem> {
        if target.is_tcp && self.value("methods").is_none() {
            return Ok(vec![Action::Connect]);
        }
        let named = match self.value("methods") {
            Some(_) => self.list("methods"),
            None => vec!["GET"],
        };
        let parsed = named.into_iter().map(|name| {
            let exact = name.parse::<Action>();
            exact
                .or_else(|_| name.to_ascii_uppercase().parse())
                .map_err(|_| {
                    wrong(format!("{name} is no method")).fix("write GET, POST, … or connect")
                })
        });
        parsed.collect()
    }

    /// A date at whose end, or a time at which, something ends: as written, and the instant.
    pub(super) fn until(&self) -> Result<(String, Timestamp), Problem> {
        let text = self.text("until");
        let end_of_day = |date: Date| {
            let next = date.tomorrow().ok()?;
            Some(next.to_zoned(TimeZone::UTC).ok()?.timestamp())
        };
        let instant = text.parse::<Timestamp>().ok();
        let instant = instant.or_else(|| end_of_day(text.parse().ok()?));
        let instant = instant.ok_or_else(|| {
            wrong(format!("{text} is not a date"))
                .fix("write a date such as 2030-12-31, or a time such as 2030-12-31T18:00:00Z")
        })?;
        Ok((text.to_owned(), instant))
    }

    /// A time of day as minutes since midnight.
    pub(super) fn time_of_day(&self, param: &str) -> Result<u16, Problem> {
        let text = self.text(param);
        minutes(text).filter(|m| *m <= 24 * 60).ok_or_else(|| {
            wrong(format!("{param}: {text} is no time of day")).fix("write 08:00 or 17:30")
        })
    }

    /// An offset from UTC in minutes.
    pub(super) fn utc_offset(&self) -> Result<i32, Problem> {
        let text = self.text("utc-offset");
        let (sign, rest) = match text.split_at_checked(1) {
            Some(("-", rest)) => (-1, rest),
            Some(("+", rest)) => (1, rest),
            _ => (1, text),
        };
        let found = minutes(rest).filter(|m| *m <= 14 * 60);
        found.map(|m| sign * i32::from(m)).ok_or_else(|| {
            wrong(format!("utc-offset: {text} is no offset")).fix("write +02:00 or -05:30")
        })
    }
}

/// `08:30` in minutes.
fn minutes(text: &str) -> Option<u16> {
    let (hours, minutes) = text.split_once(':')?;
    let (hours, minutes): (u16, u16) = (hours.parse().ok()?, minutes.parse().ok()?);
    (hours <= 24 && minutes < 60).then_some(hours * 60 + minutes)
}

fn found<'m>(host: &ServiceName, mesh: &'m Mesh, known: &Known) -> Result<&'m Service, Problem> {
    let service = mesh.services.values().find(|s| s.host == *host);
    service
        .map(AsRef::as_ref)
        .ok_or_else(|| unknown(known, "Service", host.as_str(), host.as_str()))
}

fn unknown(known: &Known, kind: &str, id: &str, shown: &str) -> Problem {
    let what = match kind {
        "Service" => "service",
        "Namespace" => "namespace",
        "ServiceAccount" => "service account",
        _ => "workload",
    };
    let fix = match known.nearest(kind, id) {
        Some(near) => format!("did you mean {near}?"),
        None => {
            let all: Vec<_> = known.ids(kind).collect();
            format!("there are: {}", all.join(", "))
        }
    };
    wrong(format!("the mesh has no {what} {shown}")).fix(fix)
}
