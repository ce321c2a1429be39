//! Some of the proxies, in a process of their own: a process may have only so many open files, and each proxy takes six.
//! It is spoken to by lines, and answers each by one.

use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use reeve_audit::{EventKind, EventRecord, Level, ShipOptions, Wal, WalOptions, ship, ship::only};
use reeve_ca::MeshAddress;
use reeve_core::{Clock, InstanceName, ServiceAccount, SpiffeId, clock::SystemClock};
use reeve_sidecar::{MeshConnector, SvidSigner};
use reeve_svid::{Credentials, CredentialsWatch};
use tokio::sync::watch;

use crate::{Failure, mesh};

/// Proxies of one workload.
const REPLICAS: u32 = 250;
/// Most proxies of one process.
pub(crate) const MOST: u32 = 2_500;

/// Proxies in another process.
pub(crate) struct Group {
    child: Child,
    ask: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Group {
    /// Has `count` proxies made, of which the first is number `first`; the authority of the mesh in `place` must be free.
    pub(crate) fn start(place: &Path, first: u32, count: u32) -> Result<Self, Failure> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("proxies")
            .arg(place)
            .args([first.to_string(), count.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let ask = child.stdin.take().ok_or("no input")?;
        let answers = BufReader::new(child.stdout.take().ok_or("no output")?);
        let mut group = Self {
            child,
            ask,
            answers,
        };
        group.answer()?;
        Ok(group)
    }

    /// Has them connect to the log that shows itself as `expected`.
    pub(crate) fn ship(&mut self, address: &str, expected: &SpiffeId) -> Result<(), Failure> {
        Ok(writeln!(self.ask, "ship {address} {expected}")?)
    }

    /// Has each append so many records.
    pub(crate) fn append(&mut self, each: u32) -> Result<(), Failure> {
        Ok(writeln!(self.ask, "append {each}")?)
    }

    /// Waits until what was asked for is done; appended records count once they are acknowledged.
    pub(crate) fn answer(&mut self) -> Result<(), Failure> {
        let mut line = String::new();
        match self.answers.read_line(&mut line)? {
            0 => Err(format!("proxies ended: {}", self.child.wait()?).into()),
            _ => Ok(()),
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// What a proxy is called.
fn name(number: u32) -> Result<InstanceName, Failure> {
    Ok(format!("w{}-{}", number / REPLICAS, number % REPLICAS).parse()?)
}

/// Who a proxy of that name is.
pub(crate) fn identity_of(proxy: &InstanceName) -> Result<SpiffeId, Failure> {
    let (workload, _) = proxy.as_str().rsplit_once('-').ok_or("no proxy's name")?;
    let account = ServiceAccount::parse(workload)?;
    Ok(mesh::domain()?.workload(&"default".parse()?, &account))
}

type Proxy = (Arc<Wal>, CredentialsWatch);

/// What a [`Group`]'s process does.
pub(crate) fn run(place: &Path, first: u32, count: u32) -> Result<(), Failure> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let proxies = make(place, first..first + count, &clock)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let _inside = runtime.enter();
    say("made")?;
    for line in std::io::stdin().lock().lines() {
        match line?.split(' ').collect::<Vec<_>>().as_slice() {
            ["ship", address, expected] => {
                let address: MeshAddress = address.parse()?;
                let expected: SpiffeId = expected.parse()?;
                for proxy in &proxies {
                    ship_to(&address, &expected, proxy, &clock);
                }
                say("shipping")?;
            }
            ["append", each] => {
                append(&proxies, each.parse()?)?;
                while proxies.iter().any(|(wal, _)| wal.status().backlog > 0) {
                    std::thread::sleep(Duration::from_millis(50));
                }
                say("acknowledged")?;
            }
            other => return Err(format!("what is {other:?}?").into()),
        }
    }
    Ok(())
}

fn say(line: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}

/// Each with its write-ahead log and an SVID of the mesh's own authority, which the mesh then opens.
fn make(
    place: &Path,
    numbers: std::ops::Range<u32>,
    clock: &Arc<dyn Clock>,
) -> Result<Vec<Proxy>, Failure> {
    let ca = mesh::authority(place, clock)?;
    let each = numbers.map(|number| {
        let name = name(number)?;
        let id = identity_of(&name)?;
        let wal = WalOptions {
            level: Level::Os,
            max_bytes: 1 << 26,
            segment_bytes: 1 << 16,
            first_epoch: 1,
        };
        let dir = place.join("wal").join(name.as_str());
        let wal = Wal::open(&dir, name, wal, Arc::clone(clock))?;
        let credentials = Credentials {
            svid: Arc::new(ca.issue_self(&id)?),
            bundle: ca.bundle().borrow().clone(),
        };
        let (_, credentials) = watch::channel(Some(Arc::new(credentials)));
        Ok((Arc::new(wal), credentials))
    });
    each.collect()
}

fn ship_to(
    address: &MeshAddress,
    expected: &SpiffeId,
    (wal, credentials): &Proxy,
    clock: &Arc<dyn Clock>,
) {
    let connector = MeshConnector::new(
        address.clone(),
        expected.clone(),
        credentials.clone(),
        Arc::clone(clock),
    );
    let channels: ship::ChannelFactory = Arc::new(move || {
        let connector = connector.clone();
        Box::pin(async move { Ok(connector.connected().await?) })
    });
    let signer = Arc::new(SvidSigner::new(credentials.clone()));
    tokio::spawn(ship(
        wal.clone(),
        only(channels),
        signer,
        ShipOptions::default(),
    ));
}

/// Records of a decision's length.
fn append(proxies: &[Proxy], each: u32) -> Result<(), Failure> {
    for _ in 0..each {
        for (wal, _) in proxies {
            let text = "a text about as long as what a decision holds: ".repeat(16);
            wal.append(EventRecord::new(EventKind::Started).with("text", text))?;
        }
    }
    Ok(())
}
