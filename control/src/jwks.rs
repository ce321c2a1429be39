//! JSON Web Key Sets (RFC 7517) of token issuers.

use reeve_core::model::JwksDocument;

/// Largest key set.
pub(crate) const MAX_JWKS_BYTES: usize = 256 * 1024;

/// Whether `json` looks like a key set that is worth handing to proxies.
pub(crate) fn check_document(json: &str) -> Result<(), String> {
    if json.len() > MAX_JWKS_BYTES {
        return Err(format!("longer than {MAX_JWKS_BYTES} bytes"));
    }
    let value: serde_json::Value =
        serde_json::from_str(json).map_err(|e| format!("not a key set: {e}"))?;
    match value.get("keys").and_then(serde_json::Value::as_array) {
        Some(keys) if !keys.is_empty() => Ok(()),
        Some(_) => Err("the key set is empty".to_owned()),
        None => Err("not a key set: it has no \"keys\"".to_owned()),
    }
}

/// The document with a generation that follows from its content (FNV-1a), the same after a restart.
pub(crate) fn document(json: &str) -> JwksDocument {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    JwksDocument {
        generation: json.bytes().fold(0xcbf2_9ce4_8422_2325, step),
        json: json.to_owned(),
    }
}
