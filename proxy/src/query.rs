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

/// Whether `text` may stand as a name or a value in a query, as it is (RFC 3986 section 3.4).
pub(crate) fn is_part(text: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$'()*+,;:@/?%".contains(&byte);
    let mut escapes = text.as_bytes().split(|byte| *byte == b'%').skip(1);
    text.bytes().all(legal) && escapes.all(|rest| hex_pair(rest).is_some())
}

/// The query without parameters of these names, and with those of `set`, which are written as they are; `None` when nothing
/// is left.
pub(crate) fn changed(
    query: &str,
    removed: Vec<String>,
    set: &[(String, String)],
) -> Option<String> {
    let mut gone = removed;
    gone.extend(set.iter().map(|(name, _)| decode(name)));
    let kept = match query.is_empty() {
        true => None,
        false => without(query, &gone),
    };
    let set = set.iter().map(|(name, value)| format!("{name}={value}"));
    let all: Vec<String> = kept.into_iter().chain(set).collect();
    (!all.is_empty()).then(|| all.join("&"))
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
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn parameters_are_removed_and_set() {
        let set = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
            let pairs = pairs.iter();
            pairs
                .map(|(a, b)| ((*a).to_owned(), (*b).to_owned()))
                .collect()
        };
        for (query, removed, pairs, expected) in [
            ("a=1&b=2", vec!["a"], &[][..], Some("b=2")),
            ("a=1&%61=2", vec!["a"], &[], None),
            (
                "a=1&b=2&a=3",
                vec![],
                &[("a", "x%20y")],
                Some("b=2&a=x%20y"),
            ),
            ("", vec![], &[("a", "")], Some("a=")),
            ("", vec!["a"], &[], None),
            ("a=1", vec!["b"], &[("%61", "2")], Some("%61=2")),
        ] {
            let removed = removed.into_iter().map(str::to_owned).collect();
            let found = changed(query, removed, &set(pairs));
            assert_eq!(found.as_deref(), expected, "{query}");
        }
        for (text, legal) in [
            ("a-b_c.d~e", true),
            ("%41%7e", true),
            ("", true),
            ("a&b", false),
            ("a=b", false),
            ("a#b", false),
            ("a b", false),
            ("%4", false),
            ("%zz", false),
            ("ä", false),
        ] {
            assert_eq!(is_part(text), legal, "{text}");
        }
    }

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

    proptest! {
        #[test]
        fn every_text_is_read_and_one_way_only(text in "[a=&%+62;é]{0,24}|\\PC{0,40}", name in "[a=&b]{0,2}") {
            let all: Vec<_> = pairs(&text).collect();
            let named = all.iter().filter(|(found, _)| *found == name);
            let expected: Vec<String> = named.map(|(_, value)| value.clone()).collect();
            prop_assert_eq!(first(&text, &name), expected.first().cloned());
            prop_assert_eq!(values(&text, &name), expected);
        }

        #[test]
        fn what_is_encoded_is_read_again(sent in proptest::collection::vec((".{1,6}", ".{0,6}"), 0..5)) {
            let encode = |text: &str| text.bytes().map(|byte| format!("%{byte:02x}")).collect::<String>();
            let text = sent.iter().map(|(name, value)| format!("{}={}", encode(name), encode(value)));
            let text = text.collect::<Vec<_>>().join("&");
            prop_assert_eq!(pairs(&text).collect::<Vec<_>>(), sent);
        }

        #[test]
        fn a_parameter_that_is_taken_out_is_gone_however_it_is_spelt(text in "[ab=&%+621]{0,24}") {
            let kept = without(&text, &["a".to_owned()]).unwrap_or_default();
            let others: Vec<_> = pairs(&text).filter(|(name, _)| name != "a").collect();
            prop_assert_eq!(pairs(&kept).collect::<Vec<_>>(), others);
        }
    }
}
