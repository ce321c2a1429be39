//! `reeve policy suggest`.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use clap::Args;
use reeve_analysis::{Groups, Suggestion, Suggestions, suggest};
use reeve_core::error_chain;

use super::trail::{self, TrailArgs};
use crate::{
    output::{self, Format, OutputArgs},
    problem::{Answer, Problem, Verdict},
    supervisor::load,
};

pub(super) const EXAMPLES: &str = "\
Examples:
  reeve policy suggest --service reviews                   on standard output: AccessPolicy objects
  reeve policy suggest --namespace shop --since 7d --out suggested
  reeve policy suggest --service reviews -f mesh           teams and other groups of the mesh's own in the place of callers
  reeve policy suggest --dir backup/audit -o json | jq -r '.suggestions[].cedar'

What was allowed becomes a permit for each caller: its methods, and its paths with ids as wildcards. Comments say what each
rests on (counts, first and last, example ids) and what was generalised. Policies that bind and forbid go on to bind beside
them; permits that are there go on to permit. To see what the suggestions alone would change, put them in place of the
permits in a copy of the folder and ask `reeve policy whatif -f COPY`.

With --folder, callers that do the same are named by a group of the mesh's own if they are just those who are in it
(AccessEntities); groups that labels fill are not used, since whoever writes a workload may label it.

--out writes DIR/policies (configuration) and DIR/cases (for `reeve policy test`); no file is ever overwritten.

Exit codes: 0 = there are suggestions, 1 = nothing was allowed that a policy can name, 2 = they could not be made.";

/// `reeve policy suggest`.
#[derive(Args, Debug)]
pub(super) struct SuggestArgs {
    /// Write files to this folder instead of standard output.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// The mesh's folder: callers that are all who are in a group of its own are named by the group.
    #[arg(short = 'f', long = "folder", value_name = "DIR")]
    folder: Option<PathBuf>,
    #[command(flatten)]
    trail: TrailArgs,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) fn run(args: &SuggestArgs) -> Verdict {
    let groups = match &args.folder {
        Some(folder) => {
            let mesh = load(folder)?;
            Groups::new(mesh.schema(), Arc::new(mesh.known_entities().to_vec()))
        }
        None => Groups::default(),
    };
    let trail = args.trail.open()?;
    let made = trail::with_progress(trail.scan.records(), |read| {
        suggest(&trail.scan, &trail.wanted, &groups, read)
    });
    let made = made.map_err(|error| {
        Problem::new(error_chain(&error)).fix("`reeve audit verify` tells what is wrong with a log")
    })?;
    trail.tell(made.decisions);
    if let Some(out) = &args.out {
        write_files(out, &made.suggestions)?;
    }
    match (args.output.output, &args.out) {
        (Format::Json, _) => output::json(&made)?,
        (Format::Human, None) => {
            let objects: Vec<_> = made.suggestions.iter().map(object).collect();
            if !objects.is_empty() {
                output::line(objects.join("---\n").trim_end())?;
            }
        }
        (Format::Human, Some(_)) => {}
    }
    output::note(&summary(&made));
    Ok(Answer::from_fine(!made.suggestions.is_empty()))
}

fn summary(made: &Suggestions) -> String {
    let Suggestions {
        decisions,
        allowed,
        unnamed,
        transformed,
        suggestions,
    } = made;
    let mut text = format!(
        "{} suggestions from {allowed} allowed of {decisions} decisions",
        suggestions.len()
    );
    if *unnamed > 0 {
        text.push_str(&format!(
            "; {unnamed} more went to addresses outside the mesh that no policy can name"
        ));
    }
    if *transformed > 0 {
        text.push_str(&format!(
            "; {transformed} were transformed, and must be permitted as they were before, too, which is not recorded"
        ));
    }
    text
}

/// The suggestion as an object of configuration.
fn object(suggestion: &Suggestion) -> String {
    let Suggestion {
        namespace,
        name,
        cedar,
        ..
    } = suggestion;
    let mut text = format!(
        "apiVersion: reeve.dev/v1alpha1\nkind: AccessPolicy\nmetadata:\n  name: {name}\n  namespace: {namespace}\n\
         spec:\n  cedar: |\n"
    );
    for line in cedar.trim_end().lines() {
        if !line.is_empty() {
            text.push_str("    ");
            text.push_str(line);
        }
        text.push('\n');
    }
    text
}

fn write_files(out: &Path, suggestions: &[Suggestion]) -> Result<(), Problem> {
    for (kind, content) in [
        ("policies", object as fn(&Suggestion) -> String),
        ("cases", |s| s.cases.clone()),
    ] {
        let folder = out.join(kind);
        fs::create_dir_all(&folder).map_err(|error| unwritten(&folder, &error))?;
        for suggestion in suggestions {
            let file = format!("{}-{}.yaml", suggestion.namespace, suggestion.name);
            write_new(&folder.join(file), &content(suggestion))?;
        }
    }
    Ok(())
}

fn write_new(path: &Path, text: &str) -> Result<(), Problem> {
    let opened = OpenOptions::new().write(true).create_new(true).open(path);
    let written = opened.and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|error| unwritten(path, &error))
}

fn unwritten(path: &Path, error: &io::Error) -> Problem {
    let problem = Problem::because("a suggestion could not be written", error).at(path.display());
    if error.kind() == io::ErrorKind::AlreadyExists {
        problem.fix("nothing is overwritten: name another folder")
    } else {
        problem
    }
}
