//! One Cedar evaluation on given policies, schema, entities and request, all in Cedar's own text or JSON forms.
//!
//! The decision is the data path's: a `forbid` that fails to evaluate denies, where plain Cedar would skip it. Ask
//! with `"on_forbid_error": "skip"` for plain Cedar's.

use std::{borrow::Cow, fmt::Display};

use cedar_policy::{
    Context, Entities, EntityUid, PolicySet, Request, Schema, ValidationMode, Validator, ffi,
};
use reeve_core::decision::{Effect, Reason};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use crate::judge::OnForbidError;
use crate::{bounds, judge::judge};

/// What to evaluate.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvalInput {
    /// Cedar text, or Cedar's JSON: a policy set (`staticPolicies`, `templates`, `templateLinks`), one policy, an array
    /// of policies, or an object of policies by id. Policies without an id of their own are `policy0`, `policy1`, ….
    pub policies: Value,
    /// Cedar schema text or JSON; absent = nothing is validated.
    #[serde(default)]
    pub schema: Option<Value>,
    /// Cedar's JSON array of entities, or that as text.
    #[serde(default)]
    pub entities: Option<Value>,
    /// `principal`, `action`, `resource` (`User::"alice"` or `{"type", "id"}`) and `context`; the form that
    /// `cedar authorize --request-json` takes.
    pub request: EvalRequest,
    /// What a `forbid` that fails to evaluate does.
    #[serde(default)]
    pub on_forbid_error: OnForbidError,
}

/// A request in Cedar's JSON.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct EvalRequest {
    /// Who.
    pub principal: Value,
    /// Does what.
    pub action: Value,
    /// To what.
    pub resource: Value,
    /// In which circumstances.
    #[serde(default)]
    pub context: Option<Value>,
    /// Whether the request must fit the schema, if there is one.
    #[serde(default = "yes", alias = "validate_request")]
    pub validate_request: bool,
}

fn yes() -> bool {
    true
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EvalOutput {
    /// `allow` or `deny`.
    pub decision: Effect,
    /// Why, in one word.
    pub reason: Reason,
    /// Ids of the determining policies, ordered.
    pub reasons: Vec<String>,
    /// Policies that failed to evaluate, ordered.
    pub errors: Vec<EvalMessage>,
    /// Findings of strict validation, errors and warnings; empty without a schema.
    pub validation: Vec<EvalMessage>,
}

/// A message about one policy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct EvalMessage {
    /// Which policy.
    pub policy: String,
    /// What Cedar says.
    pub message: String,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{part}: {message}")]
pub struct EvalFault {
    /// The part of the input that cannot be read: `policies`, `schema`, `entities`, `request`.
    pub part: &'static str,
    /// What is wrong with it.
    pub message: String,
}

/// Evaluates.
pub fn eval(input: &EvalInput) -> Result<EvalOutput, EvalFault> {
    let schema = input.schema.as_ref().map(parse_schema).transpose()?;
    let policies = parse_policies(&input.policies)?;
    let entities = parse_entities(input.entities.as_ref(), schema.as_ref())?;
    let request = parse_request(&input.request, schema.as_ref())?;
    let validation = schema.map_or_else(Vec::new, |schema| validate(schema, &policies));

    let judgement = judge(&request, &policies, &entities, input.on_forbid_error);
    let errors = judgement
        .errors
        .into_iter()
        .map(|(id, message)| EvalMessage {
            policy: id.to_string(),
            message,
        });
    Ok(EvalOutput {
        decision: judgement.effect,
        reason: judgement.reason,
        reasons: judgement.policies.iter().map(ToString::to_string).collect(),
        errors: errors.collect(),
        validation,
    })
}

fn fault(part: &'static str) -> impl FnOnce(Box<dyn Display>) -> EvalFault {
    move |error| EvalFault {
        part,
        message: error.to_string(),
    }
}

fn parse_schema(schema: &Value) -> Result<Schema, EvalFault> {
    check_texts(schema, "schema")?;
    let parsed = match schema {
        Value::String(text) if !text.trim_start().starts_with('{') => {
            Schema::from_cedarschema_str(text)
                .map(|(schema, _)| schema)
                .map_err(detailed)
        }
        Value::String(json) => Schema::from_json_str(json).map_err(detailed),
        json @ (Value::Null
        | Value::Bool(_)
        | Value::Number(_)
        | Value::Array(_)
        | Value::Object(_)) => Schema::from_json_value(json.clone()).map_err(detailed),
    };
    parsed.map_err(fault("schema"))
}

/// Cedar's message with what it blames on.
fn detailed<E>(error: E) -> Box<dyn Display>
where
    for<'e> ffi::DetailedError: From<&'e E>,
{
    let detailed = ffi::DetailedError::from(&error);
    Box::new(match detailed.help {
        Some(help) => format!("{} ({help})", detailed.message),
        None => detailed.message,
    })
}

/// Bounds every text within, however it is wrapped; JSON itself was bounded when it was read.
fn check_texts(value: &Value, part: &'static str) -> Result<(), EvalFault> {
    match value {
        Value::String(text) => bounds::check(text).map_err(|e| fault(part)(Box::new(e))),
        Value::Array(items) => items.iter().try_for_each(|v| check_texts(v, part)),
        Value::Object(members) => members.values().try_for_each(|v| check_texts(v, part)),
        Value::Null | Value::Bool(_) | Value::Number(_) => Ok(()),
    }
}

fn parse_policies(policies: &Value) -> Result<PolicySet, EvalFault> {
    check_texts(policies, "policies")?;
    if let Value::String(text) = policies {
        // Templates are fine in text: without links they decide nothing.
        return text
            .parse()
            .map_err(|e| fault("policies")(detailed::<cedar_policy::ParseErrors>(e)));
    }
    let set: ffi::PolicySet = serde_json::from_value(policy_set(policies).into_owned())
        .map_err(|e| fault("policies")(Box::new(e)))?;
    set.parse().map_err(|reports| {
        let messages: Vec<_> = reports
            .into_iter()
            .map(|report| ffi::DetailedError::from(report).message)
            .collect();
        fault("policies")(Box::new(messages.join("; ")))
    })
}

/// Any of Cedar's JSON forms as a policy set.
fn policy_set(policies: &Value) -> Cow<'_, Value> {
    let of = |policies: Value| {
        Cow::Owned(Value::Object(Map::from_iter([(
            "staticPolicies".to_owned(),
            policies,
        )])))
    };
    match policies {
        Value::Array(list) => {
            let named = list.iter().enumerate();
            of(named
                .map(|(n, policy)| (format!("policy{n}"), policy.clone()))
                .collect())
        }
        Value::Object(members) if members.contains_key("effect") => of(Value::Object(
            Map::from_iter([("policy0".to_owned(), policies.clone())]),
        )),
        Value::Object(members)
            if !["staticPolicies", "templates", "templateLinks"]
                .iter()
                .any(|name| members.contains_key(*name)) =>
        {
            of(policies.clone())
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => {
            Cow::Borrowed(policies)
        }
    }
}

fn parse_entities(
    entities: Option<&Value>,
    schema: Option<&Schema>,
) -> Result<Entities, EvalFault> {
    let parsed = match entities {
        None => Entities::from_json_str("[]", schema),
        Some(Value::String(json)) => Entities::from_json_str(json, schema),
        Some(json) => Entities::from_json_value(json.clone(), schema),
    };
    parsed.map_err(|e| fault("entities")(detailed(e)))
}

fn parse_request(request: &EvalRequest, schema: Option<&Schema>) -> Result<Request, EvalFault> {
    let principal = parse_uid(&request.principal)?;
    let action = parse_uid(&request.action)?;
    let resource = parse_uid(&request.resource)?;
    let with_action = schema.map(|schema| (schema, &action));
    let context = match &request.context {
        None => Context::empty(),
        Some(json) => Context::from_json_value(json.clone(), with_action)
            .map_err(|e| fault("request")(detailed(e)))?,
    };
    let schema = schema.filter(|_| request.validate_request);
    Request::new(principal, action, resource, context, schema)
        .map_err(|e| fault("request")(detailed(e)))
}

/// `User::"alice"`, `{"type": "User", "id": "alice"}` or that in `__entity`.
fn parse_uid(uid: &Value) -> Result<EntityUid, EvalFault> {
    if let Value::String(text) = uid {
        return text
            .parse()
            .map_err(|e| fault("request")(detailed::<cedar_policy::ParseErrors>(e)));
    }
    EntityUid::from_json(uid.clone()).map_err(|e| fault("request")(Box::new(e)))
}

fn validate(schema: Schema, policies: &PolicySet) -> Vec<EvalMessage> {
    let result = Validator::new(schema).validate(policies, ValidationMode::Strict);
    let errors = result.validation_errors().map(|e| EvalMessage {
        policy: e.policy_id().to_string(),
        message: e.to_string(),
    });
    let warnings = result.validation_warnings().map(|w| EvalMessage {
        policy: w.policy_id().to_string(),
        message: w.to_string(),
    });
    let mut all: Vec<_> = errors.chain(warnings).collect();
    all.sort();
    all
}

#[cfg(test)]
mod tests;
