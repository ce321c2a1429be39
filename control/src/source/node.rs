//! A YAML value that knows where it stands.

/// A value and the line it starts at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    /// Line in the file, from 1.
    pub(crate) line: usize,
    pub(crate) value: Value,
}

/// What a [`Node`] holds. Scalars keep their text: what it means is told by the field it stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    Scalar {
        text: String,
        style: Style,
    },
    Sequence(Vec<Node>),
    /// In the order written; keys are unique.
    Mapping(Vec<Entry>),
}

/// One key and its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) line: usize,
    pub(crate) value: Node,
}

/// How a scalar was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// Bare: may be a number, a boolean or null.
    Plain,
    /// `|`: its lines are lines of the file, from the one after the indicator.
    Literal,
    /// Quoted or folded: always text.
    Quoted,
}

impl Node {
    /// Whether there is no value (YAML's null).
    pub(crate) fn is_null(&self) -> bool {
        match &self.value {
            Value::Scalar { text, style } => {
                *style == Style::Plain
                    && matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL")
            }
            Value::Sequence(_) | Value::Mapping(_) => false,
        }
    }

    /// The value of `key`, if this is a mapping that has it.
    pub(crate) fn get(&self, key: &str) -> Option<&Entry> {
        match &self.value {
            Value::Mapping(entries) => entries.iter().find(|e| e.key == key),
            Value::Scalar { .. } | Value::Sequence(_) => None,
        }
    }

    /// Element `index`, if this is a sequence that has it.
    pub(crate) fn element(&self, index: usize) -> Option<&Self> {
        match &self.value {
            Value::Sequence(elements) => elements.get(index),
            Value::Scalar { .. } | Value::Mapping(_) => None,
        }
    }

    /// The text, if this is a scalar.
    pub(crate) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar { text, .. } => Some(text),
            Value::Sequence(_) | Value::Mapping(_) => None,
        }
    }

    /// The line in the file of line `n` (from 1) of this text.
    pub(crate) fn line_of_text(&self, n: usize) -> usize {
        match self.value {
            Value::Scalar {
                style: Style::Literal,
                ..
            } => self.line + n,
            Value::Scalar { .. } | Value::Sequence(_) | Value::Mapping(_) => self.line,
        }
    }

    /// What it is, for people.
    pub(crate) fn describe(&self) -> &'static str {
        match &self.value {
            _ if self.is_null() => "nothing",
            Value::Scalar { text, style } => match style {
                Style::Plain => plain_type(text),
                Style::Literal | Style::Quoted => "text",
            },
            Value::Sequence(_) => "a list",
            Value::Mapping(_) => "a mapping",
        }
    }
}

/// What a bare scalar is under YAML 1.2's core schema (section 10.3.2).
fn plain_type(text: &str) -> &'static str {
    if matches!(text, "true" | "True" | "TRUE" | "false" | "False" | "FALSE") {
        return "a boolean";
    }
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let float =
        matches!(digits.chars().next(), Some('0'..='9' | '.')) && digits.parse::<f64>().is_ok();
    let based = ["0x", "0o"].iter().any(|p| {
        let radix = if *p == "0x" { 16 } else { 8 };
        text.strip_prefix(p)
            .is_some_and(|d| !d.is_empty() && d.chars().all(|c| c.is_digit(radix)))
    });
    match float || based || matches!(digits, ".inf" | ".Inf" | ".INF" | ".nan" | ".NaN" | ".NAN") {
        true => "a number",
        false => "text",
    }
}
