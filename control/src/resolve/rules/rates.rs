//! Ejection by success rate and by failure percentage, which `outlierDetection` has no fields for: annotations of the rule,
//! with the names and defaults of Envoy's fields.

use reeve_core::model::{FailurePercentage, OutlierDetection, SuccessRate};

use crate::{
    Code, kinds::DestinationRuleSpec, mesh::DestinationRule, resolve::values::Notes,
    source::path::Path,
};

const SUCCESS_RATE: &str = "reeve.dev/outlier-success-rate";
const FAILURE_PERCENTAGE: &str = "reeve.dev/outlier-failure-percentage";
/// The largest number that either takes.
const MAX_NUMBER: u32 = 1_000_000;

type RuleNotes<'a> = Notes<'a, DestinationRuleSpec>;

/// Has every `outlierDetection` of the rule look at what its annotations say.
pub(super) fn apply(notes: &mut RuleNotes<'_>, rule: &mut DestinationRule) {
    let success_rate = success_rate(notes);
    let failure_percentage = failure_percentage(notes);
    if success_rate.is_none() && failure_percentage.is_none() {
        return;
    }
    let mut any = false;
    for outlier in outliers(rule) {
        any = true;
        outlier.success_rate = success_rate;
        outlier.failure_percentage = failure_percentage;
    }
    if !any {
        let path = Path::of(&["metadata", "annotations"]);
        let text = "ejection by rates has an effect only with outlierDetection";
        let hint = "add trafficPolicy.outlierDetection, {} for Istio's defaults";
        notes.warn(&path, Code::Conflict, text, hint);
    }
}

fn outliers(rule: &mut DestinationRule) -> impl Iterator<Item = &mut OutlierDetection> {
    let subsets = rule.subsets.iter_mut();
    let subsets = subsets.flat_map(|s| {
        [&mut s.traffic]
            .into_iter()
            .chain(s.port_traffic.values_mut())
    });
    let own = [&mut rule.traffic]
        .into_iter()
        .chain(rule.port_traffic.values_mut());
    own.chain(subsets)
        .filter_map(|traffic| traffic.outlier.as_mut())
}

fn success_rate(notes: &mut RuleNotes<'_>) -> Option<SuccessRate> {
    let mut rule = SuccessRate::default();
    let fields: &mut [Field<'_>] = &mut [
        ("minimumHosts", &mut rule.minimum_hosts),
        ("requestVolume", &mut rule.request_volume),
        ("stdevFactor", &mut rule.stdev_factor_permille),
    ];
    read(notes, SUCCESS_RATE, fields).then_some(rule)
}

fn failure_percentage(notes: &mut RuleNotes<'_>) -> Option<FailurePercentage> {
    let mut rule = FailurePercentage::default();
    let mut threshold = u32::from(rule.threshold);
    let fields: &mut [Field<'_>] = &mut [
        ("threshold", &mut threshold),
        ("minimumHosts", &mut rule.minimum_hosts),
        ("requestVolume", &mut rule.request_volume),
    ];
    if !read(notes, FAILURE_PERCENTAGE, fields) {
        return None;
    }
    match u8::try_from(threshold)
        .ok()
        .filter(|percent| (1..=100).contains(percent))
    {
        Some(percent) => rule.threshold = percent,
        None => {
            let path = Path::of(&["metadata", "annotations"]).key(FAILURE_PERCENTAGE);
            notes.error(&path, Code::Invalid, "threshold is 1 to 100");
        }
    }
    Some(rule)
}

type Field<'f> = (&'static str, &'f mut u32);

/// Reads `on` or `name=number, …`; whether the annotation is there.
fn read(notes: &mut RuleNotes<'_>, name: &str, fields: &mut [Field<'_>]) -> bool {
    let Some(text) = notes.object.annotations.get(name) else {
        return false;
    };
    let path = Path::of(&["metadata", "annotations"]).key(name);
    if text.trim() == "on" {
        return true;
    }
    for part in text.split(',') {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        let (key, value) = (key.trim(), value.trim());
        let number = value
            .parse()
            .ok()
            .filter(|number| (1..=MAX_NUMBER).contains(number));
        let field = fields.iter_mut().find(|(name, _)| *name == key);
        match (field, number) {
            (Some((_, field)), Some(number)) => **field = number,
            (Some(_), None) => {
                let text = format!("{key} is a number from 1 to {MAX_NUMBER}, not {value:?}");
                notes.error(&path, Code::Invalid, text);
            }
            (None, _) => {
                let names: Vec<&str> = fields.iter().map(|(name, _)| *name).collect();
                let hint = format!(
                    "write on, or some of {} as NAME=NUMBER, with commas",
                    names.join(", ")
                );
                let text = format!("{key:?} is none of its settings");
                notes.hint(&path, Code::Invalid, text, &hint);
            }
        }
    }
    true
}
