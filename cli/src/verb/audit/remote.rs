//! A log that is in a bucket, for verbs that read folders: what they need of it is fetched into a folder of the user's.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use reeve_audit::{
    Reader,
    store::{Store, fetch},
};
use reeve_bucket::{Bucket, BucketUrl};
use reeve_columns::Columns;

use super::read::unreadable;
use crate::{output, problem::Problem};

/// Where batches lie.
const BATCHES: &str = "batches/";

/// How much of a log is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// All of it.
    All,
    /// What queries read: segments, and the batches that are in none.
    Searched,
}

/// The folder `dir`, or, if that is the address of a bucket, one to which the log was fetched. What is there already in the
/// bucket's version is not fetched again.
pub(super) fn here(dir: &Path, part: Part) -> Result<PathBuf, Problem> {
    let Some(url) = dir.to_str().filter(|text| BucketUrl::is_meant(text)) else {
        return Ok(dir.to_owned());
    };
    let url: BucketUrl = url
        .parse()
        .map_err(|e| Problem::because("the log cannot be read", &e))?;
    let failed = |error: &dyn std::error::Error| {
        Problem::because("the log cannot be fetched", error)
            .at(&url)
            .fix("give credentials in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or in the file that AWS_SHARED_CREDENTIALS_FILE names")
    };
    let bucket = Bucket::from_environment(url.clone()).map_err(|e| failed(&e))?;
    let into = cache(&url)?;
    let bring = |wanted: &dyn Fn(&str) -> bool| {
        let fetched = fetch(&bucket as &dyn Store, &into, wanted).map_err(|e| failed(&e))?;
        if fetched.objects > 0 {
            let (objects, bytes) = (fetched.objects, fetched.bytes);
            output::note(&format!(
                "fetched {objects} objects, {bytes} bytes, from {url}"
            ));
        }
        Ok(())
    };
    if part == Part::All {
        bring(&|_| true)?;
        return Ok(into);
    }
    // First what tells which batches are in no segment, then those; batches that are here stay.
    let kept = batches_after_segments(&into).unwrap_or_default();
    bring(&|name| !name.starts_with(BATCHES) || kept.contains(name))?;
    let newest = batches_after_segments(&into).map_err(|e| unreadable(&e))?;
    bring(&|name| !name.starts_with(BATCHES) || newest.contains(name))?;
    Ok(into)
}

fn batches_after_segments(dir: &Path) -> Result<BTreeSet<String>, reeve_audit::query::ReadError> {
    let reader = Reader::open(dir)?;
    let (from, size) = (Columns::open(dir)?.end_leaf(), reader.tree_size()?);
    let batches = reader.batches(from, size)?;
    let named = batches.iter().map(|batch| {
        let place = batch.object.strip_prefix(dir).unwrap_or(&batch.object);
        place.display().to_string()
    });
    Ok(named.collect())
}

/// A folder for what comes from a bucket: of this user, and of this bucket alone.
fn cache(url: &BucketUrl) -> Result<PathBuf, Problem> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    let base = set("XDG_CACHE_HOME").map(PathBuf::from);
    let base = base.or_else(|| Some(PathBuf::from(set("HOME")?).join(".cache")));
    let base = base.ok_or_else(|| {
        Problem::new("there is no place for what is fetched from a bucket")
            .fix("set XDG_CACHE_HOME or HOME to a folder of yours")
    })?;
    let name: String = url
        .to_string()
        .bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' => char::from(byte).to_string(),
            other => format!("_{other:02x}"),
        })
        .collect();
    Ok(base.join("reeve").join("audit").join(name))
}
