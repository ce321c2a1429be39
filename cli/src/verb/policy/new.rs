//! `reeve policy new`: policies for common intents, with the cases that try them.

mod build;
mod draft;
mod given;
mod groups;
mod intents;
mod parts;

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
};

use clap::Args;
use reeve_authz::PolicySchema;
use reeve_core::{Namespace, TrustDomain};
use serde::Serialize;

use self::{
    draft::{Draft, Form},
    given::Given,
    intents::Intent,
};
use super::{
    explain::{pair, root_namespace},
    world,
};
use crate::{
    output::{self, Format, OutputArgs},
    problem::{Answer, Problem, Verdict},
    supervisor::load,
};

pub(super) const EXAMPLES: &str = "\
Examples:
  reeve policy new                                         which intents there are, and their parameters
  reeve policy new allow-callers -f mesh --param service=reviews --param callers=bookinfo-productpage
  reeve policy new block-path -f mesh --param service=productpage --param path=/admin --out mesh/block-admin.yaml
  reeve policy new allow-callers -f mesh -p service=ratings -p callers=Team::books,label:app=web    by group or label
  reeve policy new break-glass -p service=ledger.pay -p callers=ops/console --out safe/ledger.cedar
  reeve policy test mesh/.reeve/policy-tests               the cases that were written beside it

With --folder, services and callers must be in that mesh. With --out, the cases go to .reeve/policy-tests beside the policy,
where `reeve policy apply` finds them; without it, both go to standard output.

Exit codes: 0 = written, 1 = a parameter is wrong, 2 = it could not be written.";

/// Columns that the Cedar text keeps to, as `reeve policy fmt` does.
const LINE_WIDTH: usize = 100;

/// `reeve policy new`.
#[derive(Args, Debug)]
pub(super) struct NewArgs {
    /// What the policy is to do; without it, all that there is are listed.
    #[arg(value_name = "INTENT")]
    intent: Option<String>,
    /// A parameter, as NAME=VALUE; repeat for several.
    #[arg(long = "param", short = 'p', value_name = "NAME=VALUE", value_parser = pair)]
    params: Vec<(String, String)>,
    /// The mesh's folder: what is named must be there.
    #[arg(short = 'f', long = "folder", value_name = "DIR")]
    folder: Option<PathBuf>,
    /// The trust domain, where no folder says it.
    #[arg(long, value_name = "NAME", default_value = "mesh.local", value_parser = TrustDomain::parse, conflicts_with = "folder")]
    trust_domain: TrustDomain,
    /// The name of the AccessPolicy [default: the intent and what it is about].
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// The namespace of the AccessPolicy [default: that of the service].
    #[arg(short, long, value_name = "NAMESPACE", value_parser = Namespace::parse)]
    namespace: Option<Namespace>,
    /// Write the AccessPolicy to this file, which must not be there yet.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Write the cases to this file [default with --out: .reeve/policy-tests beside it].
    #[arg(long, value_name = "FILE", requires = "out")]
    cases: Option<PathBuf>,
    #[command(flatten)]
    output: OutputArgs,
}

/// What was made.
#[derive(Serialize)]
struct Made<'a> {
    intent: &'a str,
    namespace: String,
    name: &'a str,
    policy: String,
    cases: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    files: Option<[String; 2]>,
}

pub(super) fn run(args: &NewArgs) -> Verdict {
    let Some(name) = &args.intent else {
        return list(args.output.output);
    };
    let intent = Intent::named(name)?;
    let mesh = args.folder.as_deref().map(load).transpose()?;
    let known = mesh.as_ref().map(world::known);
    let given = Given {
        mesh: mesh.as_ref().zip(known.as_ref()),
        domain: match &mesh {
            Some(mesh) => mesh.settings.trust_domain.clone(),
            None => args.trust_domain.clone(),
        },
        namespace: args.namespace.clone(),
        values: given::values(intent, &args.params)?,
    };
    let mut draft = (intent.build)(&given)?;
    if let Some(name) = &args.name {
        draft.name.clone_from(name);
    }
    let root = match &mesh {
        Some(mesh) => mesh.settings.root_namespace.clone(),
        None => root_namespace()?,
    };
    if let Some(namespace) = args.namespace.as_ref().filter(|n| **n != draft.namespace) {
        if *namespace != root {
            return Err(given::wrong(format!(
                "policies of namespace {namespace} decide nothing in {}",
                draft.namespace
            )));
        }
        draft.namespace = root.clone();
    }
    let grant = intent.name == intents::BREAK_GLASS;
    let schema = match &mesh {
        // A grant is read where no schema of a mesh is at hand.
        Some(mesh) if !grant => mesh.schema(),
        _ => PolicySchema::default(),
    };
    let form = Form {
        schema: &schema,
        width: LINE_WIDTH,
        grant,
    };
    let policy = draft.policy(form)?;
    let is_cedar = |out: &Path| out.extension().is_some_and(|e| e == "cedar");
    if let Some(out) = args.out.as_deref().filter(|out| grant && !is_cedar(out)) {
        let wrong =
            given::wrong("a grant's policy is Cedar text to be signed, and no object of a mesh");
        return Err(wrong
            .at(out.display())
            .fix("name a file that ends in .cedar"));
    }
    let files = args.out.as_deref().map(|out| files(out, args));
    let cases = match &files {
        Some((out, cases)) => draft.cases(Some(&relative(out, cases)), &root, form)?,
        None => draft.cases(None, &root, form)?,
    };
    if let Some((out, at)) = &files {
        write(out, &policy)?;
        write(at, &cases)?;
    }
    tell(args, intent, &draft, policy, cases, files)
}

fn tell(
    args: &NewArgs,
    intent: &Intent,
    draft: &Draft,
    policy: String,
    cases: String,
    files: Option<(PathBuf, PathBuf)>,
) -> Verdict {
    let files = files.map(|(out, cases)| [out, cases].map(|file| file.display().to_string()));
    match (args.output.output, &files) {
        (Format::Json, _) => output::json(&Made {
            intent: intent.name,
            namespace: draft.namespace.to_string(),
            name: &draft.name,
            policy,
            cases,
            files,
        })?,
        (Format::Human, Some([out, at])) => {
            output::line(&format!("{out}: the policy\n{at}: its cases"))?;
            // Who is in a group, or has a label, is for the mesh to say.
            let grouped =
                |(_, value): &(String, String)| value.contains("::") || value.contains("label:");
            let folder = args
                .folder
                .as_ref()
                .filter(|_| args.params.iter().any(grouped));
            let folder = folder.map_or(String::new(), |folder| format!("-f {} ", folder.display()));
            output::line(&format!("Try them: reeve policy test {folder}{at}"))?;
            if intent.name == intents::BREAK_GLASS {
                let namespace = &draft.namespace;
                output::line(&format!(
                    "Sign it: reeve break-glass sign --policy {out} --namespace {namespace} --key FILE --id NAME --issuer WHO \
                     --reason TEXT --out FILE"
                ))?;
            }
        }
        (Format::Human, None) => output::line(&format!("{policy}---\n{}", cases.trim_end()))?,
    }
    Ok(Answer::Yes)
}

fn list(format: Format) -> Verdict {
    if format == Format::Json {
        output::json(&intents::ALL)?;
        return Ok(Answer::Yes);
    }
    for intent in intents::ALL {
        output::line(&format!("{}: {}", intent.name, intent.about))?;
        for param in intent.params {
            let fallback = param.default.map(|d| format!(" [default: {d}]"));
            let needed = if param.required { " (required)" } else { "" };
            let told = format!(
                "    {}={needed}  {}{}",
                param.name,
                param.about,
                fallback.unwrap_or_default()
            );
            output::line(&told)?;
        }
    }
    output::line("\nreeve policy new INTENT -f FOLDER --param NAME=VALUE …")?;
    Ok(Answer::Yes)
}

/// Where the policy and its cases go.
fn files(out: &Path, args: &NewArgs) -> (PathBuf, PathBuf) {
    let beside = || {
        let stem = out.file_stem().unwrap_or_default().to_string_lossy();
        let folder = out.parent().unwrap_or(Path::new(""));
        folder.join(super::CASES).join(format!("{stem}.yaml"))
    };
    let cases = args.cases.clone().unwrap_or_else(beside);
    (out.to_owned(), cases)
}

/// `file` as seen from the folder of `from`.
fn relative(file: &Path, from: &Path) -> PathBuf {
    let whole = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let (file, from) = (whole(file), whole(from));
    let folder = from.parent().unwrap_or(Path::new("/"));
    let shared = file.components().zip(folder.components());
    let shared = shared.take_while(|(a, b)| a == b).count();
    let up = folder.components().skip(shared).map(|_| Path::new(".."));
    let down = file.components().skip(shared);
    up.map(Path::to_owned)
        .chain(down.map(|c| PathBuf::from(c.as_os_str())))
        .collect()
}

fn write(file: &Path, text: &str) -> Result<(), Problem> {
    let failed = |error: std::io::Error| {
        Problem::because("the file cannot be written", &error)
            .at(file.display())
            .fix("a file that is there is not overwritten; name another with --out and --cases")
    };
    if let Some(folder) = file.parent().filter(|f| !f.as_os_str().is_empty()) {
        fs::create_dir_all(folder).map_err(failed)?;
    }
    let mut out = fs::File::create_new(file).map_err(failed)?;
    out.write_all(text.as_bytes()).map_err(failed)
}
