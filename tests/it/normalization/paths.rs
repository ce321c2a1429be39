//! Paths, and what each mode makes of them.

use super::{
    Row,
    wire::{Http, Outcome, Sent},
};

/// A column of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Refuse,
    None,
    Base,
    Merge,
    Decode,
}

/// In the order in which they are tried: first the default, at last again, by its name.
pub(super) const MODES: [(Mode, &str); 6] = [
    (Mode::Refuse, "default"),
    (Mode::None, "NONE"),
    (Mode::Base, "BASE"),
    (Mode::Merge, "MERGE_SLASHES"),
    (Mode::Decode, "DECODE_AND_MERGE_SLASHES"),
    (Mode::Refuse, "REFUSE_AMBIGUOUS"),
];

/// Refused with 400.
const NO: &str = "";
/// As it was sent.
const SAME: &str = "=";
/// As `BASE` has it.
const BASE: &str = "b";

/// What is sent, and what is judged and seen with `BASE`, `MERGE_SLASHES`, `DECODE_AND_MERGE_SLASHES` and by default. With
/// `NONE` it is what was sent, unless the path is not ASCII.
type Path = (
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    &'static str,
);

#[rustfmt::skip]
const PATHS: &[Path] = &[
    // Nothing to do.
    ("/", SAME, SAME, SAME, SAME),
    ("/a", SAME, SAME, SAME, SAME),
    ("/a/", SAME, SAME, SAME, SAME),
    ("/A/b", SAME, SAME, SAME, SAME),
    ("/Admin", SAME, SAME, SAME, SAME),
    ("/.a/..b/c..", SAME, SAME, SAME, SAME),
    ("/a/.../b", SAME, SAME, SAME, SAME),
    ("/a.", SAME, SAME, SAME, SAME),
    ("/a+b", SAME, SAME, SAME, SAME),
    ("/a:b@c!$&'()*,=", SAME, SAME, SAME, SAME),
    ("/~u/-/_", SAME, SAME, SAME, SAME),
    ("/a;x=1/b;y", SAME, SAME, SAME, SAME),
    ("/a%20b", SAME, SAME, SAME, SAME),
    ("/%e3%81%82", SAME, SAME, SAME, SAME),
    ("/a%3Fb%23c", SAME, SAME, SAME, SAME),
    // Dot segments.
    ("/a/./b", "/a/b", BASE, BASE, BASE),
    ("/./a", "/a", BASE, BASE, BASE),
    ("/a/.", "/a/", BASE, BASE, BASE),
    ("/a/../b", "/b", BASE, BASE, BASE),
    ("/a/b/..", "/a/", BASE, BASE, BASE),
    ("/..", "/", BASE, BASE, BASE),
    ("/../../x", "/x", BASE, BASE, BASE),
    ("/a/b/../../../../x", "/x", BASE, BASE, BASE),
    ("/../../admin", "/admin", BASE, BASE, BASE),
    ("/a/../admin/x", "/admin/x", BASE, BASE, BASE),
    ("/a/b/../../admin", "/admin", BASE, BASE, BASE),
    ("/admin/..", "/", BASE, BASE, BASE),
    // Encoded dots and other characters that need no escape.
    ("/%61dmin", "/admin", BASE, BASE, BASE),
    ("/%41", "/A", BASE, BASE, BASE),
    ("/a%7eb%2D", "/a~b-", BASE, BASE, BASE),
    ("/a%2E", "/a.", BASE, BASE, BASE),
    ("/%2e/a", "/a", BASE, BASE, BASE),
    ("/a/%2e", "/a/", BASE, BASE, BASE),
    ("/a/.%2e/b", "/b", BASE, BASE, BASE),
    ("/a/%2e%2e/b", "/b", BASE, BASE, BASE),
    ("/a/%2E%2e/admin", "/admin", BASE, BASE, BASE),
    // Repeated slashes.
    ("//a", SAME, "/a", "/a", NO),
    ("//admin", SAME, "/admin", "/admin", NO),
    ("/a//b", SAME, "/a/b", "/a/b", NO),
    ("/a///b//", SAME, "/a/b/", "/a/b/", NO),
    ("/a//../b", "/a/b", BASE, BASE, BASE),
    ("/a/....//b", SAME, "/a/..../b", "/a/..../b", NO),
    ("/a/..//admin", "//admin", "/admin", "/admin", NO),
    // Encoded slashes and back-slashes.
    ("/a%2Fb", SAME, SAME, "/a/b", NO),
    ("/a%2fb", SAME, SAME, "/a/b", NO),
    ("/a/%2F/b", SAME, SAME, "/a/b", NO),
    ("/%2Fadmin", SAME, SAME, "/admin", NO),
    ("/a/..%2fadmin", SAME, SAME, "/admin", NO),
    ("/a/%2e%2e%2fb", "/a/..%2fb", BASE, "/b", NO),
    ("/a%5Cb", SAME, SAME, "/a/b", NO),
    ("/a%5cb", SAME, SAME, "/a/b", NO),
    ("/a/..%5cadmin", SAME, SAME, "/admin", NO),
    ("/a%5C%2e%2e%5Cadmin", "/a%5C..%5Cadmin", BASE, "/admin", NO),
    ("/a\\b", "/a/b", BASE, BASE, BASE),
    ("/a\\..\\admin", "/admin", BASE, BASE, BASE),
    ("/a\\\\b", "/a//b", "/a/b", "/a/b", NO),
    // Encoded twice: the application must not decode twice.
    ("/a%252fb", SAME, SAME, SAME, SAME),
    ("/a/%252e%252e/b", SAME, SAME, SAME, SAME),
    ("/%2561dmin", SAME, SAME, SAME, SAME),
    // Dots in disguise.
    ("/a/..;/admin", SAME, SAME, SAME, NO),
    ("/a/.;x=1/b", SAME, SAME, SAME, NO),
    ("/a/%2e%2e;/admin", "/a/..;/admin", BASE, BASE, NO),
    ("/a/%c0%ae%c0%ae/admin", SAME, SAME, SAME, NO),
    ("/a%c0%afadmin", SAME, SAME, SAME, NO),
    ("/a/%e0%80%ae./admin", SAME, SAME, SAME, NO),
    // No path of a URL.
    ("/a%zz", NO, NO, NO, NO),
    ("/a%", NO, NO, NO, NO),
    ("/a%2", NO, NO, NO, NO),
    ("/a%00b", NO, NO, NO, NO),
    ("/%u002e%u002e/a", NO, NO, NO, NO),
    ("/é", "/%C3%A9", BASE, BASE, BASE),
    // The query is the application's.
    ("/a?x=/../b//c%2f", SAME, SAME, SAME, SAME),
    ("/a/../b?y=1&y=2", "/b?y=1&y=2", BASE, BASE, BASE),
    ("/a?", SAME, SAME, SAME, SAME),
    ("/a??x", SAME, SAME, SAME, SAME),
];

/// The target that is seen, `None` = 400.
fn target((sent, base, merge, decode, refuse): Path, mode: Mode) -> Option<String> {
    let own = match mode {
        Mode::None if !sent.is_ascii() => NO,
        Mode::None => SAME,
        Mode::Base => base,
        Mode::Merge => merge,
        Mode::Decode => decode,
        Mode::Refuse => refuse,
    };
    let own = if own == BASE { base } else { own };
    match own {
        NO => None,
        SAME => Some(sent.to_owned()),
        other => Some(other.to_owned()),
    }
}

/// Every path, on both protocols.
pub(super) fn rows(mode: Mode, name: &str) -> Vec<Row> {
    let paths = PATHS.iter().enumerate();
    let both = paths.flat_map(|(n, path)| [(n, path, Http::One), (n, path, Http::Two)]);
    both.map(|(n, path, http)| Row {
        id: format!("{name}-{http:?}-{n}"),
        sent: Sent::get(http, path.0),
        expected: match target(*path, mode) {
            None => Outcome::Answered(400),
            Some(target) if target.starts_with("/admin") => Outcome::Answered(403),
            Some(target) => Outcome::saw(&target),
        },
    })
    .collect()
}

/// The path that policies must have been asked of.
pub(super) fn judged(sent: &Sent, mode: Mode) -> Option<String> {
    let path = PATHS.iter().find(|path| path.0 == sent.target)?;
    let target = target(*path, mode)?;
    Some(target.split('?').next().unwrap_or_default().to_owned())
}
