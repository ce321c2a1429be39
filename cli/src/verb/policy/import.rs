//! `reeve policy import`.

use std::path::PathBuf;

use clap::Args;
use reeve_control::{Fault, import};
use reeve_core::TrustDomain;

use crate::{
    output::{self, Format, OutputArgs},
    problem::{Answer, Problem, Verdict},
};

pub(super) const EXAMPLES: &str = "\
Examples:
  reeve policy import istio-policies.yaml -f mesh > access.yaml
  reeve policy import old-istio -o json

Reads AuthorizationPolicy, and what came before it: ServiceRole, ServiceRoleBinding, ClusterRbacConfig, Policy and
MeshPolicy. Prints AccessPolicy objects with Cedar text (and PeerAuthentication, RequestAuthentication, MeshConfig where
those say it), each with a comment on where it comes from. -f names a folder with the mesh's services and workloads, which
labels stand for; those beside the policies count too. What cannot be translated is named, and nothing is printed for it.

Exit codes: 0 = all is translated, 1 = something is not (each place is named), 2 = a file could not be read.";

/// `reeve policy import`.
#[derive(Args, Debug)]
pub(super) struct ImportArgs {
    /// A file of Istio's objects, or a folder of such files.
    #[arg(value_name = "FILE|DIR")]
    path: PathBuf,
    /// The folder of the mesh that the policies are for.
    #[arg(short = 'f', long = "folder", value_name = "DIR")]
    folder: Option<PathBuf>,
    /// The mesh's trust domain, which cluster.local stands for; that of the folder if absent.
    #[arg(long, value_name = "NAME")]
    trust_domain: Option<TrustDomain>,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) fn run(args: &ImportArgs) -> Verdict {
    for path in [Some(&args.path), args.folder.as_ref()]
        .into_iter()
        .flatten()
    {
        if !path.exists() {
            return Err(Problem::new("there is no such file or folder").at(path.display()));
        }
    }
    let imported = import(
        &args.path,
        args.folder.as_deref(),
        args.trust_domain.as_ref(),
    );
    match args.output.output {
        Format::Json => output::json(&imported)?,
        Format::Human => {
            let texts: Vec<&str> = imported.objects.iter().map(|o| o.yaml.trim_end()).collect();
            if !texts.is_empty() {
                output::line(&texts.join("\n---\n"))?;
            }
            for fault in &imported.faults {
                output::note(&fault.to_string());
            }
        }
    }
    if imported.objects.is_empty() && imported.faults.is_empty() {
        output::note("there is no policy of Istio's here");
    }
    Ok(Answer::from_fine(
        !imported.faults.iter().any(Fault::is_error),
    ))
}
