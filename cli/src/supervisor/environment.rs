//! What an application is told: its command, its environment.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use reeve_control::{
    LocalWorkload, Mesh, Service, WorkloadRole,
    instances::{Instance, Instances},
};
use reeve_core::{Namespace, ServiceName};

use super::escaped::{INSTANCE_MARK, MESH_MARK};
use crate::state::StateDir;

/// Variables of the supervisor's own environment that applications get; everything else stays with it.
const INHERITED: [&str; 12] = [
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "TZ",
    "TMPDIR",
    "VIRTUAL_ENV",
    "PYENV_ROOT",
];

/// Programs that a command may name.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    /// `${reeve}`
    pub(crate) reeve: PathBuf,
    /// `${bookinfo}`: next to it.
    pub(crate) bookinfo: PathBuf,
    /// `${folder}`
    pub(crate) folder: PathBuf,
}

impl Programs {
    /// Replaces `${reeve}`, `${bookinfo}` and `${folder}`; anything else stays as it is.
    pub(crate) fn fill_in(&self, word: &str) -> OsString {
        let replacements = [
            ("${reeve}", &self.reeve),
            ("${bookinfo}", &self.bookinfo),
            ("${folder}", &self.folder),
        ];
        let mut word = word.to_owned();
        for (name, path) in replacements {
            word = word.replace(name, &path.to_string_lossy());
        }
        word.into()
    }
}

/// What is the same for every process that the supervisor starts.
pub(crate) fn inherited() -> Vec<(OsString, OsString)> {
    INHERITED
        .iter()
        .filter_map(|name| Some((OsString::from(name), std::env::var_os(name)?)))
        .collect()
}

/// An application's environment.
pub(crate) fn of_application(
    mesh: &Mesh,
    workload: &LocalWorkload,
    instance: &Instance,
    instances: &Instances,
    state: &StateDir,
    marker: &str,
) -> Vec<(OsString, OsString)> {
    let mut env: BTreeMap<OsString, OsString> = inherited().into_iter().collect();
    for service in mesh.services.values() {
        let Some((address, port)) = way_to(mesh, service, workload, instance, instances) else {
            continue;
        };
        for name in variable_names(&service.host, &workload.namespace) {
            env.insert(
                format!("{name}_SERVICE_HOST").into(),
                address.to_string().into(),
            );
            env.insert(
                format!("{name}_SERVICE_PORT").into(),
                port.to_string().into(),
            );
        }
    }
    let mut set = |key: &str, value: String| env.insert(key.into(), value.into());
    set("HOST", instance.app_address.to_string());
    if let Some(port) = workload.ports.first() {
        set("PORT", port.app_port.to_string());
    }
    if workload.identity.is_some() {
        let socket = state.agent_socket(&instance.instance);
        set(
            "SPIFFE_ENDPOINT_SOCKET",
            format!("unix:{}", socket.display()),
        );
    }
    for (key, value) in &workload.env {
        set(key, value.clone());
    }
    // After the workload's own variables: these cannot be overridden.
    set(INSTANCE_MARK, instance.instance.to_string());
    set(MESH_MARK, marker.to_owned());
    env.into_iter().collect()
}

/// `reviews.default.svc.cluster.local` is `REVIEWS` and `REVIEWS_DEFAULT` to a neighbour, and only the latter to a
/// workload of another namespace.
fn variable_names(service: &ServiceName, home: &Namespace) -> Vec<String> {
    let mut parts = service.as_str().split('.');
    let (Some(name), Some(namespace)) = (parts.next(), parts.next()) else {
        return Vec::new();
    };
    let upper = |text: &str| text.replace('-', "_").to_ascii_uppercase();
    let long = format!("{}_{}", upper(name), upper(namespace));
    if namespace == home.as_str() {
        vec![upper(name), long]
    } else {
        vec![long]
    }
}

/// Where an instance's application reaches a service: at the address beside it that stands for the service, or, for
/// one without a proxy, at the sidecar of one of the service's instances.
fn way_to(
    mesh: &Mesh,
    service: &Service,
    workload: &LocalWorkload,
    instance: &Instance,
    instances: &Instances,
) -> Option<(Ipv4Addr, u16)> {
    let port = service.ports.first()?;
    if workload.role != WorkloadRole::None {
        let address = instances.outbound_address(instance.slot, &service.host)?;
        return Some((address, port.port));
    }
    let server = mesh.workloads.iter().find(|other| service.selects(other))?;
    let first = server.instances.first()?;
    Some((instances.get(first)?.address, port.on(server)?))
}

/// Where an application runs.
pub(crate) fn working_dir(workload: &LocalWorkload, folder: &Path) -> PathBuf {
    match &workload.working_dir {
        Some(dir) => folder.join(dir),
        None => folder.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_have_short_names_and_everybody_has_long_ones() {
        let service = "my-reviews.shop.svc.cluster.local".parse().unwrap();
        let names = |home: &str| variable_names(&service, &home.parse().unwrap());
        assert_eq!(names("shop"), ["MY_REVIEWS", "MY_REVIEWS_SHOP"]);
        assert_eq!(names("default"), ["MY_REVIEWS_SHOP"]);
    }

    #[test]
    fn only_known_placeholders_are_filled_in() {
        let programs = Programs {
            reeve: "/bin/reeve".into(),
            bookinfo: "/bin/reeve-bookinfo".into(),
            folder: "/mesh".into(),
        };
        assert_eq!(programs.fill_in("${folder}/app.py"), "/mesh/app.py");
        assert_eq!(programs.fill_in("${bookinfo}"), "/bin/reeve-bookinfo");
        assert_eq!(programs.fill_in("${HOME}/x"), "${HOME}/x");
    }

    #[test]
    fn the_supervisors_own_secrets_stay_with_it() {
        let inherited = inherited();
        assert!(
            inherited
                .iter()
                .all(|(name, _)| INHERITED.iter().any(|known| name == known))
        );
    }
}
