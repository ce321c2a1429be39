//! Network namespaces for the instances of a mesh, a bridge between them, and the rules within (`reeve up --intercept`).
//!
//! All of it is named after the mesh's base, so that the guard, or the next run, finds what a killed supervisor left.

use std::{fs, io, os::unix::fs as unix_fs, os::unix::fs::PermissionsExt, path::Path};

use reeve_control::instances::Instances;
use reeve_core::{InstanceName, model::CaptureMode};

use crate::{
    intercept::{
        Rules,
        nft::{self, Where},
    },
    mesh::open_to_group,
    problem::Problem,
    state::StateDir,
    verb::{intercept::put, run::PrivilegeArgs},
};

/// The group of every sidecar: it may pass through the state directory to the sockets there. Far from any user's.
pub(crate) const GROUP: u32 = 1337 << 16;
/// Where network namespaces have their names (ip-netns(8)).
const NAMES: &str = "/run/netns";

/// The networks of one mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Network {
    base: u8,
    mode: CaptureMode,
    ipv6: bool,
}

impl Network {
    /// Checks that networks can be made, and opens the state directory to sidecars with users of their own.
    pub(crate) fn prepare(base: u8, mode: CaptureMode, state: &StateDir) -> Result<Self, Problem> {
        if !rustix::process::geteuid().is_root() {
            return Err(
                Problem::new("network namespaces can only be made by root (CAP_NET_ADMIN and CAP_SYS_ADMIN)")
                    .fix("run it with sudo, or leave --intercept away: then instances have loopback addresses, and are not isolated"),
            );
        }
        for (directory, mode) in [
            (state.path().to_owned(), 0o710),
            (state.path().join("wal"), 0o710),
            // Each may make its sockets there, and remove no other's.
            (state.path().join("run"), 0o1730),
        ] {
            unix_fs::chown(&directory, None, Some(GROUP))
                .and_then(|()| fs::set_permissions(&directory, fs::Permissions::from_mode(mode)))
                .map_err(|error| unprepared(&directory, &error))?;
        }
        let ipv6 = nft::has_ipv6();
        Ok(Self { base, mode, ipv6 })
    }

    /// Makes the bridge, in place of whatever an earlier run left.
    pub(crate) fn make(&self) -> Result<(), Problem> {
        remove_all(self.base);
        let (bridge, base) = (bridge(self.base), self.base);
        let mut script =
            format!("link add {bridge} type bridge\naddr add 10.{base}.0.1/16 dev {bridge}\n");
        if self.ipv6 {
            let address = addresses(base).of_instance_v6(0);
            script.push_str(&format!("addr add {address}/64 dev {bridge} nodad\n"));
        }
        script.push_str(&format!("link set {bridge} up\n"));
        nft::ip(Where::Here, &script)
    }

    /// The second number of every address.
    pub(crate) fn base(&self) -> u8 {
        self.base
    }

    /// The name of the network namespace of a slot.
    pub(crate) fn name(&self, slot: u8) -> String {
        format!("{}{slot}", prefix(self.base))
    }

    /// What the sidecar in a slot may do: it has a user of its own.
    pub(crate) fn of_sidecar(&self, slot: u8) -> PrivilegeArgs {
        let own = (u32::from(self.base) << 8) | u32::from(slot);
        PrivilegeArgs {
            uid: Some(GROUP | own),
            gid: Some(GROUP),
            keep_net_admin: self.mode == CaptureMode::Tproxy,
            confined: false,
        }
    }

    /// Makes the network namespace of a slot; what the user `captured_except` does not do there is captured.
    pub(crate) fn add(&self, slot: u8, captured_except: Option<u32>) -> Result<(), Problem> {
        self.remove(slot);
        let (name, link, bridge) = (self.name(slot), link(self.base, slot), bridge(self.base));
        nft::ip(
            Where::Here,
            &format!(
                "netns add {name}\nlink add {link} type veth peer name eth0 netns {name}\n\
                 link set {link} master {bridge} up\n"
            ),
        )?;
        let at = Where::Namespace(&name);
        // The rules first: there is no moment in which something could go around them.
        if let Some(uid) = captured_except {
            let rules = Rules {
                mode: self.mode,
                ipv6: self.ipv6,
                proxy_uid: uid,
                ..Rules::default()
            };
            put(at, &rules)?;
        }
        let addresses = addresses(self.base);
        let mut script = format!(
            "link set lo up\naddr add {}/16 dev eth0\nlink set eth0 up\nroute add default via 10.{}.0.1\n",
            addresses.of_instance(slot),
            self.base
        );
        if self.ipv6 {
            let (own, gateway) = (addresses.of_instance_v6(slot), addresses.of_instance_v6(0));
            script.push_str(&format!(
                "addr add {own}/64 dev eth0 nodad\nroute add default via {gateway} dev eth0\n"
            ));
        }
        nft::ip(at, &script)
    }

    /// Removes the network namespace of a slot, if it is there.
    pub(crate) fn remove(&self, slot: u8) {
        remove(&self.name(slot), &link(self.base, slot));
    }

    /// Gives a sidecar what an earlier run with another user may have left in its places.
    pub(crate) fn hand_over(
        &self,
        state: &StateDir,
        instance: &InstanceName,
        uid: Option<u32>,
    ) -> Result<(), Problem> {
        for socket in [state.agent_socket(instance), state.admin_socket(instance)] {
            // Stale: no earlier instance runs any more.
            drop(fs::remove_file(socket));
        }
        let wal = state.wal(instance);
        let given = fs::create_dir_all(&wal).and_then(|()| give(&wal, uid));
        given.map_err(|error| unprepared(&wal, &error))
    }
}

fn give(directory: &Path, uid: Option<u32>) -> io::Result<()> {
    unix_fs::chown(directory, uid, None)?;
    fs::set_permissions(directory, fs::Permissions::from_mode(0o700))?;
    for entry in fs::read_dir(directory)? {
        unix_fs::lchown(entry?.path(), uid, None)?;
    }
    Ok(())
}

/// Lets sidecars connect to a socket of ours.
pub(crate) fn open_to_sidecars(path: &Path) -> Result<(), Problem> {
    open_to_group(path, GROUP).map_err(|error| unprepared(path, &error))
}

fn unprepared(path: &Path, error: &io::Error) -> Problem {
    Problem::because("sidecars cannot be given access", error).at(path.display())
}

/// Removes every network of the mesh with this base, whoever made it.
pub(crate) fn remove_all(base: u8) {
    let prefix = prefix(base);
    let names = fs::read_dir(NAMES).into_iter().flatten().flatten();
    for name in names {
        let name = name.file_name().to_string_lossy().into_owned();
        if let Some(slot) = name.strip_prefix(&prefix).and_then(|s| s.parse().ok()) {
            remove(&name, &link(base, slot));
        }
    }
    let bridge = bridge(base);
    if Path::new("/sys/class/net").join(&bridge).exists() {
        nft::try_ip(Where::Here, &format!("link del {bridge}\n"));
    }
}

fn remove(name: &str, link: &str) {
    // The link first: a process that is still there would keep the namespace, and with it the link, alive.
    let mut script = String::new();
    if Path::new("/sys/class/net").join(link).exists() {
        script.push_str(&format!("link del {link}\n"));
    }
    if Path::new(NAMES).join(name).exists() {
        script.push_str(&format!("netns del {name}\n"));
    }
    if !script.is_empty() {
        nft::try_ip(Where::Here, &script);
    }
}

fn addresses(base: u8) -> reeve_control::instances::MeshAddresses {
    let mut mesh = Instances::new(base).mesh;
    mesh.capture = Some(CaptureMode::Redirect);
    mesh
}

fn prefix(base: u8) -> String {
    format!("reeve-{base}-")
}

fn bridge(base: u8) -> String {
    format!("reeve{base}")
}

fn link(base: u8, slot: u8) -> String {
    format!("rv{base}-{slot}")
}
