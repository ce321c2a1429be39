use std::{ffi::OsStr, path::PathBuf};

use proptest::{prelude::*, strategy::ValueTree, test_runner::TestRunner};
use reeve_audit::{
    query::Filter,
    verify::{VerifyOptions, verify},
};
use reeve_core::decision::{Effect, Reason};

use super::*;
use crate::{
    Columns,
    fixture::{START, Trail},
};

/// Small segments, due at once.
const SMALL: KeepOptions = KeepOptions {
    due_records: 50,
    due_after: Duration::from_secs(60),
    max_records: 100,
    retention: None,
};

fn keeper(trail: &Trail, wal: &Arc<Wal>) -> Keeper {
    let (log, clock) = (trail.log.clone(), trail.clock.clone());
    Keeper::open(&trail.audit(), log, wal.clone(), clock, SMALL).unwrap()
}

/// Makes every segment that is due.
async fn keep(mut keeper: Keeper) -> Vec<Segment> {
    let making = tokio::task::spawn_blocking(move || {
        let mut made = Vec::new();
        while let Some(segment) = keeper.step().unwrap() {
            made.push(segment);
        }
        made
    });
    making.await.unwrap()
}

fn findings(trail: &Trail) -> Vec<String> {
    let report = verify(&trail.audit(), &VerifyOptions::default()).unwrap();
    let findings = report.findings.into_iter();
    findings
        .map(|f| format!("{}: {}", f.place, f.what))
        .collect()
}

fn segments_of(trail: &Trail) -> Vec<PathBuf> {
    let listed = segment::list(&trail.audit(), 0).unwrap();
    listed.iter().map(|s| s.path(&trail.audit())).collect()
}

fn any_filter() -> impl Strategy<Value = Filter> {
    let text = |n: u64| format!("spiffe://mesh.local/ns/default/sa/caller-{n}");
    let time = || prop::option::of((0..200u64).prop_map(|n| START.plus(Duration::from_millis(n))));
    let kind = prop::sample::select(vec!["decision", "outcome", "event", "aggregate"]);
    let service = prop::sample::select(vec!["reviews", "ratings", "details", "unknown"]);
    let effect = prop::sample::select(vec![Effect::Allow, Effect::Deny]);
    let reason = prop::sample::select(vec![Reason::NoPermit, Reason::Forbidden, Reason::NoRoute]);
    let whom = (
        prop::option::of((0..4u64).prop_map(move |n| text(n).parse().unwrap())),
        prop::option::of(service),
        prop::option::of((0..90u64).prop_map(|n| format!("{n:032x}"))),
        prop::option::of((0..5u64).prop_map(|n| format!("/{n}"))),
    );
    let what = (
        prop::option::of(effect),
        prop::option::of(reason),
        prop::option::of(kind),
    );
    (time(), time(), whom, what, 0..30usize).prop_map(|(since, until, whom, what, limit)| Filter {
        since,
        until,
        principal: whom.0,
        service: whom
            .1
            .map(|s| format!("{s}.default.svc.cluster.local").parse().unwrap()),
        trace: whom.2.filter(|_| limit % 5 == 0),
        path: whom.3,
        effect: what.0,
        reason: what.1,
        kind: what.2.map(str::to_owned),
        limit,
        ..Filter::default()
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_answer_as_batches_do() {
    let mut trail = Trail::new();
    let control = trail.proxy("reeve.mesh");
    trail.fill(5).await;
    let made = keep(keeper(&trail, &control)).await;
    assert!(made.len() > 2, "{made:?}");
    // Some that no segment has.
    control
        .append(EventRecord::new(EventKind::Stopped))
        .unwrap();
    trail.shipped().await;
    let batches = Reader::open(&trail.audit()).unwrap();
    let columns = Columns::open(&trail.audit()).unwrap();
    assert_eq!(columns.segments(), made);
    let columns = batches.clone().with_archive(Arc::new(columns));

    let everything = batches.query(&Filter::default()).unwrap();
    assert_eq!(columns.query(&Filter::default()).unwrap(), everything);
    let mut runner = TestRunner::deterministic();
    let mut answers = 0;
    for _ in 0..300 {
        let filter = any_filter().new_tree(&mut runner).unwrap().current();
        let expected = batches.query(&filter).unwrap();
        answers += expected.len();
        assert_eq!(columns.query(&filter).unwrap(), expected, "{filter:?}");
    }
    assert!(answers > 300, "filters that match nothing show nothing");
    for found in everything.iter().step_by(17) {
        let id = &found.record.id;
        assert_eq!(columns.show(id).unwrap().as_ref(), Some(found));
        assert_eq!(columns.explain(id).unwrap(), batches.explain(id).unwrap());
    }
    assert_eq!(columns.show(&"a-0/9/0/1".parse().unwrap()).unwrap(), None);
    assert_eq!(findings(&trail), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_crash_leaves_is_taken_up_where_it_stood() {
    let mut trail = Trail::new();
    let control = trail.proxy("reeve.mesh");
    trail.fill(4).await;
    let made = keep(keeper(&trail, &control)).await;
    trail.shipped().await;
    let paths = segments_of(&trail);
    let whole: Vec<_> = paths.iter().map(|p| fs::read(p).unwrap()).collect();
    // Killed before the last got its name; and in the middle of writing; and one that belongs nowhere.
    let last = paths.last().unwrap();
    let unnamed = last.with_added_extension(UNNAMED);
    fs::rename(last, &unnamed).unwrap();
    assert_eq!(findings(&trail), [""; 0], "it is recorded, and it is there");
    fs::write(&unnamed, b"another").unwrap();
    let found = findings(&trail);
    assert!(found.iter().any(|f| f.contains("is missing")), "{found:?}");
    fs::write(&unnamed, whole.last().unwrap()).unwrap();
    let folder = trail.audit().join(FOLDER);
    fs::write(folder.join("segment.tmp"), b"torn").unwrap();
    fs::write(
        last.with_file_name(
            "0000000000000999-0000000000001000.1700000000000-1700000000001.parquet.new",
        ),
        b"x",
    )
    .unwrap();

    let again = keep(keeper(&trail, &control)).await;
    assert_eq!(again.first(), made.last());
    trail.shipped().await;
    let now: Vec<_> = segments_of(&trail)
        .iter()
        .map(|p| fs::read(p).unwrap())
        .collect();
    assert_eq!(now.get(..whole.len()), Some(whole.as_slice()));
    let left = fs::read_dir(&folder).unwrap().map(|e| e.unwrap().path());
    let left: Vec<_> = left
        .filter(|p| p.extension() != Some(OsStr::new("parquet")))
        .collect();
    assert_eq!(left, [""; 0].map(PathBuf::from), "nothing unfinished stays");
    assert_eq!(findings(&trail), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quiet_log_makes_no_segment_for_the_record_of_the_last_one() {
    let mut trail = Trail::new();
    let control = trail.proxy("reeve.mesh");
    for _ in 0..3 {
        control
            .append(EventRecord::new(EventKind::Started))
            .unwrap();
    }
    trail.shipped().await;
    assert_eq!(keep(keeper(&trail, &control)).await, [], "few and young");
    trail.clock.advance(SMALL.due_after);
    assert_eq!(keep(keeper(&trail, &control)).await.len(), 1, "few and old");
    trail.shipped().await;
    trail.clock.advance(SMALL.due_after * 2);
    assert_eq!(
        keep(keeper(&trail, &control)).await,
        [],
        "only the record of the last segment"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edited_dropped_renamed_or_forged_segment_is_found_and_named() {
    let mut trail = Trail::new();
    let control = trail.proxy("reeve.mesh");
    trail.fill(4).await;
    keep(keeper(&trail, &control)).await;
    trail.shipped().await;
    assert_eq!(findings(&trail), [""; 0]);
    let path = segments_of(&trail).remove(1);
    let name = format!("parquet/{}", path.file_name().unwrap().to_string_lossy());
    let whole = fs::read(&path).unwrap();

    let mut edited = whole.clone();
    let middle = edited.len() / 2;
    edited[middle] ^= 1;
    fs::write(&path, edited).unwrap();
    assert!(findings(&trail)[0].starts_with(&format!("{name}: is not what record reeve.mesh/")));

    fs::remove_file(&path).unwrap();
    assert!(findings(&trail)[0].starts_with(&format!("{name}: is missing; record reeve.mesh/")));

    let forged = Segment {
        first: 900,
        last: 901,
        earliest: 1,
        latest: 2,
    };
    fs::write(forged.path(&trail.audit()), &whole).unwrap();
    let forged_name = format!("parquet/{}", forged.name());
    let found = findings(&trail);
    assert!(
        found.contains(&format!("{forged_name}: no record in the log speaks of it")),
        "{found:?}"
    );
    assert_eq!(found.len(), 2, "{found:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn retention_deletes_whole_tiles_is_recorded_and_verifies() {
    let mut trail = Trail::new();
    let control = trail.proxy("reeve.mesh");
    let blob = trail.log.put_blob(b"the policies").unwrap();
    control
        .append(
            EventRecord::new(EventKind::ConfigApplied)
                .with("policy_hash", "ab12")
                .with("policy_set", blob),
        )
        .unwrap();
    trail.shipped().await;
    // A batch each, more than a tile of them.
    let proxy = trail.proxy("a-0");
    let mut first = None;
    for n in 0..260 {
        let id = proxy.append(crate::fixture::decision(n)).unwrap();
        first.get_or_insert(id);
        trail.shipped().await;
    }
    let old = trail.audit().join("tile");
    assert!(old.exists());
    trail.clock.advance(Duration::from_secs(3600));
    let young = proxy.append(crate::fixture::decision(7)).unwrap();
    trail.shipped().await;
    keep(keeper(&trail, &control)).await;
    trail.shipped().await;
    let whole = findings(&trail);
    assert_eq!(whole, [""; 0]);
    let reader = Reader::open(&trail.audit()).unwrap();
    let batches_before = reader.batches(0, reader.tree_size().unwrap()).unwrap();

    let mut keeper = keeper(&trail, &control);
    keeper.options.retention = Some(Duration::from_secs(1800));
    let expired = tokio::task::spawn_blocking(move || {
        let first = keeper.expire().unwrap();
        (first, keeper.expire().unwrap())
    });
    assert_eq!(expired.await.unwrap(), (Some(256), None));
    trail.shipped().await;

    let gone = batches_before.iter().filter(|b| !b.object.exists()).count();
    assert_eq!(gone, 256);
    let report = verify(&trail.audit(), &VerifyOptions::default()).unwrap();
    assert!(report.ok, "{:?}", report.findings);
    assert_eq!(report.expired, 256);
    assert!(
        report
            .notes
            .iter()
            .any(|note| note.contains("deleted by retention")),
        "{:?}",
        report.notes
    );
    let columns = Arc::new(Columns::open(&trail.audit()).unwrap());
    for reader in [
        Reader::open(&trail.audit()).unwrap(),
        Reader::open(&trail.audit()).unwrap().with_archive(columns),
    ] {
        assert_eq!(reader.show(&first.clone().unwrap()).unwrap(), None);
        let explained = reader.explain(&young).unwrap().unwrap();
        assert_eq!(
            explained.policies.as_deref(),
            Some("the policies"),
            "still told by the record of the expiry"
        );
        assert!(reader.scan(None).unwrap().records() > 1);
    }

    // One more batch goes, quietly.
    let quiet = batches_before.get(256).unwrap();
    fs::remove_file(&quiet.object).unwrap();
    let found = findings(&trail);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains(&hex::encode(quiet.hash)), "{found:?}");
}
