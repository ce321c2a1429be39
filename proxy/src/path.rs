//! Path normalisation: once, before anything looks at the path (Istio's `pathNormalization`).
//!
//! What comes out is what is judged, routed on and sent to the application; the raw path is kept for the log alone.

use std::borrow::Cow;

use reeve_core::model::PathNormalization;

/// Why a path is refused with 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// `%` without two hexadecimal digits.
    #[error("the path has a percent sign without two hexadecimal digits")]
    BadEscape,
    /// A NUL, raw or encoded.
    #[error("the path has a NUL")]
    Nul,
    /// It does not start with a slash.
    #[error("the path does not start with a slash")]
    NotAbsolute,
    /// Applications could disagree about its segments: escaped or repeated slashes, dot segments with parameters, overlong
    /// escapes.
    #[error(
        "the path has escaped or repeated slashes, or dots in disguise, which applications read differently"
    )]
    Ambiguous,
    /// A byte that no URI has, where nothing is normalised.
    #[error("the path has a byte that must be escaped")]
    IllegalByte,
}

/// Normalises `raw` (a path without its query). `*` (RFC 9112 section 3.2.4) passes unchanged.
pub fn normalize(raw: &str, mode: PathNormalization) -> Result<String, PathError> {
    if raw == "*" {
        return Ok(raw.to_owned());
    }
    if !raw.starts_with('/') {
        return Err(PathError::NotAbsolute);
    }
    if is_normal(raw) {
        return Ok(raw.to_owned());
    }
    normalize_slowly(raw, mode)
}

/// Whether every mode leaves `raw` as it is: ASCII, no escapes, no back-slashes, no empty and no dot segments. As a rule.
fn is_normal(raw: &str) -> bool {
    let suspect = |pair: &[u8]| matches!(pair, [b'/', b'/' | b'.']);
    let plain = |byte: u8| byte.is_ascii() && !matches!(byte, b'%' | b'\\' | 0);
    raw.bytes().all(plain) && !raw.as_bytes().windows(2).any(suspect)
}

fn normalize_slowly(raw: &str, mode: PathNormalization) -> Result<String, PathError> {
    match mode {
        // RFC 3986 section 2: other characters are escaped. Who reads them raw reads them in an encoding of its own.
        PathNormalization::None if !raw.is_ascii() => Err(PathError::IllegalByte),
        PathNormalization::None => Ok(raw.to_owned()),
        PathNormalization::Base => base(raw),
        PathNormalization::MergeSlashes => base(raw).map(|path| merge_slashes(&path)),
        PathNormalization::DecodeAndMergeSlashes => decode_and_merge(raw),
        PathNormalization::RefuseAmbiguous => refuse_ambiguous(raw),
    }
}

fn refuse_ambiguous(raw: &str) -> Result<String, PathError> {
    let path = base(raw)?;
    // SECURITY: equal text means equal segments, whichever of the two ways an application reads the path.
    if decode_and_merge(raw)? != path || has_dots_in_disguise(&path) {
        return Err(PathError::Ambiguous);
    }
    Ok(path)
}

/// Dot segments with parameters (`..;x`), which servlet containers resolve after taking the parameters away, and overlong
/// UTF-8 (`%c0%ae`), in which lax decoders find dots and slashes. No honest client sends either.
fn has_dots_in_disguise(path: &str) -> bool {
    let with_parameters = |segment: &str| {
        let name = segment.split_once(';').map(|(name, _)| name);
        matches!(name, Some("." | ".."))
    };
    path.split('/').any(with_parameters) || has_overlong(path)
}

/// Whether escapes are UTF-8 that says an ASCII character in more than one byte (RFC 3629 section 3).
fn has_overlong(path: &str) -> bool {
    let mut escapes = path.split('%').skip(1).map(|piece| {
        let digits = piece.get(..2)?;
        Some((escaped_byte(digits).ok()?, piece.len() == 2))
    });
    let mut before = None;
    escapes.any(|escape| {
        let (byte, touches_next) = escape.unzip();
        let overlong = matches!(
            (before, byte),
            (_, Some(0xc0 | 0xc1))
                | (Some(0xe0), Some(0x80..=0x9f))
                | (Some(0xf0), Some(0x80..=0x8f))
        );
        before = byte.filter(|_| touches_next == Some(true));
        overlong
    })
}

fn decode_and_merge(raw: &str) -> Result<String, PathError> {
    base(&decode_slashes(raw)).map(|path| merge_slashes(&path))
}

/// `BASE`: escapes of unreserved characters decoded (RFC 3986 section 6.2.2.2), what is not ASCII escaped (RFC 3987
/// section 3.1), back-slashes made slashes, dot segments resolved.
fn base(raw: &str) -> Result<String, PathError> {
    let decoded = decode_unreserved(raw)?;
    Ok(resolve_dots(&escape_non_ascii(&decoded).replace('\\', "/")))
}

fn escape_non_ascii(path: &str) -> Cow<'_, str> {
    if path.is_ascii() {
        return Cow::Borrowed(path);
    }
    let mut out = String::with_capacity(path.len() * 2);
    for byte in path.bytes() {
        match byte.is_ascii() {
            true => out.push(char::from(byte)),
            false => out.push_str(&format!("%{byte:02X}")),
        }
    }
    Cow::Owned(out)
}

fn decode_unreserved(raw: &str) -> Result<Cow<'_, str>, PathError> {
    if raw.contains('\0') {
        return Err(PathError::Nul);
    }
    if !raw.contains('%') {
        return Ok(Cow::Borrowed(raw));
    }
    let mut out = String::with_capacity(raw.len());
    let mut pieces = raw.split('%');
    out.push_str(pieces.next().unwrap_or_default());
    for piece in pieces {
        let (digits, rest) = piece.split_at_checked(2).ok_or(PathError::BadEscape)?;
        match escaped_byte(digits)? {
            0 => return Err(PathError::Nul),
            byte if is_unreserved(byte) => out.push(char::from(byte)),
            _ => {
                out.push('%');
                out.push_str(digits);
            }
        }
        out.push_str(rest);
    }
    Ok(Cow::Owned(out))
}

fn escaped_byte(digits: &str) -> Result<u8, PathError> {
    if !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(PathError::BadEscape);
    }
    u8::from_str_radix(digits, 16).map_err(|_| PathError::BadEscape)
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

fn decode_slashes(raw: &str) -> String {
    ["%2F", "%2f", "%5C", "%5c"]
        .into_iter()
        .fold(raw.to_owned(), |path, escape| path.replace(escape, "/"))
}

/// RFC 3986 section 5.2.4, for a path that starts with a slash.
fn resolve_dots(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.strip_prefix('/').unwrap_or(path).split('/').peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            "." if last => kept.push(""),
            "." => {}
            ".." => {
                kept.pop();
                if last {
                    kept.push("");
                }
            }
            other => kept.push(other),
        }
    }
    format!("/{}", kept.join("/"))
}

fn merge_slashes(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for c in path.chars() {
        if !(c == '/' && out.ends_with('/')) {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests;
