//! External authorization: servers that are asked about some requests before the policies are (Istio's
//! `AuthorizationPolicy` with action `CUSTOM`, and `extensionProviders`).

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use super::{OnFailure, PolicySource};
use crate::ServiceName;

/// One server, and which requests of a workload it is asked about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExternalAuthorization {
    /// Who is asked.
    pub provider: ExtensionProvider,
    /// Forbids: what one of them matches is asked about; what one in shadow matches is told in the record alone.
    pub policies: Vec<PolicySource>,
}

/// A server of Envoy's `ext_authz`, version 3.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExtensionProvider {
    /// Its name in the mesh's configuration.
    pub name: String,
    /// The service that it is, called as the workload itself would call it.
    pub service: ServiceName,
    /// The service's port.
    pub port: u16,
    /// How it is asked.
    pub form: ProviderForm,
    /// How long its answer may take.
    pub timeout: Duration,
    /// What becomes of a request when there is no answer.
    pub on_failure: OnFailure,
    /// The status of a request that is refused for want of an answer.
    pub status_on_error: u16,
    /// What it is shown of a request's body; nothing if none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<BodyInCheck>,
}

/// How much of a request's body a server is shown (Istio's `includeRequestBodyInCheck`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BodyInCheck {
    /// Most bytes.
    pub max_bytes: u32,
    /// Whether of a longer body its beginning is shown; else the request is answered 413.
    pub allow_partial: bool,
    /// Whether gRPC has it as bytes and not as text.
    pub as_bytes: bool,
}

/// How a server is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProviderForm {
    /// `envoy.service.auth.v3.Authorization/Check`.
    Grpc,
    /// The request's own method and path, without its body.
    Http(HttpCheck),
}

/// What an HTTP server is told, and what of its answer counts. Names are in lower case.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpCheck {
    /// Before the path.
    pub path_prefix: String,
    /// The request's headers that it is shown.
    pub shown: Vec<NamePattern>,
    /// Headers that it is sent besides.
    pub added: BTreeMap<String, String>,
    /// Headers of an answer that allows, which replace the request's.
    pub upstream_on_allow: Vec<NamePattern>,
    /// Headers of an answer that allows, which the caller gets with the response.
    pub downstream_on_allow: Vec<NamePattern>,
    /// Headers of an answer that denies, which the caller gets; none named: all.
    pub downstream_on_deny: Vec<NamePattern>,
}

/// Names of headers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NamePattern {
    /// This one.
    Exact(String),
    /// Those that begin so.
    Prefix(String),
    /// Those that end so.
    Suffix(String),
}

impl NamePattern {
    /// Whether `name`, in lower case, is one of them.
    pub fn matches(&self, name: &str) -> bool {
        match self {
            Self::Exact(own) => name == own,
            Self::Prefix(start) => name.starts_with(start.as_str()),
            Self::Suffix(end) => name.ends_with(end.as_str()),
        }
    }
}
