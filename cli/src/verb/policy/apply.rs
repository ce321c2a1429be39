//! `reeve policy apply` and `reeve policy rollback`: policies are changed where they are written, once it is shown what
//! that means, and the answer comes when every proxy is bound by them.

mod force;
mod interrupted;
mod rehearsal;

use std::{
    io::{self, BufRead as _, IsTerminal as _},
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use reeve_control::{Mesh, Only, PolicyFolder, PolicyObject};
use reeve_core::{Clock as _, SystemClock};
use serde::Serialize;

pub(crate) use self::interrupted::finish as finish_interrupted;
use self::{force::InForce, rehearsal::Rehearsal};
use super::{
    CASES,
    diff::{self, Difference, short},
    history::{Entry, Store, What},
    place, whatif,
};
use crate::{
    output::{self, Format, OutputArgs},
    problem::{Answer, Problem, Verdict},
    state::StateArgs,
    verb::duration,
};

pub(super) const APPLY_EXAMPLES: &str = "\
Examples:
  reeve policy apply new.yaml                               one policy more, or another text for it, in the running mesh
  reeve policy apply candidate --only --note 'review 42'    these policies and no others
  reeve policy apply teams.yaml                             an AccessSchema or AccessEntities: who is in which group
  reeve policy apply candidate --to mesh --yes              a folder that no mesh may be running on
  reeve policy apply candidate --dry-run -o json            what it would change

The objects of the files named – AccessPolicy, AccessRole, AccessRoleBinding, AccessSchema, AccessEntities – take the place of
those with the same kind and name in the mesh's folder; new ones are added in a file of the same name. Before anything is written, the policies are checked (`reeve policy check`), the cases in
.reeve/policy-tests – there and beside what is applied – and --tests are tried (`reeve policy test`), decisions that the
mesh has recorded are replayed (`reeve policy whatif`), and what changes is shown (`reeve policy diff`). All files change at
once for whoever reads the folder; if this is killed on the way, the folder is not read until the next apply, rollback or
`reeve up` has finished it. The set that was there is kept, see `reeve policy history`. Then, if a mesh
runs on the folder, it waits until every proxy is bound by the new set, told by its hash.

Exit codes: 0 = in force (or nothing to change), 1 = refused, by a check, a case or a proxy, or time ran out, 2 = it could
not be done.";

pub(super) const ROLLBACK_EXAMPLES: &str = "\
Examples:
  reeve policy rollback                   to the set before the one that is there
  reeve policy rollback 3f2a91c0          to a set of `reeve policy history`
  reeve policy rollback --to mesh --yes

It is an apply of a kept set: checked, shown, written and waited for in the same way; cases are not tried.

Exit codes: 0 = in force (or nothing to change), 1 = refused, or time ran out, 2 = it could not be done.";

/// `reeve policy apply`.
#[derive(Args, Debug)]
pub(super) struct ApplyArgs {
    /// Files of YAML, or folders of them.
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Remove the others from the folder: those of the kinds that the files have.
    #[arg(long)]
    only: bool,
    /// More cases to try (.yaml, .yml, .json, or folders).
    #[arg(long, value_name = "PATH")]
    tests: Vec<PathBuf>,
    #[command(flatten)]
    common: CommonArgs,
}

/// `reeve policy rollback`.
#[derive(Args, Debug)]
pub(super) struct RollbackArgs {
    /// The set, by the beginning of its hash [default: the one before].
    #[arg(value_name = "HASH")]
    hash: Option<String>,
    #[command(flatten)]
    common: CommonArgs,
}

#[derive(Args, Debug)]
struct CommonArgs {
    /// The folder to change [default: the running mesh's].
    #[arg(long, value_name = "DIR")]
    to: Option<PathBuf>,
    /// Do not ask.
    #[arg(short, long)]
    yes: bool,
    /// Show what would change, and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// What for; kept in the history.
    #[arg(long, value_name = "TEXT")]
    note: Option<String>,
    /// Replay the decisions that the mesh recorded since then: RFC 3339, seconds since 1970, or 24h for a day ago.
    #[arg(long, value_name = "TIME", default_value = "24h")]
    replay: String,
    /// How long to wait until every proxy is bound by it.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    timeout: Duration,
    #[command(flatten)]
    state: StateArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// What is to be in the folder.
struct Wanted<'a> {
    objects: Vec<PolicyObject>,
    only: Only,
    what: What,
    /// What the set was called when it was kept.
    hash: Option<&'a str>,
    /// Cases to try, if any are.
    tests: Option<&'a [PathBuf]>,
    /// Recorded decisions since then are replayed.
    since: &'a str,
}

/// What came of it.
#[derive(Debug, Serialize)]
struct Outcome {
    difference: Difference,
    rehearsal: Rehearsal,
    /// The files that change, or would.
    files: Vec<String>,
    applied: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    in_force: Option<InForce>,
}

pub(super) fn apply(args: &ApplyArgs) -> Verdict {
    let mut objects: Vec<PolicyObject> = Vec::new();
    for path in &args.paths {
        let read = diff::read(path)?;
        let found = read.objects();
        let found = found.map_err(|error| unusable(path, &error))?;
        if found.is_empty() {
            return Err(Problem::new("there is no AccessPolicy here").at(path.display()).fix(
                "what is applied are AccessPolicy, AccessRole, AccessRoleBinding, AccessSchema and AccessEntities",
            ));
        }
        if read.others() > 0 {
            let others = read.others();
            output::note(&format!(
                "note: {others} objects of {} are no part of a policy set and are not applied",
                path.display()
            ));
        }
        for object in found {
            let key = |o: &PolicyObject| (o.kind, o.namespace.clone(), o.name.clone());
            if objects.iter().any(|known| key(known) == key(&object)) {
                let kind = object.kind.as_str();
                let name = format!("{kind} {}/{}", object.namespace, object.name);
                return Err(Problem::new(format!("{name} is in several of the files")));
            }
            objects.push(object);
        }
    }
    let only = match args.only {
        true => Only::OfTheirKinds,
        false => Only::AndOthers,
    };
    let own = args.paths.iter().map(|path| path.join(CASES));
    let tests: Vec<_> = own
        .filter(|path| path.is_dir())
        .chain(args.tests.iter().cloned())
        .collect();
    let wanted = Wanted {
        objects,
        only,
        what: What::Apply,
        hash: None,
        tests: Some(&tests),
        since: &args.common.replay,
    };
    carry_out(&args.common, wanted)
}

pub(super) fn rollback(args: &RollbackArgs) -> Verdict {
    let folder = place::folder(args.common.to.as_deref(), &args.common.state)?;
    // What is gone back from is then what is there.
    if !args.common.dry_run {
        finish_interrupted(&folder)?;
    }
    let store = Store::of(&folder);
    let hash = match &args.hash {
        Some(hash) => store.hash(hash)?,
        None => previous(&store, &folder)?,
    };
    let wanted = Wanted {
        objects: store.objects(&hash)?,
        only: Only::These,
        what: What::Rollback,
        hash: Some(&hash),
        tests: None,
        since: &args.common.replay,
    };
    carry_out(&args.common, wanted)
}

/// The last applied set that is not the one that is there.
fn previous(store: &Store, folder: &Path) -> Result<String, Problem> {
    let now = diff::read(folder)?.mesh().ok().map(|mesh| mesh.policy_hash);
    let entries = store.entries()?;
    // What was rolled back from is not gone back to by rolling back again.
    let at = entries
        .iter()
        .position(|entry| Some(&entry.hash) == now.as_ref())
        .unwrap_or(entries.len());
    let before = entries.get(..at).unwrap_or_default();
    before
        .last()
        .map(|entry| entry.hash.clone())
        .ok_or_else(|| {
            Problem::new("there is no set before the one that is there")
                .at(folder.display())
                .fix("`reeve policy history` lists what was applied; name one by its hash")
        })
}

fn carry_out(args: &CommonArgs, wanted: Wanted<'_>) -> Verdict {
    let folder = place::folder(args.to.as_deref(), &args.state)?;
    if !args.dry_run {
        finish_interrupted(&folder)?;
    }
    let current = diff::read(&folder)?;
    let next = current.with(&wanted.objects, wanted.only);
    let next = next.map_err(|error| unusable(&folder, &error))?;
    let after = diff::resolved(&next, "the folder with these policies")?;
    if let Some(kept) = wanted.hash.filter(|hash| *hash != after.policy_hash) {
        output::note(&format!(
            "note: set {} is {} now: what it rests on beside its own objects, such as labels, has changed since",
            short(kept),
            short(&after.policy_hash)
        ));
    }
    // What is there may be what has to be repaired.
    let before = current.mesh().ok();
    let difference = match &before {
        Some(before) => diff::difference(before, &after)?,
        None => Difference {
            after: after.policy_hash.clone(),
            ..Difference::default()
        },
    };
    let files = current.differing(&next);
    let mut rehearsal = rehearsal::of((&next, &after), &folder, &difference, wanted.tests)?;
    if !files.is_empty() && force::runs_on(&folder, &args.state).is_some() {
        let found = whatif::rehearse(&after, &folder, (&args.state, wanted.since))?;
        rehearsal.replay(found);
    }
    let mut outcome = Outcome {
        difference,
        rehearsal,
        files,
        applied: false,
        in_force: None,
    };
    if args.output.output == Format::Human {
        output::line(&outcome.plan())?;
    }
    let refused = !outcome.rehearsal.passed;
    if !refused && !args.dry_run && !outcome.files.is_empty() {
        if !args.yes && !agreed()? {
            output::note("nothing was changed");
            return Ok(Answer::No);
        }
        write(args, &wanted, &folder, (&current, &next), (&before, &after))?;
        outcome.applied = true;
    }
    if !refused && !args.dry_run {
        outcome.in_force = force::wait(&folder, &args.state, &after.policy_hash, args.timeout)?;
    }
    tell(args, &outcome)
}

fn write(
    args: &CommonArgs,
    wanted: &Wanted<'_>,
    folder: &Path,
    (current, next): (&PolicyFolder, &PolicyFolder),
    (before, after): (&Option<Mesh>, &Mesh),
) -> Result<(), Problem> {
    let store = Store::of(folder);
    let objects = |of: &PolicyFolder| of.objects().map_err(|error| unusable(folder, &error));
    let entry = |what, hash: &str| Entry {
        number: 0,
        time: SystemClock.now(),
        what,
        hash: hash.to_owned(),
        by: who(),
        note: args.note.clone().filter(|_| what != What::Found),
    };
    if let Some(before) = before {
        let last = store.entries()?.pop();
        store.keep(&before.policy_hash, &objects(current)?)?;
        if last.is_none_or(|last| last.hash != before.policy_hash) {
            store.add(entry(What::Found, &before.policy_hash))?;
        }
    }
    store.keep(&after.policy_hash, &objects(next)?)?;
    let entry = entry(wanted.what, &after.policy_hash);
    let memo = serde_json::to_string(&entry).map_err(Problem::new)?;
    let change = current.replace(folder, next, &memo);
    let change = change.map_err(|error| unusable(folder, &error))?;
    store.add(entry)?;
    change.finish().map_err(|error| unusable(folder, &error))
}

/// Who runs this, as the system knows them.
pub(crate) fn who() -> String {
    let uid = rustix::process::getuid().as_raw();
    std::env::var("SUDO_USER")
        .or_else(|_| std::env::var("USER"))
        .ok()
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| format!("uid {uid}"))
}

fn agreed() -> Result<bool, Problem> {
    let input = io::stdin();
    if !input.is_terminal() {
        return Err(
            Problem::new("nobody is there to be asked, and nothing was changed")
                .fix("add --yes to apply without asking, or --dry-run to look only"),
        );
    }
    output::note("Apply? [y/N]");
    let mut answer = String::new();
    input
        .lock()
        .read_line(&mut answer)
        .map_err(|error| Problem::because("the answer cannot be read", &error))?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

fn tell(args: &CommonArgs, outcome: &Outcome) -> Verdict {
    let late = outcome
        .in_force
        .as_ref()
        .is_some_and(|force| !force.everywhere);
    match args.output.output {
        Format::Json => output::json(outcome)?,
        Format::Human => output::line(&outcome.result(args.dry_run))?,
    }
    Ok(Answer::from_fine(outcome.rehearsal.passed && !late))
}

fn unusable(folder: &Path, error: &dyn std::error::Error) -> Problem {
    Problem::because("the policies cannot be changed", error).at(folder.display())
}

impl Outcome {
    fn plan(&self) -> String {
        format!("{}\n\n{}", self.difference.told(), self.rehearsal)
    }

    fn result(&self, dry_run: bool) -> String {
        let hash = short(&self.difference.after);
        if !self.rehearsal.passed {
            return "refused: nothing was changed".to_owned();
        }
        let mut lines = Vec::new();
        match (dry_run, self.applied) {
            (true, _) => lines.push(format!("would change: {}", self.files.join(", "))),
            (false, true) => lines.push(format!("changed: {}", self.files.join(", "))),
            (false, false) => lines.push("nothing to change".to_owned()),
        }
        match &self.in_force {
            Some(force) => lines.push(force.told(hash)),
            None if dry_run => {}
            None => lines.push(format!("policy set {hash}; no mesh runs on this folder")),
        }
        lines.join("\n")
    }
}
