//! A record as columns see it: read from its canonical JSON without copying.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, value::MapAccessDeserializer},
};

/// What columns are made of; what a record's kind lacks is absent.
#[derive(Debug, Deserialize)]
pub(crate) struct Row<'a> {
    #[serde(borrow)]
    pub(crate) id: Cow<'a, str>,
    pub(crate) time: i64,
    #[serde(borrow)]
    pub(crate) kind: Cow<'a, str>,
    #[serde(borrow, default)]
    pub(crate) request: Option<Request<'a>>,
    #[serde(borrow, default)]
    decision: Option<Decided<'a>>,
    #[serde(borrow, default)]
    pub(crate) authenticated_by: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(crate) direction: Option<Cow<'a, str>>,
    #[serde(default)]
    pub(crate) generation: Option<i64>,
    #[serde(borrow, default)]
    pub(crate) policy_hash: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(crate) mtls_mode: Option<Cow<'a, str>>,
    #[serde(default)]
    pub(crate) strict_would_refuse: Option<bool>,
    #[serde(borrow, default)]
    pub(crate) trace_id: Option<Cow<'a, str>>,
    #[serde(default)]
    pub(crate) cost_us: Option<i64>,
    #[serde(default)]
    pub(crate) status: Option<i32>,
    #[serde(default)]
    pub(crate) bytes_in: Option<i64>,
    #[serde(default)]
    pub(crate) bytes_out: Option<i64>,
    #[serde(default)]
    pub(crate) duration_us: Option<i64>,
    #[serde(borrow, default)]
    pub(crate) flags: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(crate) event: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(crate) subject: Option<Cow<'a, str>>,
    #[serde(default)]
    pub(crate) count: Option<i64>,
}

/// The question of a decision.
#[derive(Debug, Deserialize)]
pub(crate) struct Request<'a> {
    #[serde(borrow)]
    pub(crate) action: Cow<'a, str>,
    #[serde(borrow)]
    pub(crate) context: Context<'a>,
    #[serde(borrow)]
    principal: Principal<'a>,
    #[serde(borrow)]
    pub(crate) resource: Resource<'a>,
    #[serde(borrow, default)]
    pub(crate) user: Option<User<'a>>,
}

/// Its circumstances.
#[derive(Debug, Deserialize)]
pub(crate) struct Context<'a> {
    #[serde(borrow, default)]
    pub(crate) http: Option<Http<'a>>,
    pub(crate) port: i32,
    #[serde(borrow)]
    pub(crate) source_ip: Cow<'a, str>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Http<'a> {
    #[serde(borrow)]
    pub(crate) host: Cow<'a, str>,
    #[serde(borrow)]
    pub(crate) path: Cow<'a, str>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Resource<'a> {
    #[serde(borrow)]
    pub(crate) namespace: Cow<'a, str>,
    #[serde(borrow)]
    pub(crate) services: Vec<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(crate) workload: Option<Cow<'a, str>>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct User<'a> {
    #[serde(borrow)]
    pub(crate) issuer: Cow<'a, str>,
    #[serde(borrow)]
    pub(crate) subject: Cow<'a, str>,
}

/// `"unauthenticated"`, or a workload's SPIFFE ID.
#[derive(Debug)]
struct Principal<'a>(Cow<'a, str>);

/// The answer of a decision; in an outcome, the decision's id.
#[derive(Debug)]
enum Decided<'a> {
    Answer(Answer<'a>),
    Id(Cow<'a, str>),
}

/// A decision's answer.
#[derive(Debug, Deserialize)]
pub(crate) struct Answer<'a> {
    #[serde(borrow)]
    pub(crate) effect: Cow<'a, str>,
    #[serde(borrow)]
    pub(crate) reason: Cow<'a, str>,
    #[serde(borrow, default)]
    pub(crate) policies: Vec<Cow<'a, str>>,
}

/// A record id's parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Id<'a> {
    pub(crate) proxy: &'a str,
    pub(crate) epoch: i64,
    pub(crate) worker: i32,
    pub(crate) sequence: i64,
}

impl Row<'_> {
    pub(crate) fn answer(&self) -> Option<&Answer<'_>> {
        match &self.decision {
            Some(Decided::Answer(answer)) => Some(answer),
            Some(Decided::Id(_)) | None => None,
        }
    }

    /// The decision that an outcome is of.
    pub(crate) fn outcome_of(&self) -> Option<Id<'_>> {
        match &self.decision {
            Some(Decided::Id(id)) => Id::parse(id),
            Some(Decided::Answer(_)) | None => None,
        }
    }

    pub(crate) fn principal(&self) -> Option<&str> {
        self.request.as_ref().map(|r| r.principal.0.as_ref())
    }

    pub(crate) fn http(&self) -> Option<&Http<'_>> {
        self.request.as_ref()?.context.http.as_ref()
    }
}

impl<'a> Id<'a> {
    pub(crate) fn parse(text: &'a str) -> Option<Self> {
        let mut parts = text.split('/');
        Some(Self {
            proxy: parts.next()?,
            epoch: parts.next()?.parse().ok()?,
            worker: parts.next()?.parse().ok()?,
            sequence: parts.next()?.parse().ok()?,
        })
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Principal<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "snake_case")]
        enum Form<'a> {
            #[serde(borrow)]
            Workload(Cow<'a, str>),
            Unauthenticated,
        }
        Ok(Self(match Form::deserialize(deserializer)? {
            Form::Workload(id) => id,
            Form::Unauthenticated => Cow::Borrowed("unauthenticated"),
        }))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Decided<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(DecidedVisitor)
    }
}

struct DecidedVisitor;

impl<'de> de::Visitor<'de> for DecidedVisitor {
    type Value = Decided<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a decision or a decision's id")
    }

    fn visit_borrowed_str<E: de::Error>(self, id: &'de str) -> Result<Self::Value, E> {
        Ok(Decided::Id(Cow::Borrowed(id)))
    }

    fn visit_str<E: de::Error>(self, id: &str) -> Result<Self::Value, E> {
        Ok(Decided::Id(Cow::Owned(id.to_owned())))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        Answer::deserialize(MapAccessDeserializer::new(map)).map(Decided::Answer)
    }
}
