//! Localities: which endpoints are near, and who takes over when they fail. Priorities spill over as Envoy's do
//! (<https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/upstream/load_balancing/priority>); who has which
//! priority is Istio's rule (<https://istio.io/latest/docs/tasks/traffic-management/locality-load-balancing/>).

use std::collections::BTreeMap;

use rand::Rng;
use reeve_core::model::{Locality, LocalityPolicy};

/// A locality takes its whole share while this many percent of its endpoints, times a hundred, are in (Envoy's
/// overprovisioning factor).
const OVERPROVISIONING_PERCENT: u64 = 140;

/// How the endpoints of a cluster are divided up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Spread {
    /// Not at all.
    Flat,
    /// By priority, 0 first: the endpoints of each.
    Priorities(Vec<Vec<usize>>),
    /// By share: weight, and the endpoints that share it.
    Shares(Vec<(u64, Vec<usize>)>),
}

/// The caller's side of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place<'a> {
    pub(crate) locality: Locality,
    pub(crate) labels: &'a BTreeMap<String, String>,
}

/// An endpoint's side of it.
#[derive(Clone, Debug)]
pub(crate) struct Site<'a> {
    pub(crate) locality: Locality,
    pub(crate) labels: &'a BTreeMap<String, String>,
}

impl Spread {
    /// Divides `sites` up as `own` sees them. `fails_over`: only where endpoints are ejected can a locality ever fail.
    pub(crate) fn new(
        policy: Option<&LocalityPolicy>,
        own: &Place<'_>,
        sites: &[Site<'_>],
        fails_over: bool,
    ) -> Self {
        let Some(policy) = policy else {
            return Self::Flat;
        };
        if !policy.distribute.is_empty() {
            let mut rules = policy.distribute.iter();
            let rule = rules.find(|rule| own.locality.falls_under(&rule.from));
            return rule.map_or(Self::Flat, |rule| shares(&rule.to, sites));
        }
        if !fails_over {
            return Self::Flat;
        }
        let rank = |site: &Site<'_>| {
            let by_label = label_rank(&policy.failover_priority, own, site);
            let by_place = match (
                policy.failover_priority.is_empty(),
                policy.failover.is_empty(),
            ) {
                (false, true) => 0,
                _ => place_rank(&policy.failover, own, site),
            };
            (by_label, by_place)
        };
        let mut ranks: BTreeMap<_, Vec<usize>> = BTreeMap::new();
        for (at, site) in sites.iter().enumerate() {
            ranks.entry(rank(site)).or_default().push(at);
        }
        if ranks.len() < 2 {
            return Self::Flat;
        }
        Self::Priorities(ranks.into_values().collect())
    }

    /// The endpoints to choose from now; `is_in` says which of all are in, `is_open` which groups may be used. `None` =
    /// all of them.
    pub(crate) fn group(
        &self,
        is_in: impl Fn(usize) -> bool,
        is_open: impl Fn(&[usize]) -> bool,
        rng: &mut impl Rng,
    ) -> Option<&[usize]> {
        match self {
            Self::Flat => None,
            Self::Priorities(groups) => {
                let mut groups: Vec<&Vec<usize>> = groups.iter().collect();
                if groups.iter().any(|group| is_open(group)) {
                    groups.retain(|group| is_open(group));
                }
                let loads = spill(groups.iter().map(|group| health(group, &is_in)));
                let at = draw(&loads, rng)?;
                groups.get(at).map(|group| group.as_slice())
            }
            Self::Shares(shares) => {
                let weights = shares.iter();
                let weights: Vec<u64> = weights
                    .map(|(weight, group)| weight * health(group, &is_in))
                    .collect();
                let at = draw(&weights, rng)?;
                shares.get(at).map(|(_, group)| group.as_slice())
            }
        }
    }
}

/// How much of its share a group can take, in percent.
fn health(group: &[usize], is_in: &impl Fn(usize) -> bool) -> u64 {
    let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
    let all = count(group.len());
    let able = count(group.iter().filter(|at| is_in(**at)).count());
    (able * OVERPROVISIONING_PERCENT)
        .checked_div(all)
        .map_or(0, |percent| percent.min(100))
}

/// What each priority gets: as much as it can take, of what those before it could not.
fn spill(health: impl Iterator<Item = u64>) -> Vec<u64> {
    let mut left = 100;
    let mut loads: Vec<u64> = Vec::new();
    for able in health {
        let takes = able.min(left);
        left -= takes;
        loads.push(takes);
    }
    // What nobody can take is shared in proportion: the weights need not sum up to 100.
    loads
}

/// Draws a place by weight; with no weight at all, the first.
fn draw(weights: &[u64], rng: &mut impl Rng) -> Option<usize> {
    let sum: u64 = weights.iter().sum();
    if sum == 0 {
        return (!weights.is_empty()).then_some(0);
    }
    let mut ticket = rng.random_range(0..sum);
    weights.iter().position(|weight| {
        let mine = ticket < *weight;
        ticket = ticket.saturating_sub(*weight);
        mine
    })
}

/// Each rule's weight is divided among the localities under it, by their endpoints. Endpoints under no rule get nothing.
fn shares(to: &BTreeMap<String, u32>, sites: &[Site<'_>]) -> Spread {
    let mut rules: Vec<(&String, &u32)> = to.iter().collect();
    // The narrowest first.
    rules.sort_by_key(|(rule, _)| {
        let named = rule.split('/').filter(|part| *part != "*").count();
        std::cmp::Reverse(named)
    });
    let mut left: Vec<usize> = (0..sites.len()).collect();
    let mut shares = Vec::new();
    for (rule, weight) in rules {
        let under = |at: &usize| {
            let site = sites.get(*at);
            site.is_some_and(|site| site.locality.falls_under(rule))
        };
        let (mine, others): (Vec<_>, Vec<_>) = left.into_iter().partition(under);
        left = others;
        if !mine.is_empty() {
            shares.push((u64::from(*weight), mine));
        }
    }
    Spread::Shares(shares)
}

/// 0 where all labels agree; else the later the first that does not, the better.
fn label_rank(priority: &[String], own: &Place<'_>, site: &Site<'_>) -> usize {
    let differs = |entry: &String| {
        let (name, own_value) = match entry.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (
                entry.as_str(),
                own.labels.get(entry.as_str()).map(String::as_str),
            ),
        };
        own_value.unwrap_or_default() != site.labels.get(name).map_or("", String::as_str)
    };
    priority
        .iter()
        .position(differs)
        .map_or(0, |at| priority.len() - at)
}

/// By distance; of other regions, the one that stands in comes before the others.
fn place_rank(failover: &[(String, String)], own: &Place<'_>, site: &Site<'_>) -> u32 {
    let distance = own.locality.distance(&site.locality);
    let stand_in = failover
        .iter()
        .find(|(from, _)| *from == own.locality.region);
    match stand_in {
        Some((_, to)) if distance == 3 && site.locality.region != *to => 4,
        _ => distance,
    }
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng as _, rngs::StdRng};
    use reeve_core::model::Distribute;

    use super::*;

    fn labels(text: &str) -> BTreeMap<String, String> {
        let pairs = text.split(' ').filter_map(|pair| pair.split_once('='));
        pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
    }

    /// `at` = the caller's locality, `sites` = the endpoints'.
    fn spread(policy: &LocalityPolicy, at: &str, sites: &[&str]) -> Spread {
        let own_labels = labels(at);
        let own = Place {
            locality: Locality::of_labels(&own_labels),
            labels: &own_labels,
        };
        let all: Vec<_> = sites.iter().map(|site| labels(site)).collect();
        let sites: Vec<Site<'_>> = all
            .iter()
            .map(|labels| Site {
                locality: Locality::of_labels(labels),
                labels,
            })
            .collect();
        Spread::new(Some(policy), &own, &sites, true)
    }

    const HERE: &str = "istio-locality=eu.west.r1";
    const SITES: [&str; 5] = [
        "istio-locality=us.east.r9",
        "istio-locality=eu.west.r1",
        "istio-locality=asia.a.a",
        "istio-locality=eu.west.r2",
        "istio-locality=eu.north.r1",
    ];

    fn shares_of(spread: &Spread, out: &[usize]) -> Vec<usize> {
        let mut rng = StdRng::seed_from_u64(5);
        let mut counts = vec![0; SITES.len()];
        for _ in 0..10_000 {
            let group = spread.group(|at| !out.contains(&at), |_| true, &mut rng);
            for at in group.unwrap() {
                counts[*at] += 1;
            }
        }
        counts
    }

    #[test]
    fn the_nearest_comes_first_and_a_named_region_stands_in() {
        let policy = LocalityPolicy {
            failover: vec![("eu".to_owned(), "asia".to_owned())],
            ..LocalityPolicy::default()
        };
        let groups = Spread::Priorities(vec![vec![1], vec![3], vec![4], vec![2], vec![0]]);
        assert_eq!(spread(&policy, HERE, &SITES), groups);
        let plain = Spread::Priorities(vec![vec![1], vec![3], vec![4], vec![0, 2]]);
        assert_eq!(spread(&LocalityPolicy::default(), HERE, &SITES), plain);
        assert_eq!(shares_of(&groups, &[]), [0, 10_000, 0, 0, 0]);
        assert_eq!(shares_of(&groups, &[1]), [0, 0, 0, 10_000, 0]);
        assert_eq!(shares_of(&groups, &[1, 3, 4]), [0, 0, 10_000, 0, 0]);
    }

    #[test]
    fn labels_rank_as_far_as_they_agree() {
        let policy = LocalityPolicy {
            failover_priority: vec!["network".to_owned(), "version=v2".to_owned()],
            ..LocalityPolicy::default()
        };
        let sites = [
            "network=n1 version=v1",
            "network=n1 version=v2",
            "network=n2 version=v2",
        ];
        assert_eq!(
            spread(&policy, "network=n1 version=v9", &sites),
            Spread::Priorities(vec![vec![1], vec![0], vec![2]])
        );
    }

    #[test]
    fn half_of_a_locality_out_spills_over_what_it_cannot_take() {
        let sites = [HERE, HERE, "istio-locality=us.a.a"];
        let spread = spread(&LocalityPolicy::default(), HERE, &sites);
        let mut rng = StdRng::seed_from_u64(3);
        let mut far = 0;
        for _ in 0..10_000 {
            let group = spread.group(|at| at != 0, |_| true, &mut rng).unwrap();
            far += usize::from(group == [2]);
        }
        // 50 % in, times 1.4, is 70 %: 30 % go elsewhere.
        assert!((2800..3200).contains(&far), "{far}");
    }

    #[test]
    fn a_distribution_holds_and_what_it_does_not_name_gets_nothing() {
        let policy = LocalityPolicy {
            distribute: vec![Distribute {
                from: "eu/west/*".to_owned(),
                to: BTreeMap::from([("eu/west/*".to_owned(), 80), ("us/*".to_owned(), 20)]),
            }],
            ..LocalityPolicy::default()
        };
        let spread_here = spread(&policy, HERE, &SITES);
        let counts = shares_of(&spread_here, &[]);
        assert!((1800..2200).contains(&counts[0]), "{counts:?}");
        assert!((7800..8200).contains(&counts[1]) && counts[1] == counts[3]);
        assert_eq!((counts[2], counts[4]), (0, 0));
        assert_eq!(shares_of(&spread_here, &[0])[1], 10_000);
        assert_eq!(spread(&policy, SITES[0], &SITES), Spread::Flat);
    }
}
