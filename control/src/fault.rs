//! Faults and warnings in configuration: what is wrong, exactly where, and what to do about it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One finding about one place in the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// Whether the document is refused because of it.
    pub severity: Severity,
    /// What sort of fault it is; stable, for scripts.
    pub code: Code,
    /// The file, relative to the configuration folder.
    pub file: String,
    /// Line in the file, from 1.
    pub line: usize,
    /// Kind of the document, as far as it could be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Its namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The place within the document, such as `spec.http[0].route[1].weight`; empty for the document as a whole.
    pub path: String,
    /// What is wrong.
    pub text: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// How bad a [`Fault`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Accepted, but likely not what was meant.
    Warning,
    /// The configuration is refused.
    Error,
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// What sort of fault it is.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum Code {
            $($(#[$doc])* #[serde(rename = $text)] $name,)*
        }

        impl Code {
            /// The stable word for it.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

codes! {
    /// A file or folder cannot be read.
    Unreadable = "unreadable",
    /// A file, document or value is over its size limit.
    TooLarge = "too-large",
    /// Not YAML.
    Syntax = "syntax",
    /// A mapping has a key twice.
    DuplicateKey = "duplicate-key",
    /// A kind we do not know.
    UnknownKind = "unknown-kind",
    /// A kind we know under another `apiVersion`.
    UnknownVersion = "unknown-version",
    /// A field that the kind does not have.
    UnknownField = "unknown-field",
    /// A kind, field or value that exists, but that this version does not support.
    Unsupported = "unsupported",
    /// A required field is missing.
    Missing = "missing",
    /// A value of the wrong type.
    WrongType = "wrong-type",
    /// A value that its field does not allow.
    Invalid = "invalid",
    /// Two objects of one kind, namespace and name.
    DuplicateObject = "duplicate-object",
    /// Two things claim one place: a port, an instance name, a virtual host.
    Conflict = "conflict",
    /// A host, subset, port, gateway or account that is referred to is not there.
    UnknownReference = "unknown-reference",
    /// A route that can never be taken.
    Unreachable = "unreachable",
    /// A Cedar policy that does not parse or validate.
    Policy = "policy",
    /// More instances or services than addresses.
    Exhausted = "exhausted",
    /// Its end is near.
    Expiring = "expiring",
    /// It has ended.
    Expired = "expired",
    /// Something insecure is asked for.
    Insecure = "insecure",
    /// It would open a namespace that is locked.
    Locked = "locked",
    /// Nothing is configured at all.
    Empty = "empty",
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Fault {
    /// Whether the configuration is refused because of it.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

impl fmt::Display for Fault {
    /// `reviews.yaml:12: error[unknown-field] VirtualService default/reviews spec.http[0].mtach: …`, then the hint.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Warning => "warning",
            Severity::Error => "error",
        };
        write!(f, "{}:{}: {severity}[{}]", self.file, self.line, self.code)?;
        if let Some(kind) = &self.kind {
            write!(f, " {kind}")?;
        }
        match (&self.namespace, &self.name) {
            (Some(namespace), Some(name)) => write!(f, " {namespace}/{name}")?,
            (None, Some(name)) => write!(f, " {name}")?,
            (_, None) => {}
        }
        if !self.path.is_empty() {
            write!(f, " {}", self.path)?;
        }
        write!(f, ": {}", self.text)?;
        match &self.hint {
            Some(hint) => write!(f, "\n  help: {hint}"),
            None => Ok(()),
        }
    }
}
