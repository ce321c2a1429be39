//! Which descriptors are limited, and how.

use std::collections::BTreeMap;

use jiff::{Span, Timestamp, ToSpan as _, civil::Date, tz::TimeZone};
use reeve_core::UnixTime;
use serde::Deserialize;

/// Deepest list of keys and values.
const MAX_DEPTH: usize = 16;

/// A domain and its limits, as written.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct RawLimits {
    /// What the proxies call it.
    pub domain: String,
    /// What is limited.
    pub descriptors: Vec<RawDescriptor>,
}

/// A key, perhaps with a value, and what stands below it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct RawDescriptor {
    /// The key.
    pub key: String,
    /// The value; without one, each value is counted for itself.
    pub value: Option<String>,
    /// The limit of descriptors that end here.
    pub rate_limit: Option<RawRateLimit>,
    /// Counted and reported, never enforced.
    pub shadow_mode: bool,
    /// What may follow.
    pub descriptors: Vec<RawDescriptor>,
}

/// A limit, as written.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct RawRateLimit {
    /// A name for people, passed on.
    pub name: String,
    /// `second`, `minute`, `hour`, `day`, `week`, `month` or `year`.
    pub unit: String,
    /// How many.
    pub requests_per_unit: Option<u32>,
    /// No limit at all, where a shorter list has one.
    pub unlimited: bool,
}

/// What is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {text}")]
pub struct LimitsError {
    /// Where, such as `descriptors[0].rate_limit.unit`.
    pub path: String,
    /// What.
    pub text: String,
}

/// The limits of every domain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits(BTreeMap<String, Level>);

/// What may follow at one depth: (key, value) → what stands there.
type Level = BTreeMap<(String, Option<String>), Rule>;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Rule {
    limit: Option<Limit>,
    below: Level,
}

/// A limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Limit {
    pub(crate) name: String,
    /// `None`: as many as they like.
    pub(crate) rate: Option<Rate>,
    pub(crate) shadow: bool,
}

/// So many in a unit of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rate {
    pub(crate) requests: u32,
    pub(crate) unit: Unit,
}

/// A unit of time; its windows are those of the calendar, in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    Second,
    Minute,
    Hour,
    Day,
    Week,
    Month,
    Year,
}

impl Limits {
    /// Reads every domain, or tells all that is wrong.
    pub fn compile(domains: &[RawLimits]) -> Result<Self, Vec<LimitsError>> {
        let mut compiler = Compiler::default();
        let mut limits = BTreeMap::new();
        for domain in domains {
            if domain.domain.is_empty() {
                compiler.fault("domain", "give the domain that the proxies name");
            }
            let level = compiler.level("descriptors", &domain.descriptors, 1);
            if limits.insert(domain.domain.clone(), level).is_some() {
                let text = format!("{:?} is there twice", domain.domain);
                compiler.fault("domain", &text);
            }
        }
        match compiler.faults.is_empty() {
            true => Ok(Self(limits)),
            false => Err(compiler.faults),
        }
    }

    /// How many domains there are.
    pub fn domains(&self) -> usize {
        self.0.len()
    }

    /// The limit of a descriptor: at each step a rule with the value comes before one for any value; the last step's
    /// rule alone counts.
    pub(crate) fn find(&self, domain: &str, entries: &[(String, String)]) -> Option<&Limit> {
        let (last, steps) = entries.split_last()?;
        let mut level = self.0.get(domain)?;
        for entry in steps {
            level = &rule(level, entry)?.below;
        }
        rule(level, last)?.limit.as_ref()
    }
}

fn rule<'l>(level: &'l Level, (key, value): &(String, String)) -> Option<&'l Rule> {
    let exact = level.get(&(key.clone(), Some(value.clone())));
    exact.or_else(|| level.get(&(key.clone(), None)))
}

#[derive(Default)]
struct Compiler {
    faults: Vec<LimitsError>,
}

impl Compiler {
    fn fault(&mut self, path: &str, text: &str) {
        self.faults.push(LimitsError {
            path: path.to_owned(),
            text: text.to_owned(),
        });
    }

    fn level(&mut self, path: &str, descriptors: &[RawDescriptor], depth: usize) -> Level {
        if depth > MAX_DEPTH {
            self.fault(path, &format!("deeper than {MAX_DEPTH}"));
            return Level::default();
        }
        let mut level = Level::default();
        for (n, raw) in descriptors.iter().enumerate() {
            let path = format!("{path}[{n}]");
            if raw.key.is_empty() {
                self.fault(&format!("{path}.key"), "give the key");
            }
            let rule = Rule {
                limit: raw
                    .rate_limit
                    .as_ref()
                    .map(|limit| self.limit(&format!("{path}.rate_limit"), limit, raw.shadow_mode)),
                below: self.level(&format!("{path}.descriptors"), &raw.descriptors, depth + 1),
            };
            if level
                .insert((raw.key.clone(), raw.value.clone()), rule)
                .is_some()
            {
                self.fault(&path, "the same key and value stand before it");
            }
        }
        level
    }

    fn limit(&mut self, path: &str, raw: &RawRateLimit, shadow: bool) -> Limit {
        let unit = Unit::parse(&raw.unit);
        let rate = match (raw.unlimited, unit, raw.requests_per_unit) {
            (true, None, None) if raw.unit.is_empty() => None,
            (true, ..) => {
                self.fault(path, "unlimited stands alone");
                None
            }
            (false, Some(unit), Some(requests)) => Some(Rate { requests, unit }),
            (false, None, _) => {
                let text = "give second, minute, hour, day, week, month or year";
                self.fault(&format!("{path}.unit"), text);
                None
            }
            (false, Some(_), None) => {
                self.fault(&format!("{path}.requests_per_unit"), "give the number");
                None
            }
        };
        Limit {
            name: raw.name.clone(),
            rate,
            shadow,
        }
    }
}

impl Unit {
    fn parse(text: &str) -> Option<Self> {
        Some(match text.to_ascii_lowercase().as_str() {
            "second" => Self::Second,
            "minute" => Self::Minute,
            "hour" => Self::Hour,
            "day" => Self::Day,
            "week" => Self::Week,
            "month" => Self::Month,
            "year" => Self::Year,
            _ => return None,
        })
    }

    /// The window that `now` is in: its first second, and the seconds left of it, at least one.
    pub(crate) fn window(self, now: UnixTime) -> (i64, u64) {
        let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let fixed = |length: i64, offset: i64| {
            let begin = seconds - (seconds + offset).rem_euclid(length);
            (begin, begin + length)
        };
        let (begin, end) = match self {
            Self::Second => fixed(1, 0),
            Self::Minute => fixed(60, 0),
            Self::Hour => fixed(3600, 0),
            Self::Day => fixed(86_400, 0),
            // 1970-01-01 was a Thursday; weeks begin on Mondays (ISO 8601).
            Self::Week => fixed(604_800, 3 * 86_400),
            Self::Month => calendar(seconds, Date::first_of_month, 1.month())
                .unwrap_or_else(|| fixed(2_592_000, 0)),
            Self::Year => calendar(seconds, Date::first_of_year, 1.year())
                .unwrap_or_else(|| fixed(31_536_000, 0)),
        };
        (begin, u64::try_from(end - seconds).unwrap_or(1).max(1))
    }
}

/// The seconds at which the month or year around `seconds` begins and ends, in UTC.
fn calendar(seconds: i64, first: fn(Date) -> Date, length: Span) -> Option<(i64, i64)> {
    let now = Timestamp::from_second(seconds).ok()?;
    let begin = first(now.to_zoned(TimeZone::UTC).date());
    let second = |date: Date| {
        let zoned = date.to_zoned(TimeZone::UTC).ok()?;
        Some(zoned.timestamp().as_second())
    };
    Some((second(begin)?, second(begin.checked_add(length).ok()?)?))
}

#[cfg(test)]
mod tests;
