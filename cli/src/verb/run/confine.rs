//! Giving up power before becoming another program: network namespace, user, capabilities.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    os::fd::AsFd,
    path::Path,
};

use rustix::{
    fs::{Gid, Uid},
    thread::{
        CapabilitySet, CapabilitySets, LinkNameSpaceType, configure_capability_in_ambient_set,
        move_into_link_name_space, remove_capability_from_bounding_set, set_capabilities,
        set_keep_capabilities, set_no_new_privs, set_thread_groups, set_thread_res_gid,
        set_thread_res_uid,
    },
};

use super::PrivilegeArgs;
use crate::problem::Problem;

/// What a confined root keeps: files are not what it is confined from. Without the others it cannot leave its network
/// namespace, change the rules there, become its sidecar's user, or look into other processes.
const KEPT: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::NET_BIND_SERVICE);

/// Moves this thread into a named network namespace (ip-netns(8)).
pub(crate) fn enter_namespace(name: &str) -> Result<(), Problem> {
    let path = Path::new("/run/netns").join(name);
    let problem = |error: &dyn std::error::Error| {
        Problem::because("the network namespace cannot be entered", error)
            .at(path.display())
            .fix("it is made when the mesh starts; run the mesh as root")
    };
    let file = File::open(&path).map_err(|error| problem(&error))?;
    let network = Some(LinkNameSpaceType::Network);
    move_into_link_name_space(file.as_fd(), network).map_err(|error| problem(&error))
}

/// Gives up what is to be given up. Must be called before this process has a second thread: users and capabilities
/// are a thread's.
pub(super) fn give_up(privilege: &PrivilegeArgs) -> Result<(), Problem> {
    let done = match (privilege.uid, privilege.gid) {
        (Some(uid), Some(gid)) => become_user(uid, gid, privilege.keep_net_admin),
        (Some(_), None) | (None, Some(_)) | (None, None) if privilege.confined => confine(),
        (Some(_), None) | (None, Some(_)) | (None, None) => Ok(()),
    };
    done.map_err(|error| {
        Problem::because("the privileges could not be given up", &error).fix("run the mesh as root")
    })
}

fn become_user(uid: u32, gid: u32, keep_net_admin: bool) -> rustix::io::Result<()> {
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    set_thread_groups(&[gid])?;
    set_thread_res_gid(gid, gid, gid)?;
    set_keep_capabilities(keep_net_admin)?;
    set_thread_res_uid(uid, uid, uid)?;
    if keep_net_admin {
        let only = CapabilitySet::NET_ADMIN;
        set_capabilities(None, sets(only, only))?;
        configure_capability_in_ambient_set(only, true)?;
    }
    set_no_new_privs(true)
}

fn confine() -> rustix::io::Result<()> {
    for (_, capability) in CapabilitySet::all().difference(KEPT).iter_names() {
        remove_capability_from_bounding_set(capability)?;
    }
    set_capabilities(None, sets(KEPT, CapabilitySet::empty()))?;
    set_no_new_privs(true)
}

fn sets(held: CapabilitySet, inheritable: CapabilitySet) -> CapabilitySets {
    CapabilitySets {
        effective: held,
        permitted: held,
        inheritable,
    }
}

/// The name to execute a program by. Our own binary may lie where the new user cannot look; the kernel's link to it
/// leads there all the same.
pub(super) fn reachable(program: &OsStr) -> OsString {
    let own = std::env::current_exe();
    if own.is_ok_and(|own| own.as_os_str() == program) {
        return "/proc/self/exe".into();
    }
    program.to_owned()
}
