//! The house rules that can be checked: who may depend on whom, what may stand where, how long a file may be.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use cargo_metadata::{DependencyKind, MetadataCommand};

#[path = "tidy/limits.rs"]
mod limits;

/// Files longer than this fail; aim at 100 to 300 lines.
const MAX_LINES: usize = 800;

/// Which of our packages each package may use (ARCHITECTURE.md, "The rooms").
const FENCES: &[(&str, &[&str])] = &[
    ("reeve-core", &[]),
    ("reeve-files", &[]),
    ("reeve-jwt", &["reeve-core"]),
    ("reeve-svid", &["reeve-core", "reeve-jwt"]),
    ("reeve-ca", &["reeve-core", "reeve-files", "reeve-svid"]),
    ("reeve-pkcs11", &["reeve-ca"]),
    ("reeve-authz", &["reeve-core", "reeve-jwt"]),
    ("reeve-symbolic", &["reeve-core", "reeve-authz"]),
    ("reeve-audit", &["reeve-core"]),
    ("reeve-columns", &["reeve-core", "reeve-audit"]),
    ("reeve-bucket", &["reeve-audit"]),
    ("reeve-query", &["reeve-audit", "reeve-columns"]),
    (
        "reeve-analysis",
        &["reeve-core", "reeve-authz", "reeve-audit"],
    ),
    (
        "reeve-proxy",
        &["reeve-core", "reeve-svid", "reeve-authz", "reeve-audit"],
    ),
    ("reeve-ads", &["reeve-core"]),
    (
        "reeve-control",
        &[
            "reeve-core",
            "reeve-files",
            "reeve-svid",
            "reeve-ads",
            "reeve-authz",
        ],
    ),
    (
        "reeve-federation",
        &["reeve-core", "reeve-files", "reeve-svid"],
    ),
    ("reeve-console", &["reeve-core"]),
    ("reeve-ratelimit", &["reeve-core"]),
    (
        "reeve-ext-authz",
        &["reeve-core", "reeve-authz", "reeve-audit", "reeve-proxy"],
    ),
    (
        "reeve-sidecar",
        &[
            "reeve-core",
            "reeve-svid",
            "reeve-ca",
            "reeve-authz",
            "reeve-audit",
            "reeve-proxy",
            "reeve-ads",
        ],
    ),
    (
        "reeve-cli",
        &[
            "reeve-core",
            "reeve-files",
            "reeve-svid",
            "reeve-ca",
            "reeve-pkcs11",
            "reeve-federation",
            "reeve-authz",
            "reeve-analysis",
            "reeve-audit",
            "reeve-columns",
            "reeve-bucket",
            "reeve-query",
            "reeve-proxy",
            "reeve-ads",
            "reeve-control",
            "reeve-console",
            "reeve-ratelimit",
            "reeve-ext-authz",
            "reeve-symbolic",
            "reeve-sidecar",
        ],
    ),
    ("reeve-bookinfo", &[]),
];

/// Libraries that only one room may use, by its packages.
const SOLE_USERS: &[(&str, &str)] = &[
    ("rcgen", "reeve-ca"),
    ("cryptoki", "reeve-pkcs11"),
    ("cedar-policy", "reeve-authz"),
    ("cedar-policy", "reeve-symbolic"),
    ("cedar-policy-core", "reeve-authz"),
    ("cedar-policy-formatter", "reeve-authz"),
    ("cedar-policy-symcc", "reeve-symbolic"),
    ("jsonwebtoken", "reeve-jwt"),
    ("kube", "reeve-control"),
    ("saphyr-parser", "reeve-control"),
    ("redis", "reeve-ratelimit"),
    ("tlog_tiles", "reeve-audit"),
    ("signed_note", "reeve-audit"),
    ("parquet", "reeve-columns"),
    ("object_store", "reeve-bucket"),
    ("datafusion", "reeve-query"),
];

/// What may stand at the top of the tree.
const TOP_LEVEL: &[&str] = &[
    ".ci",
    ".git",
    ".gitignore",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "Makefile",
    "README.md",
    "audit",
    "authz",
    "ca",
    "cli",
    "clippy.toml",
    "console",
    "control",
    "core",
    "deny.toml",
    "deploy",
    "docs",
    "policies",
    "proxy",
    "rustfmt.toml",
    "target",
    "tests",
];

fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().expect("tests/ stands in the root").to_owned()
}

fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let metadata = MetadataCommand::new()
        .manifest_path(root().join("Cargo.toml"))
        .no_deps()
        .exec()
        .expect("cargo metadata");
    let normal = |p: &cargo_metadata::Package| {
        p.dependencies
            .iter()
            .filter(|d| d.kind != DependencyKind::Development)
            .map(|d| d.name.clone())
            .collect()
    };
    let packages = metadata.packages.iter();
    packages.map(|p| (p.name.to_string(), normal(p))).collect()
}

/// Every file of ours with one of these endings.
fn sources(endings: &[&str]) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("readable tree") {
            let path = entry.expect("readable entry").path();
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            if path.is_dir() {
                if !matches!(name.as_str(), ".git" | "target" | "__pycache__") {
                    folders.push(path);
                }
            } else if endings.iter().any(|e| name.ends_with(e)) {
                let text = fs::read_to_string(&path).expect("UTF-8 source");
                found.push((
                    path.strip_prefix(root())
                        .expect("below the root")
                        .to_owned(),
                    text,
                ));
            }
        }
    }
    assert!(
        !found.is_empty(),
        "no sources with {endings:?}: is the tree complete?"
    );
    found
}

#[test]
fn rooms_use_only_the_rooms_they_may() {
    let dependencies = dependencies();
    for (package, used) in &dependencies {
        if package == "reeve-tests" {
            continue;
        }
        let fence = FENCES.iter().find(|(name, _)| name == package);
        let (_, allowed) = fence.unwrap_or_else(|| panic!("{package} has no fence in FENCES"));
        for name in used.iter().filter(|name| name.starts_with("reeve-")) {
            assert!(
                allowed.contains(&name.as_str()),
                "{package} must not know {name}"
            );
        }
    }
    for (package, _) in FENCES {
        assert!(
            dependencies.contains_key(*package),
            "FENCES names {package}, which is gone"
        );
    }
}

#[test]
fn each_guarded_library_has_one_user() {
    for (package, used) in dependencies() {
        for (library, _) in SOLE_USERS
            .iter()
            .filter(|(library, _)| used.contains(*library))
        {
            let owners = SOLE_USERS.iter().filter(|(named, _)| named == library);
            let owners: Vec<_> = owners.map(|(_, owner)| *owner).collect();
            assert!(
                owners.contains(&package.as_str()),
                "{package} uses {library}, which belongs to {owners:?}"
            );
        }
    }
}

#[test]
fn every_package_takes_the_workspace_lints() {
    for (path, text) in sources(&["Cargo.toml"]) {
        if path == Path::new("Cargo.toml") || path == Path::new("tests/Cargo.toml") {
            continue;
        }
        assert!(
            text.contains("[lints]\nworkspace = true"),
            "{} does not inherit the lints",
            path.display()
        );
    }
}

#[test]
fn nothing_unexpected_stands_at_the_top() {
    for entry in fs::read_dir(root()).expect("readable root") {
        let name = entry.expect("readable entry").file_name();
        let name = name.to_string_lossy();
        assert!(
            TOP_LEVEL.contains(&name.as_ref()),
            "{name} does not belong at the top"
        );
    }
}

#[test]
fn files_are_short_documented_and_well_named() {
    let mut faults = Vec::new();
    for (path, text) in sources(&[".rs", ".py"]) {
        let shown = path.display();
        let lines = text.lines().count();
        if lines > MAX_LINES {
            faults.push(format!("{shown}: {lines} lines, more than {MAX_LINES}"));
        }
        let stem = path
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if ["mod", "util", "utils", "helpers", "common", "manager"].contains(&stem.as_str()) {
            faults.push(format!("{shown}: name it after what it holds"));
        }
        let is_rust = path.extension().is_some_and(|e| e == "rs");
        let is_test = path.components().any(|c| c.as_os_str() == "tests") || stem == "tests";
        if is_rust && !is_test && !text.starts_with("//!") {
            faults.push(format!(
                "{shown}: begin with a //! line that says what it is for"
            ));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn no_test_is_switched_off() {
    let marker = ["#[", "ignore"].concat();
    for (path, text) in sources(&[".rs"]) {
        assert!(
            !text.contains(&marker),
            "{} has an ignored test",
            path.display()
        );
    }
}

#[test]
fn the_guides_stay_short_enough_to_read() {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md");
    assert!(
        text.lines().count() <= 300,
        "ARCHITECTURE.md is over 300 lines"
    );
}
