//! Tokens signed ahead of a run (ES256, RFC 7518 section 3.4), each with an id of its own.

use std::{
    fs,
    io::{self, BufWriter, Write as _},
};

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

/// How long the tokens live.
const LIFE_SECONDS: u64 = 86_400;

/// What tokens to make.
pub(crate) struct Wanted {
    /// File with the signing key, PKCS#8 DER.
    pub(crate) key: String,
    /// `iss`.
    pub(crate) issuer: String,
    /// `aud`.
    pub(crate) audience: String,
    /// How many.
    pub(crate) count: usize,
    /// Where to, one a line.
    pub(crate) out: String,
}

/// Signs and writes them.
pub(crate) fn write(wanted: &Wanted) -> io::Result<()> {
    let der = fs::read(&wanted.key)?;
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &der);
    let key = key.map_err(|error| io::Error::other(format!("{}: {error}", wanted.key)))?;
    let random = SystemRandom::new();
    let now = std::time::UNIX_EPOCH
        .elapsed()
        .map_err(io::Error::other)?
        .as_secs();
    let head = URL_SAFE_NO_PAD.encode(r#"{"alg":"ES256","typ":"JWT","kid":"k1"}"#);
    let mut out = BufWriter::new(fs::File::create(&wanted.out)?);
    for number in 0..wanted.count {
        let claims = serde_json::json!({
            "iss": wanted.issuer, "aud": wanted.audience, "sub": "alice",
            "iat": now - 1, "exp": now + LIFE_SECONDS, "jti": format!("{number:08}"),
        });
        let signed = format!("{head}.{}", URL_SAFE_NO_PAD.encode(claims.to_string()));
        let signature = key.sign(&random, signed.as_bytes());
        let signature = signature.map_err(|_| io::Error::other("the key cannot sign"))?;
        writeln!(
            out,
            "{signed}.{}",
            URL_SAFE_NO_PAD.encode(signature.as_ref())
        )?;
    }
    out.flush()
}
