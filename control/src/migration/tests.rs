//! Plans and edits, on folders as people write them; and the order, on generated meshes.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use proptest::prelude::*;
use reeve_core::{UnixTime, model::MtlsMode};

use super::{stand::Standing, *};
use crate::PolicyFolder;

const MINUTE: u64 = 60;
const CYCLE: Duration = Duration::from_secs(MINUTE);

/// A folder of workloads, each `name role` with a port 80 and an object that serves it.
fn yaml(workloads: &[(&str, &str)]) -> String {
    let mut text = "apiVersion: reeve.dev/v1alpha1\nkind: LocalMesh\nmetadata: {name: m}\nspec:\n  workloads:\n".to_owned();
    for (name, role) in workloads {
        text.push_str(&format!(
            "    - {{name: {name}, serviceAccount: {name}, labels: {{app: {name}}}, role: {role}, command: [sleep, '9'], \
             ports: [{{port: 80, name: http}}, {{port: 81, name: tcp}}]}}\n"
        ));
    }
    text
}

fn landscape(files: &[(&str, &str)]) -> Landscape {
    let mut folder = PolicyFolder::default();
    for (file, text) in files {
        folder.put(file, Some((*text).to_owned()));
    }
    match Landscape::of(folder) {
        Ok(landscape) => landscape,
        Err(faults) => panic!("{faults:#?}"),
    }
}

fn key(name: &str) -> WorkloadKey {
    WorkloadKey {
        namespace: "default".parse().unwrap(),
        workload: name.parse().unwrap(),
    }
}

/// One that calls `to` at a port: a workload, by its identity if it speaks mTLS, else by its address 10.0.0.N.
#[derive(Clone, Copy, Debug)]
struct Calls<'a>(&'a str, &'a str, u16, Spoken);

fn seen(observed: &mut Observed, calls: &[Calls<'_>], from: u64) {
    for second in 0..2 * MINUTE {
        for Calls(caller, to, port, spoken) in calls.iter().copied() {
            let id = format!("spiffe://mesh.local/ns/default/sa/{caller}");
            observed.add(&Seen {
                time: UnixTime::from_secs(from + second),
                receiver: key(to),
                port,
                principal: (spoken == Spoken::Mtls).then_some(id.as_str()),
                source: address(caller),
                spoken,
                got: None,
                opaque: port == 81,
                allowed: true,
                refused: false,
                policies: &[],
            });
        }
    }
}

fn address(name: &str) -> IpAddr {
    let last = name
        .bytes()
        .fold(7_u8, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte));
    IpAddr::from([10, 0, 0, last])
}

fn observed(workloads: &[(&str, &str)], calls: &[Calls<'_>]) -> Observed {
    let mut roster = Roster::default();
    for (name, role) in workloads {
        let holder = Holder {
            instance: format!("{name}-0").parse().unwrap(),
            workload: name.parse().unwrap(),
            namespace: "default".parse().unwrap(),
            meshed: *role == "sidecar",
        };
        roster.assign(UnixTime::from_secs(1_000), address(name), holder);
    }
    let mut observed = Observed::new(roster);
    seen(&mut observed, calls, 1_000);
    observed
}

fn asked() -> Standing {
    Standing {
        window: Window {
            from: UnixTime::from_secs(1_000),
            to: UnixTime::from_secs(1_000 + 2 * MINUTE),
        },
        cycle: CYCLE,
    }
}

fn planned(landscape: &Landscape, observed: &Observed) -> (Plan, Vec<PortStand>) {
    let stands = stand(landscape, observed, &asked());
    (plan(landscape, observed, &stands), stands)
}

fn targets(plan: &Plan) -> Vec<Vec<String>> {
    let names = |wave: &Wave| wave.targets.iter().map(|(t, _)| t.to_string()).collect();
    plan.waves.iter().map(names).collect()
}

const CHAIN: [(&str, &str); 4] = [
    ("web", "sidecar"),
    ("shop", "sidecar"),
    ("store", "sidecar"),
    ("old", "none"),
];

#[test]
fn leaves_are_flipped_first_and_a_port_that_is_not_ready_is_left_out() {
    let text = yaml(&CHAIN);
    let landscape = landscape(&[("mesh.yaml", &text)]);
    let calls = [
        Calls("web", "shop", 80, Spoken::Mtls),
        Calls("shop", "store", 80, Spoken::Mtls),
        Calls("old", "store", 81, Spoken::Plaintext),
    ];
    let (plan, stands) = planned(&landscape, &observed(&CHAIN, &calls));
    let expected = [
        vec!["workload default/store port 80"],
        vec!["workload default/shop"],
        vec!["workload default/web"],
    ];
    assert_eq!(targets(&plan), expected);
    let [blocked] = plan.blocked.as_slice() else {
        panic!("{:#?}", plan.blocked);
    };
    assert_eq!((blocked.workload.clone(), blocked.port), (key("store"), 81));
    let obstacle = &blocked.obstacles[0];
    assert!(
        obstacle.what.contains("workload default/old"),
        "{obstacle:?}"
    );
    assert!(
        obstacle.what.contains("opens plaintext connections"),
        "{obstacle:?}"
    );
    assert!(
        obstacle
            .remedy
            .contains("remove `role: none` of workload old"),
        "{obstacle:?}"
    );
    assert!(plan.waves[0].senders.contains(&key("shop")));
    let store = stands
        .iter()
        .find(|s| s.workload == key("store") && s.port == 81);
    assert_eq!(store.unwrap().verdict, Verdict::Blocked);
}

#[test]
fn when_nothing_stands_in_the_way_the_namespace_comes_last() {
    let text = yaml(&CHAIN[..2]);
    let landscape = landscape(&[("mesh.yaml", &text)]);
    let calls = [Calls("web", "shop", 80, Spoken::Mtls)];
    let (plan, _) = planned(&landscape, &observed(&CHAIN[..2], &calls));
    assert!(plan.blocked.is_empty(), "{:#?}", plan.blocked);
    let last = targets(&plan).pop().unwrap();
    assert_eq!(last, ["namespace default"]);
}

#[test]
fn too_short_a_look_proves_nothing() {
    let text = yaml(&CHAIN[..2]);
    let landscape = landscape(&[("mesh.yaml", &text)]);
    let observed = observed(&CHAIN[..2], &[Calls("web", "shop", 80, Spoken::Mtls)]);
    let asked = Standing {
        cycle: Duration::from_secs(24 * 3600),
        ..asked()
    };
    let stands = stand(&landscape, &observed, &asked);
    assert!(stands.iter().all(|s| s.verdict == Verdict::Unproven));
    assert_eq!(
        stands[0].reason,
        "watched for 2 min of 24 h; nothing speaks against it in 23 h"
    );
}

#[test]
fn a_caller_that_has_a_sidecar_by_now_is_forgiven() {
    let before = [("shop", "sidecar"), ("old", "none")];
    let calls = [Calls("old", "shop", 80, Spoken::Plaintext)];
    let mut observed = observed(&before, &calls);
    let text = yaml(&[("shop", "sidecar"), ("old", "sidecar")]);
    let landscape = landscape(&[("mesh.yaml", &text)]);
    let (plan, _) = planned(&landscape, &observed);
    assert_eq!(
        plan.blocked.len(),
        1,
        "it has none yet, whatever is written"
    );
    let mut roster = observed.roster().clone();
    let holder = Holder {
        instance: "old-0".parse().unwrap(),
        workload: "old".parse().unwrap(),
        namespace: "default".parse().unwrap(),
        meshed: true,
    };
    roster.assign(
        UnixTime::from_secs(1_000 + 2 * MINUTE),
        address("old"),
        holder,
    );
    observed = Observed::new(roster);
    seen(&mut observed, &calls, 1_000);
    let later = Standing {
        window: Window {
            from: UnixTime::from_secs(1_000),
            to: UnixTime::from_secs(1_000 + 4 * MINUTE),
        },
        cycle: CYCLE,
    };
    let stands = stand(&landscape, &observed, &later);
    let shop = stands
        .iter()
        .find(|s| s.workload == key("shop") && s.port == 80);
    assert_eq!(
        shop.unwrap().verdict,
        Verdict::Ready,
        "{:#?}",
        shop.unwrap().obstacles
    );
}

#[test]
fn obstacles_are_told_apart_and_named_with_their_remedies() {
    let text = yaml(&CHAIN);
    let landscape = landscape(&[("mesh.yaml", &text)]);
    let base = observed(&CHAIN, &[]);
    let of = |path: Option<&str>, spoken, source: IpAddr, opaque| {
        let mut observed = base.clone();
        observed.add(&Seen {
            time: UnixTime::from_secs(1_050),
            receiver: key("shop"),
            port: 80,
            principal: None,
            source,
            spoken,
            got: path,
            opaque,
            allowed: true,
            refused: false,
            policies: &[],
        });
        let (plan, _) = planned(&landscape, &observed);
        let obstacle = plan.blocked[0].obstacles[0].clone();
        format!("{} → {}", obstacle.what, obstacle.remedy)
    };
    let outside: IpAddr = "192.0.2.9".parse().unwrap();
    let plain = Spoken::Plaintext;
    for (told, words) in [
        (
            of(Some("/healthz"), plain, outside, false),
            ["probes its health", "15021"],
        ),
        (
            of(Some("/metrics"), plain, outside, false),
            ["scrapes its metrics", "15020"],
        ),
        (
            of(None, plain, outside, false),
            ["network 192.0.2.0/24", "through a gateway"],
        ),
        (
            of(None, Spoken::OwnTls, address("old"), true),
            ["speaks TLS of its own", "travels inside mTLS"],
        ),
        (
            of(None, plain, address("web"), false),
            ["around its sidecar", "by its name"],
        ),
        (
            of(None, plain, "127.0.0.1".parse().unwrap(), false),
            ["network 127.0.0.1", "a process of this machine"],
        ),
    ] {
        for word in words {
            assert!(told.contains(word), "{word} is not in: {told}");
        }
    }
}

/// A `PeerAuthentication` called `name`.
fn peer(name: &str, spec: &str) -> String {
    format!(
        "# {name}\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: {name}}}\nspec:\n{spec}"
    )
}

#[test]
fn modes_are_changed_where_they_are_written_and_back() {
    let text = yaml(&CHAIN);
    let own = peer(
        "shop",
        "  selector: {matchLabels: {app: shop}}\n  mtls: {mode: PERMISSIVE} # for now\n  portLevelMtls:\n    \"81\":\n      mode: DISABLE\n",
    );
    let bare = peer("web", "  selector:\n    matchLabels: {app: web}\n");
    let files = [
        ("mesh.yaml", text.as_str()),
        ("shop.yaml", &own),
        ("web.yaml", &bare),
    ];
    let landscape = landscape(&files);
    let all = [
        Target::Workload(key("shop"), vec![]),
        Target::Workload(key("web"), vec![80]),
        Target::Workload(key("store"), vec![]),
    ];
    let (edits, next) = landscape.flip(&all).unwrap();
    assert_eq!(
        next.text("shop.yaml").unwrap(),
        own.replace("PERMISSIVE", "STRICT")
            .replace("DISABLE", "STRICT"),
        "comments and order stay"
    );
    let inserted = "spec:\n  portLevelMtls:\n    \"80\":\n      mode: STRICT\n  selector:";
    assert!(next.text("web.yaml").unwrap().contains(inserted));
    let created = next.text("mtls-strict-store.default.yaml").unwrap();
    assert!(created.contains("\"app\": \"store\"") && created.contains("mode: STRICT"));
    let flipped = Landscape::of(next.clone()).unwrap();
    assert!(flipped.is_flipped(&all));
    assert_eq!(flipped.revert(&edits).unwrap(), *landscape.files());
    assert_eq!(
        landscape.revert(&edits).unwrap(),
        *landscape.files(),
        "once more does no harm"
    );
    let mut commented = next;
    let more = format!("{}# more\n", commented.text("shop.yaml").unwrap());
    commented.put("shop.yaml", Some(more));
    let back = Landscape::of(commented).unwrap().revert(&edits).unwrap();
    assert_eq!(back.text("shop.yaml").unwrap(), format!("{own}# more\n"));
}

#[test]
fn what_would_change_more_than_is_meant_is_not_done() {
    let text = yaml(&CHAIN);
    let both = peer(
        "both",
        "  selector: {matchLabels: {tier: back}}\n  mtls: {mode: PERMISSIVE}\n",
    );
    let shared = text.replace("labels: {app: shop}", "labels: {app: shop, tier: back}");
    let shared = shared.replace("labels: {app: store}", "labels: {app: store, tier: back}");
    let landscape_of_both = landscape(&[("mesh.yaml", &shared), ("both.yaml", &both)]);
    let one = [Target::Workload(key("shop"), vec![])];
    let error = landscape_of_both.flip(&one).unwrap_err();
    assert!(matches!(error, FlipError::Together { .. }), "{error}");
    let two = [one[0].clone(), Target::Workload(key("store"), vec![])];
    assert_eq!(landscape_of_both.flip(&two).unwrap().0.len(), 1);

    let crowded = peer(
        "shop",
        "  selector: {matchLabels: {app: shop}}\n  portLevelMtls: {80: {mode: PERMISSIVE}, 81: {mode: PERMISSIVE}}\n",
    );
    let crowded = landscape(&[("mesh.yaml", &text), ("shop.yaml", &crowded)]);
    let port = [Target::Workload(key("shop"), vec![80])];
    let error = crowded.flip(&port).unwrap_err();
    assert!(matches!(error, FlipError::Form(_)), "{error}");
    assert_eq!(
        crowded
            .flip(&[Target::Workload(key("nobody"), vec![])])
            .unwrap_err(),
        FlipError::Unknown("default/nobody".to_owned())
    );
}

#[test]
fn an_exemption_stays_and_is_named() {
    let text = yaml(&CHAIN[..2]);
    let exempt = |until: &str| {
        peer(
            "shop",
            "  selector: {matchLabels: {app: shop}}\n  portLevelMtls:\n    81: {mode: PERMISSIVE}\n",
        )
        .replace(
            "{name: shop}",
            &format!("{{name: shop, annotations: {{reeve.dev/exempt-owner: ops, reeve.dev/exempt-until: '{until}'}}}}"),
        )
    };
    let file = exempt("2199-01-01");
    let landscape = landscape(&[("mesh.yaml", &text), ("shop.yaml", &file)]);
    let observed = observed(
        &CHAIN[..2],
        &[Calls("nobody", "shop", 81, Spoken::Plaintext)],
    );
    let (plan, stands) = planned(&landscape, &observed);
    let at = |port| {
        stands
            .iter()
            .find(|s| s.workload == key("shop") && s.port == port)
            .unwrap()
    };
    assert_eq!(
        (at(81).verdict, at(80).verdict),
        (Verdict::Exempt, Verdict::Ready)
    );
    assert_eq!(at(81).exemption.as_ref().unwrap().owner, "ops");
    assert!(plan.blocked.is_empty());
    let wave: Vec<Target> = plan.waves[0]
        .targets
        .iter()
        .map(|(t, _)| t.clone())
        .collect();
    let (_, next) = landscape.flip(&wave).unwrap();
    let after = Landscape::of(next).unwrap();
    let modes: Vec<_> = after.ports().into_iter().map(|p| p.mode).collect();
    let (strict, permissive) = (MtlsMode::Strict, MtlsMode::Permissive);
    assert_eq!(modes, [strict, permissive, strict, strict]);
}

#[test]
fn a_plan_is_read_as_it_was_written() {
    let text = yaml(&CHAIN);
    let landscape = landscape(&[("mesh.yaml", &text)]);
    let calls = [
        Calls("web", "shop", 80, Spoken::Mtls),
        Calls("old", "store", 81, Spoken::Plaintext),
    ];
    let (plan, _) = planned(&landscape, &observed(&CHAIN, &calls));
    let file = PlanFile::of("strict-1", &plan, &asked());
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("plan.yaml");
    std::fs::write(&path, file.text(&plan)).unwrap();
    assert_eq!(PlanFile::read(&path).unwrap(), file);
    let twice = file.text(&plan).replace(
        "  blocked:",
        "    - name: again\n      targets: [{namespace: default, workload: shop}]\n  blocked:",
    );
    std::fs::write(&path, twice).unwrap();
    let faults = PlanFile::read(&path).unwrap_err();
    assert!(
        faults[0]
            .text
            .contains("workload default/shop is there twice"),
        "{faults:?}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// For any calls between any workloads: no wave flips a port that somebody speaks to without mTLS, and what is called
    /// is flipped no later than what calls it; what the shadow said would be refused is what a flip of all would refuse.
    #[test]
    fn no_port_is_flipped_before_its_senders_are_ready(
        roles in proptest::collection::vec(any::<bool>(), 6),
        calls in proptest::collection::btree_set((0_usize..6, 0_usize..6, any::<bool>(), 0_u8..3), 0..24),
    ) {
        let names = ["a", "b", "c", "d", "e", "f"];
        let workloads: Vec<(&str, &str)> = names
            .into_iter()
            .zip(roles.iter().map(|meshed| if *meshed { "sidecar" } else { "none" }))
            .collect();
        let meshed = |n: usize| roles[n];
        let calls: Vec<Calls<'_>> = calls
            .iter()
            .filter(|(from, to, _, _)| from != to && meshed(*to))
            .map(|(from, to, second, how)| {
                let spoken = match (meshed(*from), how) {
                    (true, 0 | 1) => Spoken::Mtls,
                    (_, 2) => Spoken::OwnTls,
                    _ => Spoken::Plaintext,
                };
                Calls(names[*from], names[*to], if *second { 81 } else { 80 }, spoken)
            })
            .collect();
        let text = yaml(&workloads);
        let landscape = landscape(&[("mesh.yaml", &text)]);
        let observed = observed(&workloads, &calls);
        let (plan, stands) = planned(&landscape, &observed);

        let mut files = landscape.files().clone();
        let mut flipped: BTreeSet<WorkloadKey> = BTreeSet::new();
        for wave in &plan.waves {
            let targets: Vec<Target> = wave.targets.iter().map(|(t, _)| t.clone()).collect();
            let now = Landscape::of(files.clone()).unwrap();
            let (_, next) = now.flip(&targets).unwrap();
            files = next;
            let after = Landscape::of(files.clone()).unwrap();
            let refused = refused(&after, &calls);
            prop_assert!(refused.is_empty(), "{:?} are refused after {:?}", refused, wave);
            for target in &targets {
                let Target::Workload(own, _) = target else { continue };
                flipped.insert(own.clone());
                // Whatever it calls is flipped by now, or cannot be, or calls it back.
                let called = calls.iter().filter(|c| c.0 == own.workload.as_str());
                for Calls(_, to, ..) in called {
                    let callee = key(to);
                    let later = plan.waves.iter().flat_map(|w| &w.targets).any(|(t, _)| {
                        matches!(t, Target::Workload(k, _) if *k == callee)
                    });
                    let back = reaches(&calls, to, own.workload.as_str());
                    prop_assert!(flipped.contains(&callee) || targets.iter().any(|t| matches!(t, Target::Workload(k, _) if *k == callee)) || !later || back);
                }
            }
        }
        // What the shadow predicts of all ports is what STRICT at all of them refuses.
        let predicted: BTreeSet<String> = stands
            .iter()
            .flat_map(|s| s.calls.iter().filter(|c| c.strict_would_refuse()).map(move |c| format!("{} {} {}", s.workload, s.port, c.address)))
            .collect();
        let strict = peer("all", "  mtls: {mode: STRICT}\n");
        let everywhere = landscape_with(&text, &strict);
        prop_assert_eq!(predicted, refused(&everywhere, &calls));
    }
}

fn landscape_with(text: &str, more: &str) -> Landscape {
    landscape(&[("mesh.yaml", text), ("all.yaml", more)])
}

/// What the receivers' modes refuse of these calls, as `proxy` refuses it: anything but mTLS at STRICT.
fn refused(landscape: &Landscape, calls: &[Calls<'_>]) -> BTreeSet<String> {
    let ports = landscape.ports();
    let strict = |to: &str, number: u16| {
        let mut all = ports.iter();
        all.any(|p| p.workload == key(to) && p.port == number && p.mode == MtlsMode::Strict)
    };
    let refused = calls
        .iter()
        .filter(|c| c.3 != Spoken::Mtls && strict(c.1, c.2));
    refused
        .map(|Calls(from, to, port, _)| format!("{} {port} {}", key(to), address(from)))
        .collect()
}

fn reaches(calls: &[Calls<'_>], from: &str, to: &str) -> bool {
    let (mut seen, mut waiting) = (BTreeSet::new(), vec![from]);
    while let Some(node) = waiting.pop() {
        for Calls(_, next, ..) in calls.iter().filter(|c| c.0 == node) {
            if seen.insert(*next) {
                waiting.push(next);
            }
        }
    }
    seen.contains(to)
}
