//! Where keys are kept: what the command line says of it.
//!
//! It is said there and not in the mesh's YAML: whoever may edit the configuration of a mesh is not to choose the library
//! that its authority loads, the command that it runs, or the key that it trusts.

use std::{
    ffi::OsString,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context;
use clap::Args;
use reeve_ca::KeyVault;
use reeve_pkcs11::{Token, TokenAddress};

use super::key::Keys;

/// Where the key is that seals other keys.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct SealArgs {
    /// File with the key (32 bytes in hex) that seals keys at rest; by default seal.key in the state directory
    #[arg(long, value_name = "FILE")]
    seal_key: Option<PathBuf>,

    /// Command that prints that key instead (KMS, secret store); it stays in memory. Run by sh -c, within 30 s
    #[arg(long, value_name = "COMMAND", conflicts_with = "seal_key")]
    seal_key_command: Option<String>,

    /// Environment variable that holds that key instead; of all the mesh's processes the mesh process alone gets it, and
    /// audit replicas
    #[arg(long, value_name = "NAME", conflicts_with_all = ["seal_key", "seal_key_command"])]
    seal_key_env: Option<String>,
}

impl SealArgs {
    /// The command line that says the same.
    pub(crate) fn flags(&self) -> Vec<OsString> {
        said([
            ("--seal-key", self.seal_key.clone().map(Into::into)),
            (
                "--seal-key-command",
                self.seal_key_command.clone().map(Into::into),
            ),
            ("--seal-key-env", self.seal_key_env.clone().map(Into::into)),
        ])
    }

    /// The variable that holds the key, where one does.
    pub(crate) fn environment(&self) -> Vec<(OsString, OsString)> {
        let named = self.seal_key_env.clone().map(OsString::from);
        let given = named.and_then(|name| Some((name.clone(), std::env::var_os(name)?)));
        given.into_iter().collect()
    }

    /// The key, in `state` unless it is elsewhere; `sealed` are the places that hold what was sealed with it.
    pub(crate) async fn keys(&self, state: &Path, sealed: &[&Path]) -> anyhow::Result<Keys> {
        if let Some(command) = &self.seal_key_command {
            return Keys::of_command(command).await;
        }
        if let Some(name) = &self.seal_key_env {
            return Keys::of_environment(name);
        }
        let file = self.seal_key.clone();
        Keys::of_file(&file.unwrap_or_else(|| state.join("seal.key")), sealed)
    }
}

fn said<const N: usize>(all: [(&str, Option<OsString>); N]) -> Vec<OsString> {
    let given = all
        .into_iter()
        .filter_map(|(name, value)| Some([name.into(), value?]));
    given.flatten().collect()
}

/// Where the mesh's keys are.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct CustodyArgs {
    #[command(flatten)]
    pub(crate) seal: SealArgs,

    /// Token that makes and keeps the authority's keys: pkcs11:token=LABEL?module-path=FILE&pin-source=SOURCE, where
    /// SOURCE is file:PATH, env:NAME or |COMMAND
    #[arg(long, value_name = "URI")]
    authority_keys: Option<String>,

    /// Folder of an authority of yours that signs the mesh's intermediate: tls.crt, tls.key and ca.crt, followed live
    #[arg(long, value_name = "DIR")]
    upstream_authority: Option<PathBuf>,
}

impl CustodyArgs {
    /// The same for a process that begins in another folder.
    pub(crate) fn absolute(&self) -> io::Result<Self> {
        let absolute = |path: &Option<PathBuf>| path.as_ref().map(std::path::absolute).transpose();
        Ok(Self {
            seal: SealArgs {
                seal_key: absolute(&self.seal.seal_key)?,
                ..self.seal.clone()
            },
            upstream_authority: absolute(&self.upstream_authority)?,
            ..self.clone()
        })
    }

    /// The command line that says the same.
    pub(crate) fn flags(&self) -> Vec<OsString> {
        let mut all = self.seal.flags();
        all.extend(said([
            (
                "--authority-keys",
                self.authority_keys.clone().map(Into::into),
            ),
            (
                "--upstream-authority",
                self.upstream_authority.clone().map(Into::into),
            ),
        ]));
        all
    }

    /// The variables that the mesh process needs besides those of all processes: a module of a token has some of its own,
    /// which nobody here knows by name.
    pub(crate) fn environment(&self) -> Vec<(OsString, OsString)> {
        match self.authority_keys {
            Some(_) => std::env::vars_os().collect(),
            None => self.seal.environment(),
        }
    }

    /// The token that keeps the authority's keys, if one does.
    pub(super) fn vault(&self) -> anyhow::Result<Option<Arc<dyn KeyVault>>> {
        let Some(address) = &self.authority_keys else {
            return Ok(None);
        };
        let address: TokenAddress = address.parse().context("--authority-keys")?;
        let token = Token::new(address).context("a thread for the token")?;
        Ok(Some(Arc::new(token)))
    }

    /// The folder of the operator's authority, if there is one.
    pub(super) fn upstream(&self) -> Option<PathBuf> {
        self.upstream_authority.clone()
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        custody: CustodyArgs,
    }

    #[test]
    fn what_is_said_to_the_supervisor_reaches_the_mesh_process() {
        for line in [
            &["--seal-key", "/a/key", "--upstream-authority", "/b"][..],
            &[
                "--seal-key-env",
                "KEY",
                "--authority-keys",
                "pkcs11:token=t",
            ],
            &["--seal-key-command", "cat /key"],
            &[],
        ] {
            let parsed = Line::try_parse_from(["reeve"].iter().chain(line)).unwrap();
            assert_eq!(parsed.custody.absolute().unwrap().flags(), line);
        }
        let both = ["reeve", "--seal-key", "a", "--seal-key-env", "B"];
        assert!(Line::try_parse_from(both).is_err());
    }

    #[test]
    fn only_the_variables_that_are_needed_go_to_the_mesh_process() {
        assert!(CustodyArgs::default().environment().is_empty());
        let one = CustodyArgs {
            seal: SealArgs {
                seal_key_env: Some("PATH".to_owned()),
                ..SealArgs::default()
            },
            ..CustodyArgs::default()
        };
        let names: Vec<_> = one
            .environment()
            .into_iter()
            .map(|(name, _)| name)
            .collect();
        assert_eq!(names, ["PATH"]);
    }
}
