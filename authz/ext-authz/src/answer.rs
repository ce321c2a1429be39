//! What is answered: as little as the data path tells its own callers.

use http::{HeaderName, HeaderValue, StatusCode, header};
use reeve_core::decision::Reason;
use reeve_proxy::inquiry::Changes;
use serde_json::json;

/// The opaque id of a decision's record.
pub(crate) const DECISION_ID: HeaderName = HeaderName::from_static("x-reeve-decision-id");

/// What answers say beside the verdict.
#[derive(Clone, Debug, Default)]
pub struct AnswerOptions {
    /// Headers that every allowed request is given.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// Headers that every allowed request loses.
    pub remove: Vec<HeaderName>,
    /// Whether the application is told the decision's id.
    pub tell_application: bool,
}

impl AnswerOptions {
    /// Everything that an allowed request is given.
    pub(crate) fn all_set(
        &self,
        changes: &Changes,
        decision_id: &str,
    ) -> Vec<(HeaderName, HeaderValue)> {
        let mut set = changes.set.clone();
        set.extend(self.set.iter().cloned());
        if let (true, Ok(id)) = (self.tell_application, HeaderValue::try_from(decision_id)) {
            set.push((DECISION_ID, id));
        }
        set
    }
}

/// A refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Denial {
    pub(crate) status: StatusCode,
    /// One word for programs.
    pub(crate) error: &'static str,
    pub(crate) decision_id: Option<String>,
}

impl Denial {
    fn new(status: StatusCode, error: &'static str) -> Self {
        Self {
            status,
            error,
            decision_id: None,
        }
    }

    /// A recorded decision.
    pub(crate) fn because(reason: Reason, decision_id: String) -> Self {
        let denial = if reason == Reason::InvalidToken {
            Self::new(StatusCode::UNAUTHORIZED, "invalid_token")
        } else if reason == Reason::AmbiguousPath {
            Self::new(StatusCode::BAD_REQUEST, "ambiguous_path")
        } else {
            Self::new(StatusCode::FORBIDDEN, "denied")
        };
        Self {
            decision_id: Some(decision_id),
            ..denial
        }
    }

    /// The question cannot be read.
    pub(crate) fn malformed() -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request")
    }

    /// Too many questions at once.
    pub(crate) fn overloaded() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded")
    }

    /// The decision cannot be recorded, so there is none.
    pub(crate) fn not_recorded() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "not_recorded")
    }

    /// There is no configuration yet.
    pub(crate) fn not_ready() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "not_ready")
    }

    /// The headers of the answer to the caller.
    pub(crate) fn headers(&self) -> Vec<(HeaderName, String)> {
        let mut headers = vec![(header::CONTENT_TYPE, "application/json".to_owned())];
        if let Some(id) = &self.decision_id {
            headers.push((DECISION_ID, id.clone()));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            // RFC 6750 section 3.
            let challenge = "Bearer error=\"invalid_token\"";
            headers.push((header::WWW_AUTHENTICATE, challenge.to_owned()));
        }
        headers
    }

    /// The body of the answer to the caller.
    pub(crate) fn body(&self) -> String {
        let body = match &self.decision_id {
            Some(id) => json!({"error": self.error, "decision_id": id}),
            None => json!({"error": self.error}),
        };
        format!("{body}\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_a_word_and_an_id() {
        let id = "d".repeat(300);
        for (reason, status, word) in [
            (Reason::NoPermit, 403, "denied"),
            (Reason::Forbidden, 403, "denied"),
            (Reason::ForbidError, 403, "denied"),
            (Reason::NotInRegistry, 403, "denied"),
            (Reason::InvalidToken, 401, "invalid_token"),
            (Reason::AmbiguousPath, 400, "ambiguous_path"),
        ] {
            let denial = Denial::because(reason, id.clone());
            assert_eq!(denial.status.as_u16(), status);
            let told: serde_json::Value = serde_json::from_str(&denial.body()).unwrap();
            assert_eq!(told, json!({"error": word, "decision_id": id}));
            assert!(denial.body().len() <= 512);
            let headers = denial.headers();
            let bytes: usize = headers
                .iter()
                .map(|(n, v)| n.as_str().len() + v.len())
                .sum();
            assert!(bytes <= 512, "{headers:?}");
        }
        assert_eq!(
            Denial::not_recorded().body(),
            "{\"error\":\"not_recorded\"}\n"
        );
    }
}
