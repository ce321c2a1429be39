//! `reeve intercept`: the rules that bring this machine's (or network namespace's) TCP traffic to the proxy.

use clap::{Args, Subcommand, ValueEnum};
use reeve_core::model::CaptureMode;
use serde::Serialize;

use crate::{
    intercept::{
        PROXY_UID, Range, Rules, TABLE, family,
        nft::{self, Where},
    },
    output::{self, Format, OutputArgs},
    problem::{Answer, Problem, Verdict},
};

/// The address from which the proxy reaches the workload over IPv6 past the rules.
const PAST_THE_RULES: &str = "::6/128";

/// `reeve intercept`.
#[derive(Args, Debug)]
pub(crate) struct InterceptArgs {
    #[command(subcommand)]
    verb: InterceptVerb,
}

#[derive(Debug, Subcommand)]
enum InterceptVerb {
    /// Put the rules in place; those of an earlier run are replaced as a whole
    #[command(after_help = UP_EXAMPLES)]
    Up(Box<UpArgs>),
    /// Take the rules away again, and nothing else
    #[command(after_help = "\
Examples:
  reeve intercept down                                   fine too when there are none")]
    Down,
    /// Show the rules that are in place (exit code 1: there are none)
    #[command(after_help = "\
Examples:
  reeve intercept show
  reeve intercept show -o json | jq .mode

Exit codes: 0 = there are rules, 1 = there are none, 2 = nft could not be asked.")]
    Show(OutputArgs),
}

const UP_EXAMPLES: &str = "\
Examples:
  reeve intercept up                                     everything, except what user 1337 (the proxy) does
  reeve intercept up --exclude-inbound-port 22           and except SSH to this machine
  reeve intercept up --mode tproxy --exclude-outbound-range 169.254.169.254
  reeve intercept up --dry-run                           print the rules, change nothing

Needs root (CAP_NET_ADMIN) and nft (package nftables). UDP to port 443 (QUIC) is refused, so that clients fall back to
TCP; other UDP, and whatever runs as the proxy's user, is not captured.

Exit codes: 0 = the rules are in place, 2 = they are not (and nothing was changed).";

#[derive(Args, Debug)]
struct UpArgs {
    /// How inbound connections are brought to the proxy
    #[arg(long, value_enum, default_value_t = Mode::Redirect)]
    mode: Mode,
    /// User id of the proxy, whose own connections are let past
    #[arg(long, value_name = "UID", default_value_t = PROXY_UID)]
    proxy_uid: u32,
    /// Group id of the proxy, whose own connections are let past too
    #[arg(long, value_name = "GID")]
    proxy_gid: Option<u32>,
    /// The proxy's port for others' connections
    #[arg(long, value_name = "PORT", default_value_t = Rules::default().inbound_port, value_parser = clap::value_parser!(u16).range(1..))]
    inbound_port: u16,
    /// The proxy's port for this side's own connections
    #[arg(long, value_name = "PORT", default_value_t = Rules::default().outbound_port, value_parser = clap::value_parser!(u16).range(1..))]
    outbound_port: u16,
    /// Capture connections to this port (repeatable) and to no other; by default to every port
    #[arg(long, value_name = "PORT")]
    include_inbound_port: Vec<u16>,
    /// Let connections to this port go around the proxy (repeatable)
    #[arg(long, value_name = "PORT")]
    exclude_inbound_port: Vec<u16>,
    /// Capture own connections to this port (repeatable) and to no other; by default to every port
    #[arg(long, value_name = "PORT")]
    include_outbound_port: Vec<u16>,
    /// Let own connections to this port go around the proxy (repeatable)
    #[arg(long, value_name = "PORT")]
    exclude_outbound_port: Vec<u16>,
    /// Capture own connections to these addresses (repeatable) and to no others; by default to all
    #[arg(long, value_name = "CIDR")]
    include_outbound_range: Vec<Range>,
    /// Let own connections to these addresses go around the proxy (repeatable)
    #[arg(long, value_name = "CIDR")]
    exclude_outbound_range: Vec<Range>,
    /// Print the rules as nft would read them, and change nothing
    #[arg(long)]
    dry_run: bool,
}

/// `--mode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// By destination NAT: needs nothing of the proxy
    #[default]
    Redirect,
    /// Without NAT: the proxy needs CAP_NET_ADMIN
    Tproxy,
}

impl From<Mode> for CaptureMode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Redirect => Self::Redirect,
            Mode::Tproxy => Self::Tproxy,
        }
    }
}

#[derive(Serialize)]
struct Shown {
    installed: bool,
    table: String,
    mode: Option<&'static str>,
    ipv6: bool,
    rules: Vec<String>,
}

/// Changes or shows the rules.
pub(crate) fn run(args: InterceptArgs) -> Verdict {
    match args.verb {
        InterceptVerb::Up(args) => up(*args),
        InterceptVerb::Down => down(),
        InterceptVerb::Show(output) => show(output),
    }
}

fn up(args: UpArgs) -> Verdict {
    let dry_run = args.dry_run;
    let rules = args.rules();
    if dry_run {
        output::line(rules.to_nft().trim_end())?;
        return Ok(Answer::Yes);
    }
    put(Where::Here, &rules)?;
    if !rules.ipv6 {
        output::note("this kernel has no IPv6: the rules are for IPv4 alone");
    }
    Ok(Answer::Yes)
}

/// Puts rules in place.
pub(crate) fn put(at: Where<'_>, rules: &Rules) -> Result<(), Problem> {
    nft::apply(at, &rules.to_nft())?;
    if rules.ipv6 {
        // Without it (IPv6 is switched off here), such connections are refused, which is safe.
        let address = format!("addr replace {PAST_THE_RULES} dev lo nodad\n");
        nft::try_ip(at, &address);
    }
    Ok(())
}

impl UpArgs {
    fn rules(self) -> Rules {
        Rules {
            mode: self.mode.into(),
            ipv6: nft::has_ipv6(),
            inbound_port: self.inbound_port,
            outbound_port: self.outbound_port,
            proxy_uid: self.proxy_uid,
            proxy_gid: self.proxy_gid,
            include_inbound_ports: some(self.include_inbound_port),
            exclude_inbound_ports: self.exclude_inbound_port,
            include_outbound_ports: some(self.include_outbound_port),
            exclude_outbound_ports: self.exclude_outbound_port,
            include_outbound_ranges: some(self.include_outbound_range),
            exclude_outbound_ranges: self.exclude_outbound_range,
        }
    }
}

fn some<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}

/// The family of the table that is there, and its text.
fn found() -> Result<Option<(bool, String)>, Problem> {
    for ipv6 in [true, false] {
        if let Some(text) = nft::list(Where::Here, family(ipv6), TABLE)? {
            return Ok(Some((ipv6, text)));
        }
    }
    Ok(None)
}

fn down() -> Verdict {
    while let Some((ipv6, _)) = found()? {
        let family = family(ipv6);
        nft::apply(Where::Here, &format!("delete table {family} {TABLE}\n"))?;
        if ipv6 {
            nft::try_ip(Where::Here, &format!("addr del {PAST_THE_RULES} dev lo\n"));
        }
    }
    Ok(Answer::Yes)
}

fn show(args: OutputArgs) -> Verdict {
    let found = found()?;
    let shown = match &found {
        Some((ipv6, text)) => Shown {
            installed: true,
            table: format!("{} {TABLE}", family(*ipv6)),
            mode: Some(if text.contains("tproxy ") {
                "tproxy"
            } else {
                "redirect"
            }),
            ipv6: *ipv6,
            rules: text.lines().map(str::trim).map(str::to_owned).collect(),
        },
        None => Shown {
            installed: false,
            table: format!("{} {TABLE}", family(true)),
            mode: None,
            ipv6: false,
            rules: Vec::new(),
        },
    };
    match (args.output, &found) {
        (Format::Json, _) => output::json(&shown)?,
        (Format::Human, Some((_, text))) => output::line(text.trim_end())?,
        (Format::Human, None) => output::line("nothing is intercepted here")?,
    }
    Ok(Answer::from_fine(shown.installed))
}
