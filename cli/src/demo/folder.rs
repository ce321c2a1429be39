//! Bookinfo's mesh, carried in the binary and written out where users can edit it.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// The gateway's port, from `traffic.yaml`.
pub(crate) const GATEWAY_PORT: u16 = 8080;
/// The gateway's workload, from `workloads.yaml`.
pub(crate) const GATEWAY_WORKLOAD: &str = "ingress";

/// The folder's files.
const FILES: [(&str, &str); 6] = [
    (
        "access.yaml",
        include_str!("../../../deploy/bookinfo/mesh/access.yaml"),
    ),
    (
        "mesh.yaml",
        include_str!("../../../deploy/bookinfo/mesh/mesh.yaml"),
    ),
    (
        "productpage.py",
        include_str!("../../../deploy/bookinfo/mesh/productpage.py"),
    ),
    (
        "services.yaml",
        include_str!("../../../deploy/bookinfo/mesh/services.yaml"),
    ),
    (
        "traffic.yaml",
        include_str!("../../../deploy/bookinfo/mesh/traffic.yaml"),
    ),
    (
        "workloads.yaml",
        include_str!("../../../deploy/bookinfo/mesh/workloads.yaml"),
    ),
];

/// Writes the folder to `<state>/demo`; files that are there already (edited, in a kept state directory) stay.
pub(crate) fn write(state: &Path) -> io::Result<PathBuf> {
    let folder = state.join("demo");
    fs::create_dir_all(&folder)?;
    for (name, text) in FILES {
        let path = folder.join(name);
        if !path.exists() {
            fs::write(path, text)?;
        }
    }
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_binary_carries_the_whole_folder() {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/bookinfo/mesh");
        let mut names: Vec<_> = fs::read_dir(source)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| {
                [".yaml", ".yml", ".py"]
                    .iter()
                    .any(|end| name.ends_with(end))
            })
            .collect();
        names.sort();
        assert_eq!(names, FILES.map(|(name, _)| name));
    }

    #[test]
    fn edits_survive_a_restart() {
        let state = tempfile::tempdir().unwrap();
        let folder = write(state.path()).unwrap();
        fs::write(folder.join("access.yaml"), "mine").unwrap();
        write(state.path()).unwrap();
        assert_eq!(
            fs::read_to_string(folder.join("access.yaml")).unwrap(),
            "mine"
        );
    }
}
