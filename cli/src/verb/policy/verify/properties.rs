//! Properties as people write them.

use std::{fmt, path::Path};

use reeve_control::Mesh;
use reeve_symbolic::{Policies, Property};
use serde::Deserialize;

use super::{super::explain, problem};
use crate::{input, problem::Problem};

/// A property and what people call it.
pub(super) struct Named {
    pub(super) name: String,
    pub(super) property: Property,
}

/// A file of properties.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct PropertyFile {
    properties: Vec<Written>,
}

/// One property: exactly one of the two is there.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Written {
    name: String,
    never: Option<String>,
    always: Option<String>,
}

/// The properties of a file.
pub(super) fn read(path: &Path, mesh: &Mesh) -> Result<Vec<Named>, Problem> {
    // Told apart here: what is not there is no fault of its text.
    input::text(path)?;
    let files = reeve_control::read_documents::<PropertyFile>(path).map_err(|faults| {
        let faults: Vec<_> = faults.iter().map(ToString::to_string).collect();
        Problem::new(format!(
            "the properties cannot be read\n{}",
            faults.join("\n")
        ))
        .at(path.display())
    })?;
    let written = files.into_iter().flat_map(|file| file.properties);
    let mut all = Vec::new();
    for (number, written) in written.enumerate() {
        let place = format!("{}: property {}", path.display(), number + 1);
        all.push(written.named(mesh, &place)?);
    }
    match all.is_empty() {
        true => Err(Problem::new("there are no properties")
            .at(path.display())
            .fix("see `reeve policy verify --help`")),
        false => Ok(all),
    }
}

impl Written {
    fn named(self, mesh: &Mesh, place: &str) -> Result<Named, Problem> {
        let property = match (self.never, self.always) {
            (Some(text), None) => Property::Never(described(&text, mesh, place)?),
            (None, Some(text)) => Property::Always(described(&text, mesh, place)?),
            (None, None) | (Some(_), Some(_)) => {
                return Err(Problem::new("a property says `never` or `always`")
                    .at(place)
                    .fix("write one of the two, with a Cedar permit"));
            }
        };
        let name = match self.name.is_empty() {
            true => place.to_owned(),
            false => self.name,
        };
        Ok(Named { name, property })
    }
}

/// The requests that a Cedar text describes by permits, whatever the resource's namespace.
pub(super) fn described(
    text: &str,
    mesh: &Mesh,
    place: impl fmt::Display,
) -> Result<Policies, Problem> {
    let place = place.to_string();
    let root = explain::root_namespace()?;
    let sources = mesh
        .schema()
        .parse_access_policy(None, &root, "property", text)
        .map_err(|faults| {
            let faults: Vec<_> = faults
                .iter()
                .map(|f| format!("{}:{}: {}", f.line, f.column, f.message))
                .collect();
            Problem::new(faults.join("\n")).at(&place)
        })?;
    let slice = mesh.slice_of(sources).map_err(|faults| {
        let faults: Vec<_> = faults.iter().map(ToString::to_string).collect();
        Problem::new(faults.join("\n")).at(&place)
    })?;
    let policies = Policies::new(&slice, &mesh.settings.trust_domain).map_err(problem)?;
    match policies.are_permits() {
        true => Ok(policies),
        false => Err(Problem::new("requests are described by permits alone")
            .at(&place)
            .fix("write `permit`, with `unless` for what is not meant")),
    }
}
