//! Paths: exact, prefix, suffix, and Istio's templates `{*}` (one segment) and `{**}` (any number of them).

use super::cedar::{Expr, Match, matches, pattern, quoted};

/// Segments that policies can name one by one.
const NAMED_SEGMENTS: usize = 16;

const ONE: &str = "{*}";
const ANY: &str = "{**}";

/// Whether the path is one of `values`; a fault is what is wrong with which.
pub(super) fn paths(values: &[String]) -> Result<Expr, (usize, String)> {
    let mut tests = Vec::new();
    let mut plain = Vec::new();
    for (n, value) in values.iter().enumerate() {
        if value.contains(ONE) || value.contains(ANY) {
            tests.push(template(value).map_err(|text| (n, text))?);
        } else if Match::of(value) == Match::Present {
            return Ok(Expr::ALWAYS);
        } else {
            plain.push(value.clone());
        }
    }
    tests.insert(0, matches("context.path", &plain));
    Ok(Expr::any(tests))
}

/// A segment of a template.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Segment<'t> {
    /// Written out.
    Text(&'t str),
    /// `{*}`, with what must follow in the same segment.
    One(&'t str),
    /// `{**}`, the same.
    Any(&'t str),
}

fn template(value: &str) -> Result<Expr, String> {
    let rest = value
        .strip_prefix('/')
        .ok_or_else(|| format!("the template {value:?} does not begin with a slash"))?;
    let segments = rest.split('/').map(segment);
    let segments: Option<Vec<_>> = segments.collect();
    let segments = segments.ok_or_else(|| {
        format!("in the template {value:?}, {ONE} or {ANY} does not begin its segment, or stands beside another one")
    })?;
    let any = segments.iter().position(|s| matches!(s, Segment::Any(_)));
    let (before, after) = match any {
        None => return Ok(fixed(&segments)),
        Some(at) => segments.split_at(at),
    };
    let wild = |s: &&Segment<'_>| !matches!(s, Segment::Text(_));
    if after.iter().filter(wild).count() > 1 {
        return Err(format!(
            "nothing but text can follow {ANY}, in the template {value:?}"
        ));
    }
    if before.len() > NAMED_SEGMENTS {
        return Err(format!(
            "a template has at most {NAMED_SEGMENTS} segments before {ANY}"
        ));
    }
    Ok(open(before, after))
}

fn segment(text: &str) -> Option<Segment<'_>> {
    let found = match (text.strip_prefix(ANY), text.strip_prefix(ONE)) {
        (Some(suffix), _) => Segment::Any(suffix),
        (None, Some(suffix)) => Segment::One(suffix),
        (None, None) => Segment::Text(text),
    };
    let (Segment::Text(rest) | Segment::One(rest) | Segment::Any(rest)) = found;
    (!rest.contains(['{', '}', '*'])).then_some(found)
}

/// Without `{**}`: the number of segments pins each `*` of a pattern to one of them.
fn fixed(segments: &[Segment<'_>]) -> Expr {
    let mut texts = vec![String::from("/")];
    let mut tests = Vec::new();
    for (n, segment) in segments.iter().enumerate() {
        if n > 0 {
            add(&mut texts, "/");
        }
        match segment {
            Segment::Text(text) => add(&mut texts, text),
            Segment::One(suffix) | Segment::Any(suffix) => {
                texts.push((*suffix).to_owned());
                let last = n + 1 == segments.len();
                let empty = match last {
                    true => pattern(&["", &format!("/{suffix}")]),
                    false => pattern(&["", &format!("/{suffix}/"), ""]),
                };
                let empty = Expr::test(format!("context.path like {empty}"));
                tests.push(empty.negated());
            }
        }
    }
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let shape = format!("context.path like {}", pattern(&texts));
    let count = format!("context.path_segments.count == {}", segments.len());
    Expr::all(
        [Expr::test(shape), Expr::test(count)]
            .into_iter()
            .chain(tests),
    )
}

fn add(texts: &mut [String], text: &str) {
    if let Some(last) = texts.last_mut() {
        last.push_str(text);
    }
}

/// With `{**}`: what comes before it segment by segment, what comes after it as the end of the path.
fn open(before: &[Segment<'_>], after: &[Segment<'_>]) -> Expr {
    let only_text = before.iter().all(|s| matches!(s, Segment::Text(_)));
    let mut end = String::new();
    for (n, segment) in after.iter().enumerate() {
        let (Segment::Text(text) | Segment::One(text) | Segment::Any(text)) = segment;
        if n > 0 {
            end.push('/');
        }
        end.push_str(text);
    }
    if only_text {
        let mut start = String::from("/");
        for segment in before {
            if let Segment::Text(text) = segment {
                start.push_str(text);
                start.push('/');
            }
        }
        return Expr::test(format!("context.path like {}", pattern(&[&start, &end])));
    }
    let count = before.len() + after.len();
    let mut tests = vec![Expr::test(format!(
        "context.path_segments.count >= {count}"
    ))];
    for (n, segment) in before.iter().enumerate() {
        let name = format!("s{}", n + 1);
        tests.push(Expr::test(format!("context.path_segments has {name}")));
        let subject = format!("context.path_segments.{name}");
        match segment {
            Segment::Text(text) => tests.push(Expr::test(format!("{subject} == {}", quoted(text)))),
            Segment::One(suffix) | Segment::Any(suffix) => {
                tests.push(Expr::test(format!("{subject} != {}", quoted(suffix))));
                if !suffix.is_empty() {
                    let pattern = pattern(&["", suffix]);
                    tests.push(Expr::test(format!("{subject} like {pattern}")));
                }
            }
        }
    }
    if !end.is_empty() {
        let end = pattern(&["", &end]);
        tests.push(Expr::test(format!("context.path like {end}")));
    }
    Expr::all(tests)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(values: &[&str]) -> String {
        let values: Vec<String> = values.iter().map(|v| (*v).to_owned()).collect();
        paths(&values).map_or_else(|(n, text)| format!("{n}: {text}"), |e| e.to_string())
    }

    #[test]
    fn paths_read_as_istio_reads_them() {
        for (values, expected) in [
            (vec!["/a"], r#"context.path == "/a""#),
            (
                vec!["/a*", "*.jpg"],
                r#"context.path like "/a*" || context.path like "*.jpg""#,
            ),
            (vec!["/a", "*"], "true"),
            (
                vec!["/a/{*}/b"],
                r#"context.path like "/a/*/b" && context.path_segments.count == 3 && !(context.path like "*//*")"#,
            ),
            (vec!["/a/{**}"], r#"context.path like "/a/*""#),
            (vec!["/{**}/b.html"], r#"context.path like "/*/b.html""#),
        ] {
            assert_eq!(text(&values), expected, "{values:?}");
        }
        for bad in ["a/{*}", "/a{*}", "/{*}{*}", "/{**}/{*}", "/{*}/*"] {
            assert!(text(&[bad]).starts_with("0: "), "{bad}: {}", text(&[bad]));
        }
    }
}
