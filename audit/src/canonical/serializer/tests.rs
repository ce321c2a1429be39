use std::collections::BTreeMap;

use proptest::prelude::*;
use serde::Serialize;

use super::*;
use crate::canonical::{to_vec, write};

/// The canonical form by way of a tree of values: what the serializer must agree with.
fn by_tree<T: Serialize>(value: &T) -> Vec<u8> {
    let mut out = Vec::new();
    write(&serde_json::to_value(value).unwrap(), &mut out).unwrap();
    out
}

#[derive(Clone, Debug, Serialize)]
struct Shapes {
    zebra: Option<u64>,
    apple: (i8, String),
    #[serde(rename = "with \"quotes\"")]
    quoted: char,
    #[serde(rename = "with \u{1}")]
    control: (),
    maps: BTreeMap<String, BTreeMap<i16, Vec<bool>>>,
    variants: Vec<Variant>,
    #[serde(flatten)]
    tagged: Tagged,
    address: std::net::IpAddr,
}

#[derive(Clone, Debug, Serialize)]
enum Variant {
    Unit,
    New(u32),
    Tuple(u8, String),
    Named { z: String, a: i64 },
}

#[derive(Clone, Debug, Serialize)]
#[serde(tag = "kind")]
enum Tagged {
    One(Inner),
}

#[derive(Clone, Debug, Serialize)]
struct Inner {
    y: String,
    b: Vec<String>,
}

fn variant() -> impl Strategy<Value = Variant> {
    prop_oneof![
        Just(Variant::Unit),
        any::<u32>().prop_map(Variant::New),
        (any::<u8>(), ".*").prop_map(|(n, s)| Variant::Tuple(n, s)),
        (".*", any::<i64>()).prop_map(|(z, a)| Variant::Named { z, a }),
    ]
}

prop_compose! {
    fn shapes()(
        zebra: Option<u64>, apple in (any::<i8>(), ".*"), quoted: char, address: std::net::IpAddr,
        maps in prop::collection::btree_map(".{0,4}", prop::collection::btree_map(any::<i16>(), prop::collection::vec(any::<bool>(), 0..3), 0..4), 0..4),
        variants in prop::collection::vec(variant(), 0..4),
        (y, b) in (".*", prop::collection::vec(".*", 0..3)),
    ) -> Shapes {
        let tagged = Tagged::One(Inner { y, b });
        Shapes { zebra, apple, quoted, control: (), maps, variants, tagged, address }
    }
}

proptest! {
    #[test]
    fn any_shape_is_written_as_by_way_of_a_tree(value in shapes()) {
        let wanted = by_tree(&value);
        prop_assert_eq!(String::from_utf8(to_vec(&value).unwrap()), String::from_utf8(wanted));
    }
}

#[test]
fn text_from_display_is_escaped() {
    struct Shown(&'static str);
    impl Serialize for Shown {
        fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
            to.collect_str(self.0)
        }
    }
    for text in [
        "",
        "a b",
        "\"",
        "back\\slash",
        "line\nend",
        "é\u{7f}\u{2028}",
    ] {
        assert_eq!(to_vec(&Shown(text)).unwrap(), by_tree(&text), "{text:?}");
    }
}

#[test]
fn what_is_no_key_is_refused() {
    let odd = BTreeMap::from([(Some(true), 1)]);
    assert!(to_vec(&odd).is_err());
    assert!(to_vec(&BTreeMap::from([(vec![1], 1)])).is_err());
}
