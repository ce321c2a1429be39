//! `reeve policy diff`, and what `apply` shows before it asks.

mod lines;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use clap::Args;
use reeve_control::{Mesh, Only, PolicyFolder, PolicyObject};
use reeve_core::{PolicyId, model::PolicySource};
use serde::Serialize;

use super::{
    access::{self, AccessChange},
    history::Store,
    place,
};
use crate::{
    output::{self, Format, OutputArgs},
    problem::{Answer, Problem, Verdict},
    state::StateArgs,
};

pub(super) const EXAMPLES: &str = "\
Examples:
  reeve policy diff mesh candidate            two folders
  reeve policy diff 3f2a91c0 mesh             an applied set (see `reeve policy history`) and a folder
  reeve policy diff mesh candidate -o json

Policies are compared by id, and what they mean by asking who can call what, with each method, before and after. Services
and workloads are those of the second folder, or of the first if the second has none. Service states, PeerAuthentication and
routes are not looked at.

Exit codes: 0 = the same policies, 1 = others, 2 = it could not be said.";

/// `reeve policy diff`.
#[derive(Args, Debug)]
pub(super) struct DiffArgs {
    /// What is: a folder of YAML files, a file, or the hash of an applied set.
    #[arg(value_name = "A")]
    before: String,
    /// What would be.
    #[arg(value_name = "B")]
    after: String,
    /// The folder whose history has the hashes [default: the running mesh's].
    #[arg(long, value_name = "DIR")]
    to: Option<PathBuf>,
    #[command(flatten)]
    state: StateArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// What is different.
#[derive(Debug, Default, Serialize)]
pub(super) struct Difference {
    /// Hashes of the policy sets.
    pub(super) before: String,
    pub(super) after: String,
    pub(super) policies: Vec<PolicyChange>,
    /// Who can reach what, where that differs.
    pub(super) access: Vec<AccessChange>,
    /// There is too much to ask about: `access` says nothing.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) access_omitted: bool,
}

/// A policy that is not what it was.
#[derive(Debug, Serialize)]
pub(super) struct PolicyChange {
    pub(super) policy: PolicyId,
    change: Change,
    /// Lines that begin with a blank, `-` or `+`.
    diff: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Change {
    Added,
    Removed,
    Changed,
}

pub(super) fn run(args: &DiffArgs) -> Verdict {
    let before = objects(&args.before, args)?;
    let after = objects(&args.after, args)?;
    // What the policies speak of: the folder that has more than policies.
    let world = [&args.after, &args.before].into_iter();
    let mut world = world.filter(|place| Path::new(place).exists());
    let with_mesh = |place: &String| {
        let folder = read(Path::new(place)).ok()?;
        (folder.others() > 0).then_some(folder)
    };
    let world = match world.find_map(with_mesh) {
        Some(world) => world,
        None => match place::folder(args.to.as_deref(), &args.state) {
            Ok(folder) => read(&folder)?,
            Err(_) => read(Path::new(&args.after))?,
        },
    };
    let difference = difference(
        &put_in(&world, &before, &args.before)?,
        &put_in(&world, &after, &args.after)?,
    )?;
    match args.output.output {
        Format::Json => output::json(&difference)?,
        Format::Human => output::line(&difference.told())?,
    }
    Ok(Answer::from_fine(difference.policies.is_empty()))
}

/// The objects of a folder, a file, or an applied set.
fn objects(text: &str, args: &DiffArgs) -> Result<Vec<PolicyObject>, Problem> {
    let path = Path::new(text);
    if path.exists() {
        return read(path)?
            .objects()
            .map_err(|error| Problem::because("the policies cannot be read", &error).at(text));
    }
    let folder = place::folder(args.to.as_deref(), &args.state)?;
    Store::of(&folder).objects(text)
}

/// Reads a folder or file.
pub(super) fn read(path: &Path) -> Result<PolicyFolder, Problem> {
    PolicyFolder::read(path).map_err(|error| {
        Problem::because("the policies cannot be read", &error)
            .at(path.display())
            .into_answer()
    })
}

/// The mesh of `world` with just these policies.
fn put_in(world: &PolicyFolder, objects: &[PolicyObject], place: &str) -> Result<Mesh, Problem> {
    let folder = world.with(objects, Only::These);
    let folder = folder.map_err(|error| Problem::because("the policies cannot be read", &error))?;
    resolved(&folder, place)
}

/// What a folder says; all faults in one problem.
pub(super) fn resolved(folder: &PolicyFolder, place: &str) -> Result<Mesh, Problem> {
    folder.mesh().map_err(|faults| {
        let told: Vec<_> = faults.iter().map(ToString::to_string).collect();
        Problem::new(format!("the configuration is invalid\n{}", told.join("\n")))
            .at(place)
            .into_answer()
    })
}

/// What differs between the policies of two meshes, which have the same services and workloads.
pub(super) fn difference(before: &Mesh, after: &Mesh) -> Result<Difference, Problem> {
    let policies = changes(&before.policies, &after.policies);
    let access = match policies.is_empty() {
        true => Some(Vec::new()),
        false => access::changes(before, after)?,
    };
    Ok(Difference {
        before: before.policy_hash.clone(),
        after: after.policy_hash.clone(),
        policies,
        access_omitted: access.is_none(),
        access: access.unwrap_or_default(),
    })
}

fn changes(before: &[PolicySource], after: &[PolicySource]) -> Vec<PolicyChange> {
    let by_id = |all: &[PolicySource]| -> BTreeMap<PolicyId, String> {
        all.iter().map(|p| (p.id.clone(), written(p))).collect()
    };
    let (before, after) = (by_id(before), by_id(after));
    let ids: BTreeSet<_> = before.keys().chain(after.keys()).collect();
    let change = |id: &PolicyId| {
        let (change, old, new) = match (before.get(id), after.get(id)) {
            (None, Some(new)) => (Change::Added, "", new.as_str()),
            (Some(old), None) => (Change::Removed, old.as_str(), ""),
            (Some(old), Some(new)) if old != new => (Change::Changed, old.as_str(), new.as_str()),
            _ => return None,
        };
        Some(PolicyChange {
            policy: id.clone(),
            change,
            diff: lines::diff(old, new),
        })
    };
    ids.into_iter().filter_map(change).collect()
}

/// A policy's text, with what it does not say itself.
fn written(policy: &PolicySource) -> String {
    match policy.scope {
        None => format!("// decides for the whole mesh\n{}", policy.text),
        Some(_) => policy.text.clone(),
    }
}

impl Difference {
    /// For people.
    pub(super) fn told(&self) -> String {
        if self.policies.is_empty() {
            return format!("no policy differs (set {})", short(&self.before));
        }
        let mut out = Vec::new();
        for change in &self.policies {
            let word = match change.change {
                Change::Added => "added",
                Change::Removed => "removed",
                Change::Changed => "changed",
            };
            out.push(format!("{word}: {}", change.policy));
            out.extend(change.diff.lines().map(|line| format!("  {line}")));
        }
        out.push(String::new());
        out.push(match (self.access_omitted, self.access.is_empty()) {
            (true, _) => {
                "who can reach what: too many to ask about; see `reeve policy who-can`".to_owned()
            }
            (false, true) => "who can reach what: no difference".to_owned(),
            (false, false) => "who can reach what:".to_owned(),
        });
        out.extend(self.access.iter().map(|change| format!("  {change}")));
        out.push(format!(
            "\npolicy set {} -> {}",
            short(&self.before),
            short(&self.after)
        ));
        out.join("\n")
    }
}

/// A hash as people see it.
pub(super) fn short(hash: &str) -> &str {
    hash.get(..12).unwrap_or(hash)
}
