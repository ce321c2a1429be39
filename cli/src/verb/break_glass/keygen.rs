//! `reeve break-glass keygen`.

use std::{
    fs::OpenOptions,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use clap::Args;
use reeve_authz::break_glass::SigningKey;

use crate::{
    output,
    problem::{Answer, Problem, Verdict},
};

/// `reeve break-glass keygen`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  reeve break-glass keygen --out signer.key     writes signer.key (0600) and signer.key.pub

The public key goes into MeshConfig.spec.breakGlass.publicKeys, as it stands. Keep the private one off the mesh's machines;
keys of OpenSSL (`openssl genpkey -algorithm ed25519`) will do as well.

Exit codes: 0 = made, 2 = it could not be; a file that is there is never overwritten.")]
pub(super) struct KeygenArgs {
    /// Where the private key goes.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

pub(super) fn run(args: &KeygenArgs) -> Verdict {
    let key = SigningKey::generate().map_err(Problem::new)?;
    let private = key.to_pem().map_err(Problem::new)?;
    let mut public = args.out.clone().into_os_string();
    public.push(".pub");
    create(&args.out, private.as_bytes(), 0o600)?;
    create(Path::new(&public), key.public_pem().as_bytes(), 0o644)?;
    output::note(&format!(
        "{}: the private key, for the safe\n{}: the public key, for MeshConfig.spec.breakGlass.publicKeys",
        args.out.display(),
        Path::new(&public).display()
    ));
    output::line(key.public_pem().trim_end())?;
    Ok(Answer::Yes)
}

/// Writes a file that must not be there yet.
pub(crate) fn create(path: &Path, content: &[u8], mode: u32) -> Result<(), Problem> {
    let written: io::Result<()> = (|| {
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(mode).open(path)?;
        file.write_all(content)?;
        file.sync_all()
    })();
    written.map_err(|error| {
        Problem::because("the file cannot be written", &error)
            .at(path.display())
            .fix("a file that is there is not overwritten; name another")
    })
}
