//! Query strings: `name=value` pairs, percent-decoded, `+` as space (WHATWG URL, form-urlencoded parsing).

/// Every (name, value) pair, decoded.
pub(crate) fn pairs(query: &str) -> impl Iterator<Item = (String, String)> + '_ {
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(name), decode(value))
        })
}

/// Every value of the parameter `name`.
pub(crate) fn values(query: &str, name: &str) -> Vec<String> {
    let named = pairs(query).filter(|(found, _)| found == name);
    named.map(|(_, value)| value).collect()
}

/// The first value of the parameter `name`.
pub(crate) fn first(query: &str, name: &str) -> Option<String> {
    pairs(query)
        .find(|(found, _)| found == name)
        .map(|(_, value)| value)
}

/// The query without the named parameters; `None` when nothing is left.
pub(crate) fn without(query: &str, names: &[String]) -> Option<String> {
    let kept = query.split('&').filter(|pair| {
        let name = pair.split_once('=').map_or(*pair, |(name, _)| name);
        !names.contains(&decode(name))
    });
    let kept: Vec<&str> = kept.collect();
    (!kept.is_empty()).then(|| kept.join("&"))
}

fn decode(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, tail)) = rest.split_first() {
        rest = tail;
        match byte {
            b'+' => out.push(b' '),
            b'%' => match hex_pair(tail) {
                Some((byte, tail)) => {
                    out.push(byte);
                    rest = tail;
                }
                None => out.push(b'%'),
            },
            other => out.push(*other),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn hex_pair(bytes: &[u8]) -> Option<(u8, &[u8])> {
    let (pair, rest) = bytes.split_at_checked(2)?;
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    let (high, low) = (digit(pair.first()?)?, digit(pair.last()?)?);
    Some((u8::try_from(high * 16 + low).ok()?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_split_and_decoded() {
        let all: Vec<_> = pairs("a=1&b=x%20y+z&c&=d&a=%zz&&%61=2").collect();
        let text = |(a, b): &(&str, &str)| ((*a).to_owned(), (*b).to_owned());
        let expected = [
            ("a", "1"),
            ("b", "x y z"),
            ("c", ""),
            ("", "d"),
            ("a", "%zz"),
            ("a", "2"),
        ];
        assert_eq!(all, expected.iter().map(text).collect::<Vec<_>>());
        assert_eq!(values("a=1&A=2&a=3", "a"), ["1", "3"]);
        assert_eq!(first("x=1", "y"), None);
    }
}
