use proptest::prelude::*;

use super::*;

#[test]
fn istios_defaults_are_read() {
    assert!(Format::parse(ISTIO_TEXT).unwrap().needs_response());
    for (name, format) in ISTIO_JSON {
        assert_eq!(Format::parse(format).unwrap().pieces.len(), 1, "{name}");
    }
}

#[test]
fn pieces_are_literals_and_fields() {
    let format = Format::parse("a%% %REQ(X-A?:PATH):12%%PROTOCOL%\n").unwrap();
    let header = Header {
        name: "x-a".into(),
        other: Some(":path".into()),
    };
    assert_eq!(
        format.pieces,
        [
            Piece::Literal("a% ".into()),
            Piece::Field(Operator::Request(header), Some(12)),
            Piece::Field(Operator::Plain(Plain::Protocol), None),
            Piece::Literal("\n".into()),
        ]
    );
}

#[test]
fn times_may_have_a_format_of_their_own() {
    let format = Format::parse("%START_TIME(%Y/%m/%dT%H:%M:%S.%3f%z %s)%").unwrap();
    let text = "%Y/%m/%dT%H:%M:%S.%3f%z %s".to_owned();
    assert_eq!(
        format.pieces,
        [Piece::Field(Operator::StartTime(Some(text)), None)]
    );
    let bad = Format::parse("%START_TIME(%Q)%");
    assert_eq!(bad, Err(FormatError::TimeFormat("%Q".into())));
}

#[test]
fn what_is_not_supported_is_refused_by_its_name() {
    for (text, error) in [
        ("%NOT_A_THING%", FormatError::Unknown("NOT_A_THING".into())),
        (
            "%FILTER_STATE(x)%",
            FormatError::Unknown("FILTER_STATE".into()),
        ),
        (
            "%DYNAMIC_METADATA(istio.mixer:status)%",
            FormatError::Unknown("DYNAMIC_METADATA(istio.mixer:status)".into()),
        ),
        ("%REQ%", FormatError::Argument("REQ".into())),
        ("%PROTOCOL(x)%", FormatError::Argument("PROTOCOL".into())),
        ("%REQ(a b)%", FormatError::HeaderName("a b".into())),
        ("%TRAILER(:path)%", FormatError::HeaderName(":path".into())),
        ("%RESP(a\nb)%", FormatError::HeaderName("a\nb".into())),
        ("100%", FormatError::Stray(3)),
        ("%PROTOCOL", FormatError::Stray(0)),
        ("%REQ(a):x%", FormatError::Stray(0)),
        ("%%%", FormatError::Stray(2)),
    ] {
        assert_eq!(Format::parse(text), Err(error), "{text}");
    }
    let long = "x".repeat(MAX_FORMAT_BYTES + 1);
    assert_eq!(Format::parse(&long), Err(FormatError::TooLong));
    let many = "%PROTOCOL%".repeat(MAX_PIECES + 1);
    assert_eq!(Format::parse(&many), Err(FormatError::TooLong));
}

proptest! {
    #[test]
    fn no_text_panics(text in "[%A-Z_():?0-9a-z \\n]{0,60}") {
        drop(Format::parse(&text));
    }

    #[test]
    fn text_without_operators_is_written_as_it_is(text in "[^%]{1,80}") {
        let format = Format::parse(&text).unwrap();
        prop_assert_eq!(format.pieces, [Piece::Literal(text)]);
    }
}
