//! Running `nft` and `ip`, here or in a named network namespace, and telling what they say in our words.

use std::{
    io::{self, Write},
    path::Path,
    process::{Command, Output, Stdio},
};

use crate::problem::Problem;

/// Where the rules are: this process's network namespace, or the one of that name (ip-netns(8)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Where<'a> {
    /// Our own.
    Here,
    /// `/run/netns/NAME`
    Namespace(&'a str),
}

/// Whether the kernel here has IPv6 at all.
pub(crate) fn has_ipv6() -> bool {
    Path::new("/proc/net/if_inet6").exists()
}

/// Has `nft` do what `script` says, all of it or nothing.
pub(crate) fn apply(at: Where<'_>, script: &str) -> Result<(), Problem> {
    let mut command = command(at, "nft");
    command.args(["-f", "-"]);
    let output = run(command, "nft", script)?;
    succeeded(&output, "nft", at)
}

/// What `nft` says of our table; `None` if there is none.
pub(crate) fn list(at: Where<'_>, family: &str, table: &str) -> Result<Option<String>, Problem> {
    let mut command = command(at, "nft");
    command.args(["list", "table", family, table]);
    let output = run(command, "nft", "")?;
    if output.status.success() {
        return Ok(Some(String::from_utf8_lossy(&output.stdout).into_owned()));
    }
    if said(&output).contains("No such file or directory") {
        return Ok(None);
    }
    succeeded(&output, "nft", at).map(|()| None)
}

/// Has `ip` carry out the lines of `script`.
pub(crate) fn ip(at: Where<'_>, script: &str) -> Result<(), Problem> {
    let mut command = Command::new("ip");
    if let Where::Namespace(name) = at {
        command.args(["-n", name]);
    }
    command.args(["-batch", "-"]);
    let output = run(command, "ip", script)?;
    succeeded(&output, "ip", at)
}

/// The same, where it does not matter if a line fails; the other lines are carried out.
pub(crate) fn try_ip(at: Where<'_>, script: &str) {
    let mut command = Command::new("ip");
    if let Where::Namespace(name) = at {
        command.args(["-n", name]);
    }
    command.args(["-force", "-batch", "-"]);
    drop(run(command, "ip", script));
}

fn command(at: Where<'_>, program: &str) -> Command {
    match at {
        Where::Here => Command::new(program),
        Where::Namespace(name) => {
            let mut command = Command::new("ip");
            command.args(["netns", "exec", name, program]);
            command
        }
    }
}

fn run(mut command: Command, program: &str, input: &str) -> Result<Output, Problem> {
    let spawned = command
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = spawned.map_err(|error| missing(program, &error))?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that has ended says why itself.
        drop(stdin.write_all(input.as_bytes()));
    }
    child
        .wait_with_output()
        .map_err(|error| Problem::because(format!("{program} could not be waited for"), &error))
}

fn missing(program: &str, error: &io::Error) -> Problem {
    let package = if program == "nft" {
        "nftables"
    } else {
        "iproute2"
    };
    Problem::because(format!("{program} could not be started"), error).fix(format!(
        "install it: apt-get install {package} (or dnf install {package})"
    ))
}

fn succeeded(output: &Output, program: &str, at: Where<'_>) -> Result<(), Problem> {
    if output.status.success() {
        return Ok(());
    }
    let said = said(output);
    let problem = Problem::new(format!("{program} refused: {}", said.trim()));
    let problem = match at {
        Where::Here => problem,
        Where::Namespace(name) => problem.at(format!("network namespace {name}")),
    };
    Err(
        if said.contains("Operation not permitted") || said.contains("must be root") {
            problem.fix("run it as root, or with CAP_NET_ADMIN in this network namespace")
        } else if said.contains("exec of \"nft\" failed") {
            problem.fix("install it: apt-get install nftables (or dnf install nftables)")
        } else if said.contains("No such file or directory") {
            problem.fix("the kernel may lack a part: it needs nf_tables with nat, fib and, for --mode tproxy, nft_tproxy")
        } else {
            problem
        },
    )
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
