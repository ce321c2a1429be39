//! `docs/traffic.md`: every example is taken out, checked, and its commands are run.

#[cfg(test)]
mod guide {
    use std::{
        fs,
        path::Path,
        process::{Command, Output},
    };

    const GUIDE: &str = include_str!("../../docs/traffic.md");
    const BOOKINFO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/bookinfo/mesh");

    /// One task: its heading, its YAML, and its commands with what they print.
    #[derive(Debug, Default)]
    struct Task<'g> {
        heading: &'g str,
        yaml: String,
        sessions: Vec<(&'g str, Vec<&'g str>)>,
    }

    fn tasks(guide: &str) -> Vec<Task<'_>> {
        let mut tasks: Vec<Task<'_>> = Vec::new();
        let mut fence = None;
        for line in guide.lines() {
            match (fence, line.strip_prefix("```")) {
                (None, Some(language)) => fence = Some(language),
                (Some(_), Some(_)) => fence = None,
                (None, None) => {
                    if let Some(heading) = line.strip_prefix("## ") {
                        tasks.push(Task {
                            heading,
                            ..Task::default()
                        });
                    }
                }
                (Some(language), None) => {
                    let Some(task) = tasks.last_mut() else {
                        continue;
                    };
                    match (language, line.strip_prefix("$ ")) {
                        ("yaml", _) => task.yaml.extend([line, "\n"]),
                        ("console", Some(command)) => task.sessions.push((command, Vec::new())),
                        ("console", None) => {
                            if let Some((_, printed)) = task.sessions.last_mut() {
                                printed.push(line);
                            }
                        }
                        _ => {}
                    }
                }
            }
            if fence == Some("yaml")
                && line.starts_with("```")
                && let Some(task) = tasks.last_mut()
            {
                task.yaml.push_str("---\n");
            }
        }
        tasks
    }

    /// `kind/name` of a document.
    fn object(document: &str) -> Option<(String, String)> {
        let kind = document.lines().find_map(|l| l.strip_prefix("kind: "))?;
        let rest = document.split_once("metadata:")?.1;
        let name = rest.split_once("name: ")?.1;
        let end = name.find([',', '}', '\n', ' ']).unwrap_or(name.len());
        Some((kind.trim().to_owned(), name.get(..end)?.trim().to_owned()))
    }

    fn documents(text: &str) -> impl Iterator<Item = &str> {
        let parts = text.split("\n---").flat_map(|part| part.split("---\n"));
        parts.filter(|part| part.contains("kind: "))
    }

    /// The Bookinfo mesh with the task's objects in place of those of the same name.
    fn mesh_of(task: &Task<'_>, folder: &Path) {
        let own: Vec<_> = documents(&task.yaml).filter_map(object).collect();
        for entry in fs::read_dir(BOOKINFO).expect("the demo's folder") {
            let path = entry.expect("an entry").path();
            let text = fs::read_to_string(&path).expect("a file of the demo's");
            let name = path.file_name().expect("a name");
            let kept = match path.extension().is_some_and(|e| e == "yaml") {
                true => {
                    let others =
                        documents(&text).filter(|d| !object(d).is_some_and(|o| own.contains(&o)));
                    others.map(|d| format!("---\n{d}\n")).collect()
                }
                false => text,
            };
            fs::write(folder.join(name), kept).expect("a copy");
        }
        fs::write(folder.join("example.yaml"), &task.yaml).expect("the example");
    }

    fn reeve(args: &[&str], folder: &Path) -> Output {
        let args = args.iter().map(|arg| match *arg {
            "mesh" => folder.to_str().expect("a path"),
            other => other,
        });
        let mut command = Command::new(env!("CARGO_BIN_EXE_reeve"));
        command.args(args).output().expect("`reeve` runs")
    }

    /// Whether `printed` has the `expected` lines in order; without a `...` between them they follow each other.
    fn agrees(printed: &str, expected: &[&str]) -> bool {
        let mut rest: Vec<&str> = printed.lines().collect();
        let mut anywhere = false;
        for line in expected {
            if *line == "..." {
                anywhere = true;
                continue;
            }
            let same = |l: &str| match line.strip_suffix("...") {
                Some(start) => l.starts_with(start),
                None => l.trim_end() == line.trim_end(),
            };
            let at = rest.iter().position(|l| same(l));
            match at {
                Some(at) if anywhere || at == 0 => drop(rest.drain(..=at)),
                _ => return false,
            }
            anywhere = false;
        }
        anywhere || rest.is_empty()
    }

    #[test]
    fn every_example_of_the_guide_is_accepted_and_its_commands_print_what_it_says() {
        let tasks = tasks(GUIDE);
        // A section may describe a tool and have no configuration of its own.
        let examples: Vec<_> = tasks.iter().filter(|task| !task.yaml.is_empty()).collect();
        assert!(examples.len() >= 9, "the guide has its examples");
        for task in examples {
            let heading = task.heading;
            let folder = tempfile::tempdir().expect("a folder");
            mesh_of(task, folder.path());
            let check = reeve(&["config", "check", "-f", "mesh"], folder.path());
            let said = String::from_utf8_lossy(&check.stdout);
            assert!(check.status.success(), "{heading}: {said}");
            assert!(!said.contains("warning["), "{heading}: {said}");
            for (command, expected) in &task.sessions {
                let words: Vec<&str> = command.split_whitespace().collect();
                assert_eq!(words.first(), Some(&"reeve"), "{heading}: {command}");
                let output = reeve(&words[1..], folder.path());
                let printed = String::from_utf8_lossy(&output.stdout);
                let errors = String::from_utf8_lossy(&output.stderr);
                assert!(
                    agrees(&printed, expected),
                    "{heading}: `{command}` printed\n{printed}{errors}\nnot\n{}",
                    expected.join("\n")
                );
            }
        }
    }

    #[test]
    fn a_guide_that_says_something_else_is_found_out() {
        let printed = "a\nb\nc\n";
        for (expected, agreed) in [
            (&["a", "b", "c"][..], true),
            (&["...", "c"], true),
            (&["a", "..."], true),
            (&["a", "c"], false),
            (&["..."], true),
            (&["...", "d"], false),
            (&["a", "b"], false),
            (&[], false),
            (&["a...", "b", "c"], true),
            (&["x...", "b", "c"], false),
        ] {
            assert_eq!(agrees(printed, expected), agreed, "{expected:?}");
        }
    }
}
