//! Reading a format.

use super::{
    Fact, Format, FormatError, Header, MAX_FORMAT_BYTES, MAX_PIECES, Operator, Piece, Plain,
};

/// Specifiers of strftime that stand for a time here; `f` may have a digit before it.
const TIME_SPECIFIERS: &str = "YmdHMSzsTFbaejypf%";
/// Longest name of a header.
const MAX_NAME_BYTES: usize = 256;

pub(super) fn format(text: &str) -> Result<Format, FormatError> {
    if text.len() > MAX_FORMAT_BYTES {
        return Err(FormatError::TooLong);
    }
    let mut pieces = Vec::new();
    let mut literal = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('%') {
        literal.push_str(before);
        if let Some(after) = after.strip_prefix('%') {
            literal.push('%');
            rest = after;
            continue;
        }
        let at = text.len() - after.len() - 1;
        let (piece, after) = field(after, at)?;
        if !literal.is_empty() {
            pieces.push(Piece::Literal(std::mem::take(&mut literal)));
        }
        pieces.push(piece);
        rest = after;
    }
    literal.push_str(rest);
    if !literal.is_empty() {
        pieces.push(Piece::Literal(literal));
    }
    if pieces.len() > MAX_PIECES {
        return Err(FormatError::TooLong);
    }
    Ok(Format { pieces })
}

/// Reads `NAME(ARGUMENT):LENGTH%`.
fn field(text: &str, at: usize) -> Result<(Piece, &str), FormatError> {
    let stray = || FormatError::Stray(at);
    let end = text
        .find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .ok_or_else(stray)?;
    let (name, rest) = text.split_at_checked(end).ok_or_else(stray)?;
    if name.is_empty() {
        return Err(stray());
    }
    let (argument, rest) = match rest.strip_prefix('(') {
        Some(rest) => {
            let (argument, rest) = rest.split_once(')').ok_or_else(stray)?;
            (Some(argument), rest)
        }
        None => (None, rest),
    };
    let (length, rest) = rest.split_once('%').ok_or_else(stray)?;
    let length = match length {
        "" => None,
        length => {
            let digits = length.strip_prefix(':').ok_or_else(stray)?;
            Some(digits.parse().map_err(|_| stray())?)
        }
    };
    Ok((Piece::Field(operator(name, argument)?, length), rest))
}

fn operator(name: &str, argument: Option<&str>) -> Result<Operator, FormatError> {
    let wrong = || FormatError::Argument(name.to_owned());
    match (name, argument) {
        ("START_TIME", None) => Ok(Operator::StartTime(None)),
        ("START_TIME", Some(text)) => time(text).map(|text| Operator::StartTime(Some(text))),
        ("REQ", Some(text)) => {
            header(text, &[":method", ":path", ":authority", ":scheme"]).map(Operator::Request)
        }
        ("RESP", Some(text)) => header(text, &[":status"]).map(Operator::Response),
        ("TRAILER", Some(text)) => header(text, &[]).map(Operator::Trailer),
        ("DYNAMIC_METADATA", Some(text)) => fact(text).map(Operator::Reeve),
        ("REQ" | "RESP" | "TRAILER" | "DYNAMIC_METADATA", None) => Err(wrong()),
        (name, argument) => {
            let known = Plain::ALL.iter().find(|plain| plain.as_str() == name);
            let known = known.ok_or_else(|| FormatError::Unknown(name.to_owned()))?;
            match argument {
                None => Ok(Operator::Plain(*known)),
                Some(_) => Err(wrong()),
            }
        }
    }
}

fn time(text: &str) -> Result<String, FormatError> {
    let wrong = || FormatError::TimeFormat(text.to_owned());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        if character != '%' {
            continue;
        }
        let next = characters.next().ok_or_else(wrong)?;
        let specifier = match next {
            '1'..='9' => characters.next().filter(|c| *c == 'f').ok_or_else(wrong)?,
            other => other,
        };
        if !TIME_SPECIFIERS.contains(specifier) {
            return Err(wrong());
        }
    }
    Ok(text.to_owned())
}

fn header(text: &str, pseudo: &[&str]) -> Result<Header, FormatError> {
    let (name, other) = match text.split_once('?') {
        Some((name, other)) => (name, Some(other)),
        None => (text, None),
    };
    let checked = |name: &str| {
        let lower = name.to_ascii_lowercase();
        let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        let plain = !lower.is_empty() && lower.len() <= MAX_NAME_BYTES && lower.bytes().all(token);
        if plain || pseudo.contains(&lower.as_str()) {
            return Ok(lower);
        }
        Err(FormatError::HeaderName(name.to_owned()))
    };
    Ok(Header {
        name: checked(name)?,
        other: other.map(checked).transpose()?,
    })
}

fn fact(text: &str) -> Result<Fact, FormatError> {
    let facts = [
        ("reeve:decision_id", Fact::DecisionId),
        ("reeve:effect", Fact::Effect),
        ("reeve:reason", Fact::Reason),
        ("reeve:policies", Fact::Policies),
        ("reeve:record", Fact::Record),
        ("reeve:user", Fact::User),
        ("reeve:service", Fact::Service),
        ("reeve:direction", Fact::Direction),
    ];
    let found = facts.iter().find(|(name, _)| *name == text);
    found
        .map(|(_, fact)| *fact)
        .ok_or_else(|| FormatError::Unknown(format!("DYNAMIC_METADATA({text})")))
}
