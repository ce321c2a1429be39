//! Bounds on how deep a policy's text may go, checked before Cedar reads it.
//!
//! Cedar's parser and validator recurse: a few hundred nested brackets, or a chain of a few thousand operators, use up
//! a thread's stack and end the process. Whoever may write a policy for one namespace could so end every proxy.

/// Deepest nesting of brackets.
const MAX_NESTING: usize = 32;
/// Most operators that can form a chain (`&&`, `||`, `+`, `-`, `*`, `!`, `if`) in one policy.
const MAX_OPERATORS: usize = 256;
/// Most member accesses (dots) between two operators.
const MAX_DOTS: usize = 64;

/// A text that goes too deep, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub(crate) struct TooDeep {
    /// Byte offset.
    pub(crate) offset: usize,
    what: &'static str,
}

#[derive(Default)]
struct Depth {
    nesting: usize,
    operators: usize,
    dots: usize,
}

/// Checks all policies of a text, which need not be valid otherwise.
pub(crate) fn check(text: &str) -> Result<(), TooDeep> {
    let mut depth = Depth::default();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let offset = text.len() - rest.len();
        let length = token_length(rest, first);
        let (token, after) = rest.split_at_checked(length).unwrap_or((rest, ""));
        depth.take(token).map_err(|what| TooDeep { offset, what })?;
        rest = after;
    }
    Ok(())
}

/// The length of what `rest` starts with: a string, comment, word, operator of two characters, or one character.
fn token_length(rest: &str, first: char) -> usize {
    let until = |end: fn(char) -> bool| rest.find(end).unwrap_or(rest.len());
    match first {
        '"' => string_length(rest),
        '/' if rest.starts_with("//") => until(|c| c == '\n' || c == '\r'),
        '&' | '|' if rest.starts_with("&&") || rest.starts_with("||") => 2,
        c if is_word(c) => until(|c| !is_word(c)),
        c => c.len_utf8(),
    }
}

fn string_length(rest: &str) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            '"' if !escaped => return at + 1,
            '\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    rest.len()
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

impl Depth {
    fn take(&mut self, token: &str) -> Result<(), &'static str> {
        match token {
            "(" | "[" | "{" => self.nesting += 1,
            ")" | "]" | "}" => self.nesting = self.nesting.saturating_sub(1),
            ";" if self.nesting == 0 => *self = Self::default(),
            "&&" | "||" | "+" | "-" | "*" | "!" | "if" => {
                self.operators += 1;
                self.dots = 0;
            }
            "." => self.dots += 1,
            _ => {}
        }
        if self.nesting > MAX_NESTING {
            return Err("brackets are nested more than 32 deep");
        }
        if self.operators > MAX_OPERATORS {
            return Err(
                "a policy has at most 256 operators; write several policies, or one `in [...]` for a list",
            );
        }
        if self.dots > MAX_DOTS {
            return Err("at most 64 members can be accessed between two operators");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use reeve_core::model::PolicySlice;

    use super::*;
    use crate::{Engine, fixtures, parse_access_policy};

    fn policy(condition: &str) -> String {
        format!("permit (principal, action, resource) when {{ {condition} }};\n")
    }

    fn nested(open: &str, inner: &str, close: &str, depth: usize) -> String {
        format!("{}{inner}{}", open.repeat(depth), close.repeat(depth))
    }

    /// Test threads have the stack of a runtime's worker: what passes must go all the way there.
    #[test]
    fn what_passes_can_be_parsed_validated_judged_and_explained() {
        let or = "context.mtls || ".repeat(200);
        let set = nested("[", "1", "]", 30);
        let deep = [
            nested("(", "context.mtls", ")", 31),
            format!("{set} == {set}"),
            nested("{a: ", "1", "}", 30) + " == {a: 1} || true",
            format!("{}context.mtls", "context.mtls && ".repeat(256)),
            format!("{or}{}", nested("(", "context.mtls", ")", 31)),
            format!(
                "{}context.mtls",
                "if context.mtls then true else ".repeat(256)
            ),
            format!("context.port{} > 0", " + 1 - 1".repeat(128)),
            nested("!(", "context.mtls", ")", 31),
            format!("[{}1].contains(context.port)", "1, ".repeat(15_000)),
            format!("principal is {}A", "A::".repeat(15_000)),
            format!("context{}", ".a".repeat(64)),
        ];
        for condition in deep {
            let text = policy(&condition);
            assert_eq!(check(&text), Ok(()), "{condition:.80}");
            let home = fixtures::namespace("default");
            let Ok(policies) = parse_access_policy(None, &home, "deep", &text) else {
                continue;
            };
            let slice = PolicySlice {
                mesh_hash: String::new(),
                policies,
                ..PolicySlice::default()
            };
            let engine = Engine::compile(&slice).unwrap();
            let explained = engine.explain(&fixtures::request());
            assert!(explained.decision.errors.is_empty(), "{condition:.80}");
        }
    }

    #[test]
    fn what_goes_deeper_is_refused_with_its_place() {
        let far = 20_000;
        let table = [
            nested("(", "context.mtls", ")", far),
            nested("[", "1", "]", far),
            format!("{}context.mtls", "context.mtls&&".repeat(257)),
            format!("{}context.mtls", "context.mtls||".repeat(far)),
            format!("{}context.mtls", "if true then true else ".repeat(257)),
            format!("context.port{}", "+1".repeat(257)),
            format!("{}context.mtls", "!".repeat(far)),
            format!("context{}", ".a".repeat(65)),
            format!("context.a{}", ".contains(1, 2)".repeat(far)),
        ];
        for condition in table {
            let text = format!(
                "// \"((((\n{}{}",
                policy("\"((&&\" == \"\\\"((\""),
                policy(&condition)
            );
            let home = fixtures::namespace("default");
            let faults = parse_access_policy(None, &home, "deep", &text).unwrap_err();
            assert_eq!(
                (faults.len(), faults[0].line),
                (1, 3),
                "{:?}",
                faults[0].message
            );
            let slice = PolicySlice {
                mesh_hash: String::new(),
                policies: vec![fixtures::source("default/deep", None, &policy(&condition))],
                ..PolicySlice::default()
            };
            assert_eq!(Engine::compile(&slice).unwrap_err().len(), 1);
        }
    }

    #[test]
    fn counts_start_anew_with_each_policy() {
        let long = policy(&format!("{}context.mtls", "context.mtls && ".repeat(200)));
        assert_eq!(check(&long.repeat(50)), Ok(()));
        let strings = policy(&"\"((((&&||\\\"((\"".repeat(50));
        assert_eq!(check(&strings), Ok(()));
        assert_eq!(
            check("// ((((((((((((((((((((((((((((((((((((((((((\n"),
            Ok(())
        );
        assert_eq!(
            check("\"unended (((((((((((((((((((((((((((((((((((("),
            Ok(())
        );
        assert_eq!(check("é ∧ \u{10FFFF}"), Ok(()));
    }
}
