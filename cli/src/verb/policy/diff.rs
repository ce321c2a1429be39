//! `reeve policy diff`, and what `apply` shows before it asks.

mod entities;
mod lines;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use clap::Args;
use reeve_control::{Mesh, Only, PolicyFolder, PolicyObject};
use reeve_core::{PolicyId, model::PolicySource};
use serde::Serialize;

use self::entities::EntityChange;
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

Policies are compared by id, the schema line by line, what is known of entities (AccessEntities) one by one; and what it all
means by asking who can call what, with each method, before and after. Services and workloads are those of the second folder,
or of the first if the second has none; so are schema and entities, where a file has none. Service states, PeerAuthentication
and routes are not looked at.

Exit codes: 0 = the same policies, schema and entities, 1 = others, 2 = it could not be said.";

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
    /// Lines of the mesh's own schema that begin with a blank, `-` or `+`, if one differs.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) schema: String,
    /// What else is known of entities.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) entities: Vec<EntityChange>,
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

impl Change {
    /// `None`: both are the same.
    fn of<T: PartialEq>(before: Option<&T>, after: Option<&T>) -> Option<Self> {
        match (before, after) {
            (None, Some(_)) => Some(Self::Added),
            (Some(_), None) => Some(Self::Removed),
            (Some(old), Some(new)) if old != new => Some(Self::Changed),
            _ => None,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Removed => "removed",
            Self::Changed => "changed",
        }
    }
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
        &put_in(&world, before, &args.before)?,
        &put_in(&world, after, &args.after)?,
    )?;
    match args.output.output {
        Format::Json => output::json(&difference)?,
        Format::Human => output::line(&difference.told())?,
    }
    Ok(Answer::from_fine(difference.is_nothing()))
}

/// The objects of a folder, a file, or an applied set, which alone has all that there was.
fn objects(text: &str, args: &DiffArgs) -> Result<(Vec<PolicyObject>, Only), Problem> {
    let path = Path::new(text);
    if path.exists() {
        let objects = read(path)?.objects();
        let objects = objects
            .map_err(|error| Problem::because("the policies cannot be read", &error).at(text))?;
        let only = match objects.is_empty() {
            true => Only::These,
            false => Only::OfTheirKinds,
        };
        return Ok((objects, only));
    }
    let folder = place::folder(args.to.as_deref(), &args.state)?;
    Ok((Store::of(&folder).objects(text)?, Only::These))
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
fn put_in(
    world: &PolicyFolder,
    (objects, only): (Vec<PolicyObject>, Only),
    place: &str,
) -> Result<Mesh, Problem> {
    let folder = world.with(&objects, only);
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
    let mut difference = Difference {
        before: before.policy_hash.clone(),
        after: after.policy_hash.clone(),
        policies,
        entities: entities::changes(before.known_entities(), after.known_entities()),
        ..Difference::default()
    };
    if before.policy_schema != after.policy_schema {
        let [before, after] = [before, after].map(|mesh| mesh.policy_schema.join("\n"));
        difference.schema = lines::diff(&before, &after);
    }
    if !difference.is_nothing() {
        let access = access::changes(before, after)?;
        difference.access_omitted = access.is_none();
        difference.access = access.unwrap_or_default();
    }
    Ok(difference)
}

fn changes(before: &[PolicySource], after: &[PolicySource]) -> Vec<PolicyChange> {
    let by_id = |all: &[PolicySource]| -> BTreeMap<PolicyId, String> {
        all.iter().map(|p| (p.id.clone(), written(p))).collect()
    };
    let (before, after) = (by_id(before), by_id(after));
    let ids: BTreeSet<_> = before.keys().chain(after.keys()).collect();
    let change = |id: &PolicyId| {
        let (old, new) = (before.get(id), after.get(id));
        let change = Change::of(old, new)?;
        let text = |text: Option<&String>| text.cloned().unwrap_or_default();
        Some(PolicyChange {
            policy: id.clone(),
            change,
            diff: lines::diff(&text(old), &text(new)),
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

/// Most entities that are shown to people one by one.
const MAX_SHOWN_ENTITIES: usize = 40;

impl Difference {
    fn is_nothing(&self) -> bool {
        self.policies.is_empty() && self.schema.is_empty() && self.entities.is_empty()
    }

    /// For people.
    pub(super) fn told(&self) -> String {
        if self.is_nothing() {
            return format!("no policy differs (set {})", short(&self.before));
        }
        let mut out = Vec::new();
        let mut put = |title: String, diff: &str| {
            out.push(title);
            out.extend(diff.lines().map(|line| format!("  {line}")));
        };
        for change in &self.policies {
            put(
                format!("{}: {}", change.change.as_str(), change.policy),
                &change.diff,
            );
        }
        if !self.schema.is_empty() {
            put("changed: the schema".to_owned(), &self.schema);
        }
        for change in self.entities.iter().take(MAX_SHOWN_ENTITIES) {
            put(
                format!("{}: {}", change.change.as_str(), change.entity),
                &change.diff,
            );
        }
        let more = self.entities.len().saturating_sub(MAX_SHOWN_ENTITIES);
        if more > 0 {
            put(format!("... and {more} entities more"), "");
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
