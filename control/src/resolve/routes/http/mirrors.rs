//! `mirror` and `mirrors`.

use super::{Known, VsNotes, destination};
use crate::{
    Code,
    kinds::{DestinationSpec, HttpRouteSpec},
    mesh::MirrorTo,
    source::path::Path,
};

/// Most destinations that get copies of one request.
const MAX_MIRRORS_PER_ROUTE: usize = 8;

/// `None` = nothing is said of mirrors.
pub(super) fn all(
    notes: &mut VsNotes<'_>,
    path: &Path,
    spec: &HttpRouteSpec,
    known: &Known<'_>,
) -> Option<Vec<MirrorTo>> {
    let share = spec.mirror_percentage.as_ref();
    if spec.mirror.is_none() && (share.is_some() || spec.mirror_percent.is_some()) {
        let text = "a percentage without mirror has no effect";
        let path = path.key("mirrorPercentage");
        notes.hint(
            &path,
            Code::Missing,
            text,
            "mirrors have percentages of their own",
        );
    }
    if spec.mirror.is_none() && spec.mirrors.is_empty() {
        return None;
    }
    if spec.mirror.is_some() && !spec.mirrors.is_empty() {
        let text = "give one of mirror and mirrors";
        notes.error(&path.key("mirrors"), Code::Conflict, text);
    }
    let mirrors_path = path.key("mirrors");
    if spec.mirrors.len() > MAX_MIRRORS_PER_ROUTE {
        let text = format!("more than {MAX_MIRRORS_PER_ROUTE} mirrors");
        notes.error(&mirrors_path, Code::TooLarge, text);
    }
    let mut all = Vec::new();
    if let Some(to) = &spec.mirror {
        let percent = match (share, spec.mirror_percent) {
            (Some(share), _) => share.value,
            (None, Some(percent)) => f64::from(percent),
            (None, None) => 100.0,
        };
        let percent = per_million(notes, &path.key("mirrorPercentage"), percent);
        all.extend(one(notes, &path.key("mirror"), to, percent, known));
    }
    for (n, mirror) in spec.mirrors.iter().enumerate() {
        let path = mirrors_path.index(n);
        let Some(to) = &mirror.destination else {
            let text = "the mirror has no destination";
            notes.error(&path.key("destination"), Code::Missing, text);
            continue;
        };
        let percent = mirror.percentage.as_ref().map_or(100.0, |p| p.value);
        let percent = per_million(notes, &path.key("percentage"), percent);
        all.extend(one(notes, &path.key("destination"), to, percent, known));
    }
    Some(all)
}

/// Zero percent is no mirror, as in Istio.
fn one(
    notes: &mut VsNotes<'_>,
    path: &Path,
    spec: &DestinationSpec,
    per_million: u32,
    known: &Known<'_>,
) -> Option<MirrorTo> {
    let to = destination(notes, path, spec, 1, known)?;
    (per_million > 0).then_some(MirrorTo { to, per_million })
}

fn per_million(notes: &mut VsNotes<'_>, path: &Path, percent: f64) -> u32 {
    if !(0.0..=100.0).contains(&percent) {
        let text = format!("{percent} is no percentage");
        notes.error(&path.key("value"), Code::Invalid, text);
        return 0;
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "0 to 1,000,000; Istio truncates as well"
    )]
    let share = (percent * 10_000.0) as u32;
    share
}
