//! Values that several kinds share: durations, modes, string matches.

use std::{collections::BTreeMap, num::NonZeroU32, time::Duration};

use reeve_core::model::{HeaderMatch, HeaderOps, MtlsMode, Protocol, ServiceState, StringMatch};

use crate::{
    Code, Fault,
    kinds::{HeaderOpsSpec, Object, StringMatchSpec},
    source::path::Path,
};

/// Longest duration that is taken.
const MAX_DURATION: Duration = Duration::from_secs(100 * 366 * 86_400);
/// Longest regular expression.
const MAX_REGEX_BYTES: usize = 1024;
/// Bound on a compiled regular expression.
const MAX_REGEX_PROGRAM: usize = 1 << 20;

/// One object's place to note faults.
pub(crate) struct Notes<'a, S> {
    pub(crate) object: &'a Object<S>,
    pub(crate) faults: &'a mut Vec<Fault>,
}

impl<S> Notes<'_, S> {
    pub(crate) fn error(&mut self, path: &Path, code: Code, text: impl Into<String>) {
        self.faults.push(self.object.error(path, code, text));
    }

    pub(crate) fn hint(&mut self, path: &Path, code: Code, text: impl Into<String>, hint: &str) {
        self.faults
            .push(self.object.error(path, code, text).with_hint(hint));
    }

    pub(crate) fn warn(&mut self, path: &Path, code: Code, text: impl Into<String>, hint: &str) {
        self.faults
            .push(self.object.warning(path, code, text).with_hint(hint));
    }

    /// A duration above zero.
    pub(crate) fn duration(&mut self, path: &Path, text: &str) -> Option<Duration> {
        match duration(text) {
            Some(value) if !value.is_zero() && value <= MAX_DURATION => Some(value),
            _ => {
                let said = format!("{text:?} is not a duration above zero");
                self.hint(
                    path,
                    Code::Invalid,
                    said,
                    "write a number and a unit: 250ms, 30s, 5m, 4h",
                );
                None
            }
        }
    }

    /// A duration, or zero.
    pub(crate) fn any_duration(&mut self, path: &Path, text: &str) -> Option<Duration> {
        match duration(text) {
            Some(Duration::ZERO) => Some(Duration::ZERO),
            _ => self.duration(path, text),
        }
    }

    /// A bound as Istio writes it: 0 is none.
    pub(crate) fn bound(&mut self, path: &Path, value: Option<i32>) -> Option<NonZeroU32> {
        match u32::try_from(value?) {
            Ok(value) => NonZeroU32::new(value),
            Err(_) => {
                self.error(path, Code::Invalid, "a bound is above 0, or 0 for none");
                None
            }
        }
    }

    /// One word of a closed list.
    pub(crate) fn word<T: Copy>(
        &mut self,
        path: &Path,
        text: &str,
        words: &[(&str, T)],
    ) -> Option<T> {
        let found = words.iter().find(|(word, _)| *word == text);
        if found.is_none() {
            let list: Vec<_> = words.iter().map(|(word, _)| *word).collect();
            let hint = format!("use {}", list.join(", "));
            self.hint(
                path,
                Code::Invalid,
                format!("{text:?} is not allowed here"),
                &hint,
            );
        }
        found.map(|(_, value)| *value)
    }

    /// `None` inside = `UNSET`.
    pub(crate) fn mtls_mode(&mut self, path: &Path, text: Option<&str>) -> Option<MtlsMode> {
        let words = [
            ("STRICT", Some(MtlsMode::Strict)),
            ("PERMISSIVE", Some(MtlsMode::Permissive)),
            ("DISABLE", Some(MtlsMode::Disable)),
            ("UNSET", None),
        ];
        self.word(path, text?, &words).flatten()
    }

    pub(crate) fn state(&mut self, path: &Path, text: &str) -> Option<ServiceState> {
        let words = [
            ("open", ServiceState::Open),
            ("shadow", ServiceState::Shadow),
            ("enforced", ServiceState::Enforced),
        ];
        self.word(path, text, &words)
    }

    /// A `StringMatch` with exactly one of its forms.
    pub(crate) fn string_match(
        &mut self,
        path: &Path,
        spec: &StringMatchSpec,
    ) -> Option<StringMatch> {
        let StringMatchSpec {
            exact,
            prefix,
            regex,
        } = spec;
        match (exact, prefix, regex) {
            (Some(exact), None, None) => Some(StringMatch::Exact(exact.clone())),
            (None, Some(prefix), None) if prefix.is_empty() => {
                self.error(
                    &path.key("prefix"),
                    Code::Invalid,
                    "an empty prefix matches nothing in particular",
                );
                None
            }
            (None, Some(prefix), None) => Some(StringMatch::Prefix(prefix.clone())),
            (None, None, Some(regex)) => {
                self.check_regex(&path.key("regex"), regex);
                Some(StringMatch::Regex(regex.clone()))
            }
            _ => {
                self.hint(
                    path,
                    Code::Invalid,
                    "a match has exactly one form",
                    "use one of exact, prefix, regex",
                );
                None
            }
        }
    }

    pub(crate) fn check_regex(&mut self, path: &Path, text: &str) {
        if text.len() > MAX_REGEX_BYTES {
            self.error(
                path,
                Code::TooLarge,
                format!("longer than {MAX_REGEX_BYTES} bytes"),
            );
            return;
        }
        let whole = format!("^(?:{text})$");
        let compiled = regex::RegexBuilder::new(&whole)
            .size_limit(MAX_REGEX_PROGRAM)
            .build();
        if let Err(error) = compiled {
            let first = error.to_string();
            let last = first.lines().last().unwrap_or("not a regular expression");
            self.hint(
                path,
                Code::Invalid,
                format!("{text:?}: {last}"),
                "write it in RE2 syntax",
            );
        }
    }

    /// What stands in the place of what `pattern` finds: `\1` to `\9` are its groups, `\0` the whole.
    pub(crate) fn check_substitution(&mut self, path: &Path, pattern: &str, text: &str) {
        let groups = regex::Regex::new(pattern).map_or(0, |regex| regex.captures_len());
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            let after = (c == '\\').then(|| chars.next());
            let known = |digit: char| {
                digit
                    .to_digit(10)
                    .is_some_and(|d| (d as usize) < groups.max(1))
            };
            match after {
                None | Some(Some('\\')) => {}
                Some(Some(digit)) if known(digit) => {}
                Some(found) => {
                    let what = found.map(String::from).unwrap_or_default();
                    let text = format!("\\{what} is no group of the expression");
                    self.error(path, Code::Invalid, text);
                    return;
                }
            }
        }
    }

    /// Conditions on headers; an empty one asks for presence.
    pub(crate) fn header_matches(
        &mut self,
        path: &Path,
        specs: &BTreeMap<String, StringMatchSpec>,
        lower: Case,
    ) -> BTreeMap<String, HeaderMatch> {
        for name in specs.keys() {
            let path = path.key(name);
            if name.starts_with('@') {
                let text = format!("{name} is no header, and no claim that can be matched here");
                let hint = "match @request.auth.claims.NAME in a VirtualService at a gateway; policies read claims everywhere";
                self.hint(&path, Code::Invalid, text, hint);
                continue;
            }
            if let Case::Lower = lower {
                self.header_name(&path, name);
            }
        }
        let specs = specs.iter().filter(|(name, _)| !name.starts_with('@'));
        let specs = specs.map(|(name, spec)| (name.clone(), spec.clone()));
        self.value_matches(path, &specs.collect(), lower)
    }

    /// The same, whatever the names are.
    pub(crate) fn value_matches(
        &mut self,
        path: &Path,
        specs: &BTreeMap<String, StringMatchSpec>,
        lower: Case,
    ) -> BTreeMap<String, HeaderMatch> {
        let mut matches = BTreeMap::new();
        for (name, spec) in specs {
            let path = path.key(name);
            let empty = spec.exact.is_none() && spec.prefix.is_none() && spec.regex.is_none();
            // Istio reads the expression `*`, which is none, as "is there".
            let empty = empty || spec.regex.as_deref() == Some("*");
            let value = match empty {
                true => Some(HeaderMatch::Present),
                false => self.string_match(&path, spec).map(HeaderMatch::Value),
            };
            let key = match lower {
                Case::Lower => name.to_ascii_lowercase(),
                Case::Kept => name.clone(),
            };
            if let Some(value) = value {
                matches.insert(key, value);
            }
        }
        matches
    }

    pub(crate) fn header_ops(&mut self, path: &Path, spec: &HeaderOpsSpec) -> HeaderOps {
        let mut ops = HeaderOps::default();
        for (key, from, into) in [
            ("set", &spec.set, &mut ops.set),
            ("add", &spec.add, &mut ops.add),
        ] {
            for (name, value) in from {
                let path = path.key(key).key(name);
                self.header_name(&path, name);
                if http::HeaderValue::from_str(value).is_err() {
                    self.error(&path, Code::Invalid, "not the value of a header");
                }
                into.insert(name.to_ascii_lowercase(), self.literal(&path, value));
            }
        }
        for (n, name) in spec.remove.iter().enumerate() {
            self.header_name(&path.key("remove").index(n), name);
            ops.remove.push(name.to_ascii_lowercase());
        }
        ops
    }

    /// Envoy would put something in the place of `%…%`; `%%` is a percent sign.
    fn literal(&mut self, path: &Path, value: &str) -> String {
        let plain = value.replace("%%", "");
        if plain.contains('%') {
            let text =
                "values that Envoy makes from %…% are known, but not supported in this version";
            self.hint(path, Code::Unsupported, text, "write %% for a percent sign");
        }
        value.replace("%%", "%")
    }

    pub(crate) fn header_name(&mut self, path: &Path, name: &str) {
        if http::HeaderName::from_bytes(name.as_bytes()).is_err() {
            let text = format!("{name:?} is not the name of a header");
            self.error(path, Code::Invalid, text);
        }
    }
}

/// Whether names are compared without case.
#[derive(Clone, Copy)]
pub(crate) enum Case {
    Lower,
    Kept,
}

/// `1h30m`, `250ms`, `1.5s`: protobuf's and Go's forms, unsigned.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !(c.is_ascii_digit() || c == '.'))?;
        let (number, after) = rest.split_at_checked(digits)?;
        let unit_end = after
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(after.len());
        let (unit, next) = after.split_at_checked(unit_end)?;
        let factor = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        let number: f64 = number.parse().ok()?;
        total = total.checked_add(Duration::try_from_secs_f64(number * factor).ok()?)?;
        rest = next;
    }
    Some(total)
}

/// Istio's protocol selection: `appProtocol`, else the port name's part before the first dash. What neither tells is
/// opaque TCP.
pub(crate) fn protocol(name: &str, app_protocol: Option<&str>) -> Option<Protocol> {
    let word = match app_protocol {
        Some(word) => word.rsplit('/').next().unwrap_or(word),
        None => name.split('-').next().unwrap_or(name),
    };
    match word.to_ascii_lowercase().as_str() {
        "http" => Some(Protocol::Http),
        "http2" | "h2c" => Some(Protocol::Http2),
        "grpc" => Some(Protocol::Grpc),
        "tcp" | "mongo" | "mysql" | "redis" => Some(Protocol::Tcp),
        "https" | "tls" => Some(Protocol::Tls),
        _ => None,
    }
}
