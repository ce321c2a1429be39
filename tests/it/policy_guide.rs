//! `docs/policies.md`: its commands, run one after the other on the demo's mesh, print what the page says.

use std::{path::Path, time::Duration};

use reeve_tests::{Call, Connection, Folder, Mesh, Outcome, Protocol, binary, run};

const GUIDE: &str = include_str!("../../docs/policies.md");
/// Longest run of one command.
const LIMIT: Duration = Duration::from_secs(60);

/// A command, and the lines that it prints.
pub(crate) type Session<'g> = (&'g str, Vec<&'g str>);

pub(crate) fn sessions(guide: &str) -> Vec<Session<'_>> {
    let mut sessions: Vec<Session<'_>> = Vec::new();
    let mut inside = false;
    for line in guide.lines() {
        if let Some(language) = line.strip_prefix("```") {
            inside = language == "console";
            continue;
        }
        match (inside, line.strip_prefix("$ ")) {
            (true, Some(command)) => sessions.push((command, Vec::new())),
            (true, None) => {
                let last = sessions
                    .last_mut()
                    .expect("a command before what it prints");
                last.1.push(line);
            }
            (false, _) => {}
        }
    }
    sessions
}

/// The words of a command line; quotes keep some together.
pub(crate) fn words(command: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (quoted, part) in command
        .split('"')
        .enumerate()
        .map(|(n, part)| (n % 2 == 1, part))
    {
        match quoted {
            true => words.push(part.to_owned()),
            false => words.extend(part.split_whitespace().map(str::to_owned)),
        }
    }
    words
}

/// Whether `printed` has the `expected` lines in order; without a `...` between them they follow each other. Within a
/// line, `...` stands for anything.
pub(crate) fn agrees(printed: &str, expected: &[&str]) -> bool {
    let mut rest: Vec<&str> = printed.lines().collect();
    let mut anywhere = false;
    for line in expected {
        if *line == "..." {
            anywhere = true;
            continue;
        }
        let Some(at) = rest.iter().position(|l| is_like(l.trim_end(), line)) else {
            return false;
        };
        if at > 0 && !anywhere {
            return false;
        }
        drop(rest.drain(..=at));
        anywhere = false;
    }
    anywhere || rest.is_empty()
}

fn is_like(printed: &str, expected: &str) -> bool {
    let mut parts = expected.split("...");
    let Some(mut rest) = parts.next().and_then(|start| printed.strip_prefix(start)) else {
        return false;
    };
    let mut last = None;
    for part in parts {
        let Some(at) = rest.find(part) else {
            return false;
        };
        rest = &rest[at + part.len()..];
        last = Some(part);
    }
    rest.is_empty() || last == Some("")
}

pub(crate) async fn reeve(mesh: &Mesh, at: &Path, words: &[String]) -> Outcome {
    let state = mesh.state.display().to_string();
    let script = format!("cd '{}' && exec \"$0\" \"$@\"", at.display());
    let program = binary("reeve").display().to_string();
    let mut args = vec!["-c", script.as_str(), program.as_str()];
    args.extend(words.iter().map(String::as_str));
    run(
        Path::new("/bin/sh"),
        &args,
        &[("REEVE_STATE", &state)],
        LIMIT,
    )
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_guides_commands_print_what_it_says() {
    let mesh = Mesh::start(Folder::bookinfo()).await;
    let visitor = Connection::open(mesh.inbound("ingress-0", 8080), Protocol::Http1).await;
    let mut visitor = visitor.expect("a connection to the gateway");
    let ratings = Call::get("bookinfo.example", "/api/v1/products/0/ratings");
    let denied = visitor.send(&ratings).await.expect("an answer");
    assert_eq!(denied.status, 403, "{}", denied.text());
    let record = mesh
        .record("the denial by ratings", |record| {
            record["decision"]["effect"] == "deny"
                && record["request"]["resource"]["services"][0]
                    == "ratings.default.svc.cluster.local"
        })
        .await;
    let id = record["decision_id"].as_str().expect("an id");

    let folder = mesh.folder.path().display().to_string();
    let scratch = Folder::new();
    let sessions = sessions(GUIDE);
    assert!(sessions.len() >= 12, "the guide has its commands");
    for (command, expected) in sessions {
        let mut words: Vec<String> = words(command);
        assert_eq!(words.remove(0), "reeve", "{command}");
        for word in &mut words {
            match word.as_str() {
                "DECISION_ID" => id.clone_into(word),
                "mesh" => folder.clone_into(word),
                _ => {}
            }
        }
        let ran = reeve(&mesh, scratch.path(), &words).await;
        let printed = ran.stdout.replace(&folder, "mesh");
        assert!(
            agrees(&printed, &expected),
            "`{command}` printed\n{printed}{}\nnot\n{}",
            ran.stderr,
            expected.join("\n")
        );
    }
    mesh.verify_audit().await;
}

#[test]
fn a_guide_that_says_something_else_is_found_out() {
    for (printed, expected, agreed) in [
        ("a\nb\n", &["a", "b"][..], true),
        ("a\nb\n", &["a", "..."], true),
        ("a\nb\n", &["..."], true),
        ("a\nb\n", &["b"], false),
        ("a\nb\n", &["a"], false),
        ("set 1 is on all 9", &["set ... is on all ..."], true),
        ("set 1 is off", &["set ... is on all ..."], false),
        ("set 1", &["set 1..."], true),
        ("x set 1", &["set ..."], false),
    ] {
        assert_eq!(agrees(printed, expected), agreed, "{expected:?}");
    }
}
