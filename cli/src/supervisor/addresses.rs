//! The loopback addresses of a mesh, `127.<base>.*`: who holds them, and whether the paths and ports fit.

use std::{
    io::ErrorKind,
    net::{Ipv4Addr, SocketAddrV4, TcpListener},
};

use reeve_control::{
    Mesh, WorkloadRole,
    instances::{API_PORT, GRPC_PORT, Instances},
};

use super::Notices;
use crate::{
    problem::Problem,
    state::{StateDir, check_socket_path},
};

/// A supervisor listens here for as long as it lives, so that no other takes the same addresses.
const CLAIM_PORT: u16 = 15000;

/// The addresses `127.<base>.*`, held by this process.
#[derive(Debug)]
pub(crate) struct BaseClaim {
    base: u8,
    _listener: TcpListener,
}

impl BaseClaim {
    /// Takes the addresses.
    pub(crate) fn take(base: u8) -> Result<Self, Problem> {
        Self::try_take(base).map_err(|error| {
            let problem = if error.kind() == ErrorKind::AddrInUse {
                Problem::new(format!(
                    "the addresses 127.{base}.* are in use by another mesh"
                ))
            } else {
                Problem::because(format!("the addresses 127.{base}.* cannot be used"), &error)
            };
            problem
                .at(format!("127.{base}.0.1"))
                .fix("stop that mesh, or choose other addresses with --base X (1 to 254)")
        })
    }

    /// Takes the first free addresses from `first` on.
    pub(crate) fn take_next_free(first: u8) -> Result<Self, Problem> {
        let bases = (first..=254).chain(1..first);
        let taken = bases.into_iter().find_map(|base| Self::try_take(base).ok());
        taken.ok_or_else(|| {
            Problem::new("all loopback addresses 127.1.* to 127.254.* are in use")
                .fix("stop a mesh that you do not need any more")
        })
    }

    fn try_take(base: u8) -> std::io::Result<Self> {
        let mesh = Ipv4Addr::new(127, base, 0, 1);
        let listener = TcpListener::bind(SocketAddrV4::new(mesh, CLAIM_PORT))?;
        for port in [GRPC_PORT, API_PORT] {
            drop(TcpListener::bind(SocketAddrV4::new(mesh, port))?);
        }
        Ok(Self {
            base,
            _listener: listener,
        })
    }

    /// The second number of every address.
    pub(crate) fn base(&self) -> u8 {
        self.base
    }
}

/// Whether every socket path fits.
pub(crate) fn check(state: &StateDir, plan: &Instances) -> Result<(), Problem> {
    for instance in &plan.instances {
        check_socket_path(&state.agent_socket(&instance.instance))?;
        check_socket_path(&state.admin_socket(&instance.instance))?;
        check_socket_path(&state.handover_socket(&instance.instance))?;
    }
    check_socket_path(&state.supervisor_socket())
}

/// Tells of application ports that a foreign process holds: the application will fail to listen there.
pub(crate) fn report_taken_ports(mesh: &Mesh, plan: &Instances, notices: &Notices) {
    for instance in &plan.instances {
        let Some(workload) = mesh.workload_of(&instance.instance) else {
            continue;
        };
        let apps = workload
            .ports
            .iter()
            .map(|p| (instance.app_address, p.app_port));
        let proxies = workload.ports.iter().map(|p| (instance.address, p.port));
        let proxies = proxies.filter(|_| workload.role != WorkloadRole::None);
        for (address, port) in apps.chain(proxies) {
            let taken = TcpListener::bind(SocketAddrV4::new(address, port));
            if taken.is_err_and(|error| error.kind() == ErrorKind::AddrInUse) {
                notices.tell(format!(
                    "{}: {address}:{port} is in use by another process; end that process",
                    instance.instance
                ));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_belong_to_one_mesh_at_a_time() {
        let first = BaseClaim::take_next_free(190).unwrap();
        let problem = BaseClaim::take(first.base()).unwrap_err().to_string();
        assert!(problem.contains("in use by another mesh"), "{problem}");
        assert!(problem.contains("--base"), "{problem}");
        let second = BaseClaim::take_next_free(first.base()).unwrap();
        assert_ne!(first.base(), second.base());
    }
}
