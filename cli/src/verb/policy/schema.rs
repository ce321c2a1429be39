//! `reeve policy schema`.

use std::path::PathBuf;

use clap::Args;
use reeve_authz::PolicySchema;

use super::check;
use crate::{
    output,
    problem::{Answer, Verdict},
};

pub(super) const EXAMPLES: &str = "\
Examples:
  reeve policy schema > mesh.cedarschema            for an editor
  reeve policy schema -f mesh > mesh.cedarschema    with what the folder's AccessSchema objects add

Exit codes: 0 = printed, 1 = the folder's schema is invalid, 2 = it could not be read.";

/// `reeve policy schema`.
#[derive(Args, Debug)]
pub(super) struct SchemaArgs {
    /// The mesh's folder: its AccessSchema objects add to the schema.
    #[arg(short = 'f', long = "folder", value_name = "DIR")]
    folder: Option<PathBuf>,
}

pub(super) fn run(args: &SchemaArgs) -> Verdict {
    let schema = match &args.folder {
        Some(folder) => check::schema_of(folder)?,
        None => PolicySchema::default(),
    };
    output::line(schema.text().trim_end())?;
    Ok(Answer::Yes)
}
