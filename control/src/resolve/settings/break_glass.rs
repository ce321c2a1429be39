//! `MeshConfig.spec.breakGlass`: who may sign grants, and which of them are taken back.

use reeve_authz::break_glass::parse_public_key;
use reeve_core::model::{BreakGlass, SignerKey};

use crate::{
    Code, MeshSettings, kinds::MeshConfigSpec, resolve::values::Notes, source::path::Path,
};

/// Most signers of break-glass grants.
const MAX_SIGNERS: usize = 16;
/// Most grants that are taken back; what has expired need not be named.
const MAX_REVOKED: usize = 256;

pub(super) fn resolve(settings: &mut MeshSettings, notes: &mut Notes<'_, MeshConfigSpec>) {
    let Some(spec) = &notes.object.spec.break_glass else {
        return;
    };
    let path = Path::of(&["spec", "breakGlass"]);
    let mut trust = BreakGlass::default();
    for (what, count, most) in [
        ("publicKeys", spec.public_keys.len(), MAX_SIGNERS),
        ("meshPublicKeys", spec.mesh_public_keys.len(), MAX_SIGNERS),
        ("revoked", spec.revoked.len(), MAX_REVOKED),
    ] {
        if count > most {
            let text = format!("at most {most} may be named");
            notes.error(&path.key(what), Code::TooLarge, text);
        }
    }
    trust.signers = signers("publicKeys", &spec.public_keys, notes);
    trust.mesh_signers = signers("meshPublicKeys", &spec.mesh_public_keys, notes);
    trust.revoked.clone_from(&spec.revoked);
    settings.break_glass = trust;
}

fn signers(
    member: &str,
    texts: &[String],
    notes: &mut Notes<'_, MeshConfigSpec>,
) -> Vec<SignerKey> {
    let path = Path::of(&["spec", "breakGlass"]).key(member);
    let mut keys = Vec::new();
    for (at, text) in texts.iter().enumerate() {
        match parse_public_key(text) {
            Ok(key) if keys.contains(&key) => {
                let text = "this key is there twice";
                notes.error(&path.index(at), Code::Invalid, text);
            }
            Ok(key) => keys.push(key),
            Err(error) => notes.error(&path.index(at), Code::Invalid, error.to_string()),
        }
    }
    keys
}
