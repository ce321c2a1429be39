//! `MeshConfig.spec.breakGlass`: who may sign grants, and which of them are taken back.

use reeve_authz::break_glass::parse_public_key;
use reeve_core::model::BreakGlass;

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
        ("revoked", spec.revoked.len(), MAX_REVOKED),
    ] {
        if count > most {
            let text = format!("at most {most} may be named");
            notes.error(&path.key(what), Code::TooLarge, text);
        }
    }
    for (at, text) in spec.public_keys.iter().enumerate() {
        match parse_public_key(text) {
            Ok(key) if trust.signers.contains(&key) => {
                notes.error(
                    &path.key("publicKeys").index(at),
                    Code::Invalid,
                    "this key is there twice",
                );
            }
            Ok(key) => trust.signers.push(key),
            Err(error) => {
                notes.error(
                    &path.key("publicKeys").index(at),
                    Code::Invalid,
                    error.to_string(),
                );
            }
        }
    }
    trust.revoked.clone_from(&spec.revoked);
    settings.break_glass = trust;
}
