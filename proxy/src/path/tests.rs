use proptest::prelude::*;
use reeve_core::model::PathNormalization::{
    Base, DecodeAndMergeSlashes, MergeSlashes, None as Raw, RefuseAmbiguous,
};

use super::*;

#[test]
fn each_mode_does_what_istio_documents() {
    for (mode, raw, expected) in [
        (Raw, "/a/../b//c%2Fd\\e", "/a/../b//c%2Fd\\e"),
        (Base, "/a/../b", "/b"),
        (Base, "/a/./b", "/a/b"),
        (Base, "/a/b/..", "/a/"),
        (Base, "/a/b/.", "/a/b/"),
        (Base, "/..", "/"),
        (Base, "/../../x", "/x"),
        (Base, "/a\\b", "/a/b"),
        (Base, "/a\\..\\b", "/b"),
        (Base, "/%61dmin", "/admin"),
        (Base, "/a/%2e%2E/b", "/b"),
        (Base, "/a%2Fb", "/a%2Fb"),
        (Base, "/a//b", "/a//b"),
        (Base, "/a%20b", "/a%20b"),
        (Base, "/é", "/%C3%A9"),
        (Base, "/a/..;/b", "/a/..;/b"),
        (Base, "/%c0%ae%c0%ae/a", "/%c0%ae%c0%ae/a"),
        (RefuseAmbiguous, "/é/..a;b/%c3%a9", "/%C3%A9/..a;b/%c3%a9"),
        (RefuseAmbiguous, "/%e0%a0%80/%e0a%80", "/%e0%a0%80/%e0a%80"),
        (RefuseAmbiguous, "/%e0/%80", "/%e0/%80"),
        (MergeSlashes, "/a//b///c", "/a/b/c"),
        (MergeSlashes, "//", "/"),
        (MergeSlashes, "/a%2F/b", "/a%2F/b"),
        (DecodeAndMergeSlashes, "/a%2Fb", "/a/b"),
        (DecodeAndMergeSlashes, "/a%5cb", "/a/b"),
        (DecodeAndMergeSlashes, "/a%2f%2e%2e%2Fb", "/b"),
        (DecodeAndMergeSlashes, "/a%2F%2Fb", "/a/b"),
        (DecodeAndMergeSlashes, "/a%252Fb", "/a%252Fb"),
        (RefuseAmbiguous, "/a/../b", "/b"),
        (RefuseAmbiguous, "/a%20b/", "/a%20b/"),
        (RefuseAmbiguous, "*", "*"),
    ] {
        assert_eq!(
            normalize(raw, mode).as_deref(),
            Ok(expected),
            "{mode:?} {raw}"
        );
    }
}

#[test]
fn paths_that_applications_read_differently_are_refused_by_default() {
    for raw in [
        "/a//b",
        "/a%2Fb",
        "/a%2f..%2fb",
        "/a%5Cb",
        "//",
        "/a/..%2Fb",
        "/a/..;/b",
        "/a/.;x=1/b",
        "/a/%2e%2e;/b",
        "/a/..;",
        "/%c0%ae%c0%ae/b",
        "/a%C1%9Cb",
        "/a%e0%80%afb",
        "/a%f0%80%80%afb",
    ] {
        assert_eq!(
            normalize(raw, RefuseAmbiguous),
            Err(PathError::Ambiguous),
            "{raw}"
        );
        assert!(normalize(raw, Base).is_ok(), "{raw}");
    }
}

#[test]
fn broken_paths_are_refused_except_where_nothing_is_normalised() {
    for (raw, error) in [
        ("/%", PathError::BadEscape),
        ("/%4", PathError::BadEscape),
        ("/%zz", PathError::BadEscape),
        ("/%+1", PathError::BadEscape),
        ("/%é", PathError::BadEscape),
        ("/a%00b", PathError::Nul),
        ("", PathError::NotAbsolute),
        ("a", PathError::NotAbsolute),
    ] {
        for mode in [Base, MergeSlashes, DecodeAndMergeSlashes, RefuseAmbiguous] {
            assert_eq!(normalize(raw, mode), Err(error), "{mode:?} {raw}");
        }
    }
    assert_eq!(normalize("/%zz", Raw).as_deref(), Ok("/%zz"));
    assert_eq!(normalize("/é", Raw), Err(PathError::IllegalByte));
}

proptest! {
    #[test]
    fn normalising_twice_changes_nothing(raw in "/[a./%2eEfF5cC\\\\]{0,24}") {
        for mode in [Base, MergeSlashes, RefuseAmbiguous] {
            if let Ok(once) = normalize(&raw, mode) {
                prop_assert_eq!(normalize(&once, mode), Ok(once.clone()), "{:?}", mode);
            }
        }
    }

    #[test]
    fn nothing_that_passes_by_default_keeps_a_dot_segment(raw in "/[a./%2eE]{0,24}") {
        if let Ok(path) = normalize(&raw, RefuseAmbiguous) {
            prop_assert!(path.split('/').all(|s| s != "." && s != ".."), "{}", path);
            prop_assert!(!path.contains("//"), "{}", path);
        }
    }

    #[test]
    fn no_text_panics(raw in "\\PC{0,40}") {
        for mode in [Raw, Base, MergeSlashes, DecodeAndMergeSlashes, RefuseAmbiguous] {
            let _outcome = normalize(&raw, mode);
        }
    }
}

proptest! {
    #[test]
    fn a_path_taken_for_normal_is_what_every_mode_makes_of_it(raw in "/[a/.%\\\\é~-]{0,12}") {
        for mode in [Raw, Base, MergeSlashes, DecodeAndMergeSlashes, RefuseAmbiguous] {
            prop_assert_eq!(normalize(&raw, mode), normalize_slowly(&raw, mode));
        }
    }
}
