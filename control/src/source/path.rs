//! Where in a document: `spec.http[0].route[1].weight`.

use std::fmt;

/// A place in a document.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Path(Vec<Step>);

/// One step down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Key(String),
    Index(usize),
}

impl Path {
    /// The path of keys `keys`, from the document's root.
    pub(crate) fn of(keys: &[&str]) -> Self {
        Self(keys.iter().map(|k| Step::Key((*k).to_owned())).collect())
    }

    /// One key further down.
    pub(crate) fn key(&self, key: &str) -> Self {
        self.with(Step::Key(key.to_owned()))
    }

    /// One element further down.
    pub(crate) fn index(&self, index: usize) -> Self {
        self.with(Step::Index(index))
    }

    /// One step up.
    pub(crate) fn parent(&self) -> Self {
        let steps = self.0.split_last().map(|(_, rest)| rest.to_vec());
        Self(steps.unwrap_or_default())
    }

    fn with(&self, step: Step) -> Self {
        let mut steps = self.0.clone();
        steps.push(step);
        Self(steps)
    }

    pub(crate) fn steps(&self) -> &[Step] {
        &self.0
    }

    /// The path with `[]` for every index: what tables of fields are written in.
    pub(crate) fn pattern(&self) -> String {
        self.render(|f, _| f.push_str("[]"))
    }

    fn render(&self, index: impl Fn(&mut String, usize)) -> String {
        let mut text = String::new();
        for step in &self.0 {
            match step {
                Step::Key(key) => {
                    if !text.is_empty() {
                        text.push('.');
                    }
                    match key.contains(['.', '[', ' ']) || key.is_empty() {
                        true => text.push_str(&format!("{key:?}")),
                        false => text.push_str(key),
                    }
                }
                Step::Index(n) => index(&mut text, *n),
            }
        }
        text
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(|text, n| text.push_str(&format!("[{n}]"))))
    }
}
