use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use reeve_audit::{
    AuditLog, BatchKey, BatchSigner, EventKind, EventRecord, LogOptions, ShipOptions,
    SigningIdentity, Wal, WalOptions, batch::BoxError, seal::SealKey, ship_local,
};
use reeve_columns::{KeepOptions, Keeper};
use reeve_core::{Clock, SystemClock};
use tempfile::TempDir;

use crate::{Form, Limits, MAX_QUERY_BYTES, SqlError, run};

#[derive(Debug)]
struct Signer(Arc<Key>);

struct Key(Ed25519KeyPair);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key")
    }
}

impl BatchKey for Key {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, BoxError> {
        Ok(self.0.sign(message).as_ref().to_vec())
    }
}

impl BatchSigner for Signer {
    fn identity(&self) -> Option<SigningIdentity> {
        Some(SigningIdentity {
            chain_der: vec![self.0.0.public_key().as_ref().to_vec()],
            key: self.0.clone(),
        })
    }
}

/// A log with 30 records in a segment (and the record of that), and 7 in batches only.
fn trail() -> TempDir {
    let dir = TempDir::new().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let key = SealKey::from_hex(&"5a".repeat(32)).unwrap();
    let options = LogOptions::new("mesh.local/audit", key);
    let log = AuditLog::open(dir.path(), options).unwrap();
    let wal = |name: &str| {
        let (at, options) = (dir.path().join("wal").join(name), WalOptions::default());
        Arc::new(Wal::open(&at, name.parse().unwrap(), options, Arc::clone(&clock)).unwrap())
    };
    let (proxy, own) = (wal("a"), wal("control"));
    let signer = Arc::new(Signer(Arc::new(Key(Ed25519KeyPair::generate().unwrap()))));
    for wal in [&proxy, &own] {
        let ship = ship_local(
            wal.clone(),
            log.clone(),
            signer.clone(),
            ShipOptions::default(),
        );
        runtime.spawn(ship);
    }
    let record = |count: u64| {
        for n in 0..count {
            let event = EventRecord::new(EventKind::ConfigApplied).with("n", n.to_string());
            proxy.append(event).unwrap();
        }
        while proxy.status().backlog > 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    record(30);
    let due = KeepOptions {
        due_records: 10,
        ..KeepOptions::default()
    };
    let mut keeper = Keeper::open(dir.path(), log.clone(), own.clone(), clock, due).unwrap();
    assert!(keeper.step().unwrap().is_some());
    record(7);
    while own.status().backlog > 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    runtime.shutdown_background();
    dir
}

/// Appends `count` records to the write-ahead log of proxy `a` in `dir`.
fn fill(dir: &Path, count: u64) {
    let wal = open(dir);
    for n in 0..count {
        let event = EventRecord::new(EventKind::ConfigApplied).with("n", n.to_string());
        wal.append(event).unwrap();
    }
}

fn open(dir: &Path) -> Arc<Wal> {
    let (options, clock) = (WalOptions::default(), Arc::new(SystemClock));
    Arc::new(Wal::open(dir, "a".parse().unwrap(), options, clock).unwrap())
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        match source.is_dir() {
            true => copy(&source, &target),
            false => drop(fs::copy(&source, &target).unwrap()),
        }
    }
}

/// Ships all that the write-ahead log has into a log of that name.
fn log_all(wal: &Path, dir: &Path, name: &str) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let key = SealKey::from_hex(&"5a".repeat(32)).unwrap();
    let log = AuditLog::open(dir, LogOptions::new(name, key)).unwrap();
    let wal = open(wal);
    let signer = Arc::new(Signer(Arc::new(Key(Ed25519KeyPair::generate().unwrap()))));
    runtime.spawn(ship_local(wal.clone(), log, signer, ShipOptions::default()));
    while wal.status().backlog > 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    runtime.shutdown_background();
}

fn ask(dir: &Path, text: &str, form: Form) -> Result<String, SqlError> {
    let mut out = Vec::new();
    run(&[dir.to_owned()], text, form, &Limits::default(), &mut out)?;
    Ok(String::from_utf8(out).unwrap())
}

#[test]
fn segments_and_the_newest_records_are_one_table() {
    let dir = trail();
    let rows = ask(
        dir.path(),
        "select proxy, count(*) as n, max(sequence) as last from records group by proxy order by proxy",
        Form::Json,
    );
    assert_eq!(
        rows.unwrap(),
        "{\"proxy\":\"a\",\"n\":37,\"last\":37}\n{\"proxy\":\"control\",\"n\":1,\"last\":1}\n"
    );
    let csv = ask(
        dir.path(),
        "select sequence, event, policies from records where proxy = 'a' and sequence in (1, 37) order by 1",
        Form::Csv,
    );
    assert_eq!(
        csv.unwrap(),
        "sequence,event,policies\n1,config_applied,\n37,config_applied,\n"
    );
    let table = ask(dir.path(), "select count(*) as n from records", Form::Table);
    assert!(table.unwrap().contains("| 38 |"));
    let none = ask(
        dir.path(),
        "select proxy from records where proxy = 'b'",
        Form::Json,
    );
    assert_eq!(none.unwrap(), "");
    let about = ask(dir.path(), "describe records", Form::Json);
    assert!(about.unwrap().contains("\"column_name\":\"principal\""));
}

#[test]
fn what_two_logs_have_counts_once() {
    let dir = TempDir::new().unwrap();
    let [mesh, replica] = ["audit", "replica"].map(|name| dir.path().join(name));
    let wal = |name: &str| dir.path().join(name).join("a");
    fill(&wal("first"), 20);
    // Nobody acknowledged these, so the proxy sends them again, elsewhere, and goes on there.
    copy(&wal("first"), &wal("again"));
    log_all(&wal("first"), &mesh, "mesh.local/audit");
    fill(&wal("again"), 5);
    log_all(&wal("again"), &replica, "mesh.local/audit/audit-0");
    let count = |logs: &[PathBuf]| {
        let mut out = Vec::new();
        let text = "select count(*) as n from records";
        run(logs, text, Form::Json, &Limits::default(), &mut out).unwrap();
        String::from_utf8(out).unwrap()
    };
    let both = [mesh.clone(), replica.clone()];
    assert_eq!(count(&[mesh]), "{\"n\":20}\n");
    assert_eq!(count(&[replica]), "{\"n\":25}\n");
    assert_eq!(count(&both), "{\"n\":25}\n");
}

/// A reader that has hung up.
struct HungUp;

impl io::Write for HungUp {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_reader_that_hangs_up_has_enough() {
    let dir = trail();
    let logs = [dir.path().to_owned()];
    for form in [Form::Table, Form::Json, Form::Csv] {
        let text = "select sequence from records";
        let rows = run(&logs, text, form, &Limits::default(), &mut HungUp);
        assert!((1..=38).contains(&rows.unwrap()), "{form:?}");
    }
}

#[test]
fn what_is_no_query_and_other_files_are_refused() {
    let dir = trail();
    let other = dir.path().join("other.csv");
    fs::write(&other, "a\n1\n").unwrap();
    let before = fs::read_dir(dir.path()).unwrap().count();
    let out = dir.path().join("out.parquet");
    let (other, out) = (other.display(), out.display());
    for (text, what) in [
        (format!("copy records to '{out}'"), "DML not supported"),
        (
            "create table t as select * from records".to_owned(),
            "DDL not supported",
        ),
        (
            format!("create external table t stored as csv location '{other}'"),
            "DDL not supported",
        ),
        ("create view v as select 1".to_owned(), "DDL not supported"),
        (
            "insert into records select * from records".to_owned(),
            "DML not supported",
        ),
        ("drop table records".to_owned(), "DDL not supported"),
        (
            "set datafusion.execution.batch_size = 1".to_owned(),
            "Statement not supported",
        ),
        (
            format!("explain analyze copy records to '{out}'"),
            "DML not supported",
        ),
        (format!("select * from '{other}'"), "not found"),
        (
            "select * from read_csv('/etc/passwd')".to_owned(),
            "not found",
        ),
        (
            "select nothing from records".to_owned(),
            "No field named nothing",
        ),
        ("select 1; select 2".to_owned(), "a single SQL statement"),
    ] {
        let error = ask(dir.path(), &text, Form::Json).unwrap_err();
        let error = reeve_core::error_chain(&error);
        assert!(error.contains(what), "{text}: {error}");
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), before);
}

#[test]
fn a_query_that_takes_too_much_ends() {
    let dir = trail();
    let endless = "select sum(a.value) from range(1, 100000000) a cross join range(1, 100000000) b";
    let hungry = "select array_agg(a.value order by a.value desc) from range(1, 100000000) a";
    let short = Limits {
        time: Duration::from_millis(200),
        ..Limits::default()
    };
    let mut out = Vec::new();
    let logs = [dir.path().to_owned()];
    let late = run(&logs, endless, Form::Json, &short, &mut out);
    assert!(matches!(late, Err(SqlError::Time { .. })), "{late:?}");
    let small = Limits {
        memory_bytes: 1 << 20,
        time: Duration::from_secs(3600),
    };
    let full = run(&logs, hungry, Form::Json, &small, &mut out);
    assert!(matches!(full, Err(SqlError::Memory { .. })), "{full:?}");
    let many = ask(dir.path(), "select * from range(1, 20000)", Form::Table);
    assert!(matches!(many, Err(SqlError::Rows)), "{many:?}");
    let deep = format!("select {}1{}", "(".repeat(20_000), ")".repeat(20_000));
    assert!(ask(dir.path(), &deep, Form::Json).is_err());
    let long = " ".repeat(MAX_QUERY_BYTES + 1);
    assert!(matches!(
        ask(dir.path(), &long, Form::Json),
        Err(SqlError::TooLong)
    ));
    assert!(out.is_empty());
}
