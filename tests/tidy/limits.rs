//! `docs/limits.md` names every limit with its value, and only limits that there are.

use std::{collections::BTreeMap, fs};

use crate::{root, sources};

/// Every constant in it is a limit.
const DATA_PLANE: &str = "proxy/src/limits.rs";
/// In these, whatever is called `MAX_…` is.
const ROOMS: &[&str] = &[
    "audit/",
    "authz/",
    "ca/",
    "cli/sidecar/",
    "cli/src/mesh/",
    "console/",
    "control/",
    "core/",
    "proxy/",
];

/// A limit's file and name.
type Key = (String, String);

#[test]
fn the_page_of_limits_is_the_code() {
    let page = fs::read_to_string(root().join("docs/limits.md")).expect("docs/limits.md");
    let documented: BTreeMap<Key, &str> = page.lines().filter_map(row).collect();
    let constants = constants();
    let limits: BTreeMap<&Key, f64> = constants
        .iter()
        .filter(|((file, name), _)| {
            let of_room = || ROOMS.iter().any(|room| file.starts_with(room));
            file == DATA_PLANE || (name.starts_with("MAX_") && of_room())
        })
        .map(|(key, text)| (key, Terms::evaluate(text, &key.0, &constants)))
        .collect();
    let mut faults = Vec::new();
    for (key, value) in &limits {
        match documented.get(key) {
            None => faults.push(format!("{key:?} is not in docs/limits.md")),
            Some(text) if shown(text) != Some(*value) => {
                faults.push(format!("{key:?} is {value}, docs/limits.md has {text}"));
            }
            Some(_) => {}
        }
    }
    let gone = documented.keys().filter(|key| !limits.contains_key(key));
    faults.extend(gone.map(|key| format!("docs/limits.md has {key:?}, which is no limit")));
    assert!(limits.len() > 100, "only {} limits found", limits.len());
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn every_limit_that_is_counted_has_its_metric_on_the_page() {
    let page = fs::read_to_string(root().join("docs/limits.md")).expect("docs/limits.md");
    let code: String = sources(&[".rs"])
        .into_iter()
        .filter(|(path, _)| path.starts_with("proxy/src") && !path.ends_with("tests.rs"))
        .map(|(_, text)| text)
        .collect();
    let mut counted = 0;
    for line in page.lines() {
        let Some(((file, name), _)) = row(line) else {
            continue;
        };
        let metric = line.rsplit('|').nth(1).unwrap_or_default();
        let metric = metric.trim_matches([' ', '`']);
        if file != DATA_PLANE {
            continue;
        }
        let own = name.to_lowercase();
        if code.contains(&format!("\"{own}\"")) {
            assert_eq!(metric, own, "{name} is counted by its name");
        }
        if metric != "–" {
            assert!(
                code.contains(&format!("\"{metric}\"")),
                "nothing counts {metric}"
            );
            counted += 1;
        }
    }
    assert!(counted > 10, "only {counted} limits with a metric");
}

/// A table's row: the limit's file and name, and its value as text.
fn row(line: &str) -> Option<(Key, &str)> {
    let cells: Vec<&str> = line.split('|').map(str::trim).collect();
    let code = |cell: &str| Some(cell.strip_prefix('`')?.strip_suffix('`')?.to_owned());
    let name = code(cells.get(1)?)?;
    match *cells.as_slice() {
        [_, _, file, value, _, _] => Some(((code(file)?, name), value)),
        [_, _, value, _, _, _, _] => Some(((DATA_PLANE.to_owned(), name), value)),
        _ => None,
    }
}

/// A value as the page shows it; times in milliseconds.
fn shown(text: &str) -> Option<f64> {
    let plain = text.replace(',', "");
    let (number, unit) = plain.split_once(' ').unwrap_or((&plain, ""));
    let unit = match unit {
        "" | "ms" => 1.0,
        "s" => 1000.0,
        "KiB" => 1024.0,
        "MiB" => 1024.0 * 1024.0,
        _ => return None,
    };
    Some(number.parse::<f64>().ok()? * unit)
}

/// Every constant of ours and what it is set to.
fn constants() -> BTreeMap<Key, String> {
    let mut found = BTreeMap::new();
    for (path, text) in sources(&[".rs"]) {
        let file = path.display().to_string();
        if file.contains("/tests") {
            continue;
        }
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        for (at, _) in code.match_indices("const ") {
            let before = code[..at].rsplit('\n').next().unwrap_or_default();
            if !matches!(before, "" | "pub " | "pub(crate) " | "pub(super) ") {
                continue;
            }
            let statement = code[at + 6..].split(';').next().unwrap_or_default();
            if let Some((name, (_, value))) = statement
                .split_once(':')
                .and_then(|(name, rest)| Some((name, rest.split_once('=')?)))
            {
                found.insert((file.clone(), name.to_owned()), value.trim().to_owned());
            }
        }
    }
    found
}

/// What a constant expression of numbers, names, `+`, `*` and `<<` comes to.
struct Terms<'a> {
    words: Vec<String>,
    at: usize,
    file: &'a str,
    constants: &'a BTreeMap<Key, String>,
}

impl Terms<'_> {
    /// Durations in milliseconds.
    fn evaluate(text: &str, file: &str, constants: &BTreeMap<Key, String>) -> f64 {
        let (unit, text) = ["secs", "millis"]
            .into_iter()
            .find_map(|unit| {
                let inner = text.strip_prefix("Duration::from_")?.strip_prefix(unit)?;
                Some((unit, inner))
            })
            .unwrap_or(("", text));
        let mut spaced = String::new();
        for sign in text.replace("<<", "«").chars() {
            let word = sign.is_ascii_alphanumeric() || matches!(sign, '_' | '.');
            spaced.push_str(&if word {
                sign.to_string()
            } else {
                format!(" {sign} ")
            });
        }
        let words = spaced.split_whitespace().map(str::to_owned).collect();
        let mut terms = Terms {
            words,
            at: 0,
            file,
            constants,
        };
        let value = terms.shift();
        assert_eq!(terms.at, terms.words.len(), "{file}: cannot read {text:?}");
        if unit == "secs" {
            value * 1000.0
        } else {
            value
        }
    }

    fn shift(&mut self) -> f64 {
        let mut value = self.sum();
        while self.takes("«") {
            value *= self.sum().exp2();
        }
        value
    }

    fn sum(&mut self) -> f64 {
        let mut value = self.product();
        while self.takes("+") {
            value += self.product();
        }
        value
    }

    fn product(&mut self) -> f64 {
        let mut value = self.one();
        while self.takes("*") {
            value *= self.one();
        }
        value
    }

    fn one(&mut self) -> f64 {
        if self.takes("(") {
            let value = self.shift();
            assert!(self.takes(")"), "{}: {:?}", self.file, self.words);
            return value;
        }
        let word = self.words.get(self.at).cloned().unwrap_or_default();
        self.at += 1;
        if let Ok(number) = word.replace('_', "").parse() {
            return number;
        }
        let here = (self.file.to_owned(), word.clone());
        let elsewhere = || self.constants.iter().find(|((_, name), _)| *name == word);
        let named = self.constants.get_key_value(&here).or_else(elsewhere);
        let ((file, _), text) = named.unwrap_or_else(|| panic!("{}: what is {word:?}?", self.file));
        Self::evaluate(text, file, self.constants)
    }

    fn takes(&mut self, word: &str) -> bool {
        let there = self.words.get(self.at).is_some_and(|next| next == word);
        self.at += usize::from(there);
        there
    }
}
