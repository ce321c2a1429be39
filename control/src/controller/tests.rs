use std::{fs, path::Path};

use reeve_authz::break_glass::SigningKey;
use reeve_core::{Namespace, clock::ManualClock, model::Resource};

use super::*;
use crate::{
    Code,
    migration::{Approval, LockRefused, UnlockRefused},
};

const GOOD: &str = "apiVersion: reeve.dev/v1alpha1
kind: LocalMesh
metadata: {name: local}
spec: {workloads: [{name: a, command: [x], labels: {app: a}}, {name: b, command: [x]}]}
---
apiVersion: v1
kind: Service
metadata: {name: a}
spec: {selector: {app: a}, ports: [{port: 80, name: http}]}
";

#[derive(Debug, Default)]
struct Heard(Mutex<Vec<String>>);

impl ConfigEvents for Heard {
    fn faults_changed(&self, changes: &FaultChanges) {
        let began = changes
            .began
            .iter()
            .map(|fault| format!("in: {}", fault.what));
        let ended = changes
            .ended
            .iter()
            .map(|fault| format!("out: {}", fault.what));
        self.0.lock().unwrap().extend(began.chain(ended));
    }

    fn modes_changed(&self, generation: Generation, changes: &[ModeChange]) {
        let told = changes.iter().map(|ModeChange { from, to, ports }| {
            format!("{generation}: {from:?} to {to:?}: {}", ports.join(" "))
        });
        self.0.lock().unwrap().extend(told);
    }

    fn applied(&self, applied: &AppliedConfig) {
        self.0
            .lock()
            .unwrap()
            .push(format!("applied {}", applied.generation));
    }
    fn refused(&self, faults: &[Fault]) {
        self.0
            .lock()
            .unwrap()
            .push(format!("refused {}:{}", faults[0].file, faults[0].line));
    }
    fn nacked(&self, instance: &InstanceName, generation: Generation, error: &str) {
        self.0
            .lock()
            .unwrap()
            .push(format!("nacked {instance} {generation} {error}"));
    }
}

struct Bench {
    folder: tempfile::TempDir,
    state: tempfile::TempDir,
    heard: Arc<Heard>,
    controller: Arc<Controller>,
}

fn start(folder: &Path, state: &Path, heard: &Arc<Heard>) -> Arc<Controller> {
    Controller::start(ControllerOptions {
        folder: folder.to_owned(),
        state: state.to_owned(),
        clock: Arc::new(ManualClock::at(UnixTime::from_secs(1))),
        events: heard.clone(),
    })
    .unwrap()
}

impl Bench {
    fn new() -> Self {
        let (folder, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(folder.path().join("mesh.yaml"), GOOD).unwrap();
        let mesh = crate::load(folder.path()).unwrap();
        let mut instances = Instances::new(77);
        instances
            .plan(&mesh.workloads, mesh.services.keys())
            .unwrap();
        instances.write(&state.path().join(FILE_NAME)).unwrap();
        let heard = Arc::new(Heard::default());
        let controller = start(folder.path(), state.path(), &heard);
        Self {
            folder,
            state,
            heard,
            controller,
        }
    }

    fn add(&self, file: &str, text: &str) {
        fs::write(self.folder.path().join(file), text).unwrap();
    }

    fn heard(&self) -> Vec<String> {
        std::mem::take(&mut self.heard.0.lock().unwrap())
    }

    fn generation(&self) -> u64 {
        self.controller.status().generation.0
    }
}

fn a() -> InstanceName {
    "a-0".parse().unwrap()
}

fn id() -> SpiffeId {
    SpiffeId::parse("spiffe://mesh.local/ns/default/sa/default").unwrap()
}

#[test]
fn a_bad_edit_keeps_the_last_good_configuration() {
    let bench = Bench::new();
    assert_eq!(
        (bench.heard(), bench.generation()),
        (vec!["applied 1".to_owned()], 1)
    );
    let before = bench.controller.proxy_config(&a()).unwrap();
    bench.add("bad.yaml", "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: x}\nspec:\n  hots: [a]\n");
    bench.controller.reload();
    bench.controller.reload();
    let status = bench.controller.status();
    assert_eq!(bench.heard(), ["refused bad.yaml:4"], "told once");
    assert_eq!(
        (status.generation, status.refused_since.is_some()),
        (Generation(1), true)
    );
    assert!(
        status
            .faults
            .iter()
            .any(|f| f.path == "spec.hots" && f.line == 5)
    );
    assert_eq!(bench.controller.proxy_config(&a()).unwrap(), before);
    fs::remove_file(bench.folder.path().join("bad.yaml")).unwrap();
    bench.controller.reload();
    let status = bench.controller.status();
    assert_eq!(
        (status.generation, status.faults, status.refused_since),
        (Generation(1), vec![], None)
    );
}

#[test]
fn a_generation_is_made_only_if_something_changed() {
    let bench = Bench::new();
    bench.controller.reload();
    let warned = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: v}\n\
        spec: {hosts: [a], http: [{route: [{destination: {host: a, subset: none}}]}]}\n";
    bench.add("warned.yaml", warned);
    bench.controller.reload();
    let line = |bench: &Bench| bench.controller.status().warnings[0].line;
    assert_eq!((bench.generation(), line(&bench)), (2, 4));
    bench.add("warned.yaml", &format!("# a comment\n{warned}"));
    bench.controller.reload();
    assert_eq!(
        (bench.generation(), line(&bench)),
        (2, 5),
        "a comment is no change"
    );
    bench.add("ns.yaml", "apiVersion: reeve.dev/v1alpha1\nkind: AccessPolicy\nmetadata: {name: p}\nspec: {cedar: 'permit (principal, action, resource);'}\n");
    bench.controller.reload();
    assert_eq!(bench.generation(), 3);
    let config = bench.controller.proxy_config(&a()).unwrap();
    assert_eq!(
        (config.generation, config.policies.policies.len()),
        (Generation(3), 1)
    );
    assert_eq!(
        config.policies.mesh_hash,
        bench.controller.status().policy_hash
    );
}

#[test]
fn an_edit_back_and_forth_gives_what_a_fresh_start_gives() {
    let bench = Bench::new();
    let first = bench.controller.proxy_config(&a()).unwrap();
    for text in [
        GOOD.replace("port: 80", "port: 81"),
        GOOD.replace("app: a}}, {", "app: c}}, {"),
        GOOD.to_owned(),
    ] {
        bench.add("mesh.yaml", &text);
        bench.controller.reload();
        let state = tempfile::tempdir().unwrap();
        fs::copy(
            bench.state.path().join(FILE_NAME),
            state.path().join(FILE_NAME),
        )
        .unwrap();
        let fresh = start(bench.folder.path(), state.path(), &bench.heard);
        let unnumbered = |controller: &Controller| ProxyConfig {
            generation: Generation(0),
            ..(*controller.proxy_config(&a()).unwrap()).clone()
        };
        assert_eq!(unnumbered(&bench.controller), unnumbered(&fresh));
    }
    let back = bench.controller.proxy_config(&a()).unwrap();
    assert_eq!(back.generation, Generation(4));
    assert_eq!(
        ProxyConfig {
            generation: first.generation,
            ..(*back).clone()
        },
        *first
    );
}

#[test]
fn health_becomes_a_generation_of_its_own() {
    let bench = Bench::new();
    let path = bench.state.path().join(FILE_NAME);
    let mut instances = Instances::read(&path).unwrap();
    instances
        .instances
        .iter_mut()
        .for_each(|i| i.healthy = true);
    instances.write(&path).unwrap();
    bench.controller.reload();
    let config = bench.controller.proxy_config(&a()).unwrap();
    let endpoints: usize = config.endpoints.values().map(|e| e.endpoints.len()).sum();
    assert_eq!((config.generation, endpoints), (Generation(2), 1));
    fs::write(&path, "{").unwrap();
    bench.controller.reload();
    assert_eq!(
        bench.generation(),
        2,
        "a broken instances.json changes nothing"
    );
}

#[test]
fn numbers_do_not_go_back_over_a_restart() {
    let bench = Bench::new();
    let again = start(bench.folder.path(), bench.state.path(), &bench.heard);
    assert_eq!(again.status().generation, Generation(2));
    fs::write(bench.state.path().join("generation.json"), "junk").unwrap();
    let refused = Controller::start(ControllerOptions {
        folder: bench.folder.path().to_owned(),
        state: bench.state.path().to_owned(),
        clock: Arc::new(ManualClock::default()),
        events: bench.heard.clone(),
    });
    assert!(matches!(refused, Err(StartError::Generation { .. })));
}

#[test]
fn a_proxy_is_fed_only_under_its_own_identity() {
    let bench = Bench::new();
    let stranger = SpiffeId::parse("spiffe://mesh.local/ns/default/sa/other").unwrap();
    let other_domain = SpiffeId::parse("spiffe://elsewhere/ns/default/sa/default").unwrap();
    let gone: InstanceName = "c-0".parse().unwrap();
    assert!(matches!(
        bench.controller.watch(&a(), &stranger),
        Err(Refused::OtherIdentity { .. })
    ));
    assert!(matches!(
        bench.controller.watch(&a(), &other_domain),
        Err(Refused::OtherIdentity { .. })
    ));
    assert!(matches!(
        bench.controller.watch(&gone, &id()),
        Err(Refused::UnknownInstance(_))
    ));
    assert!(
        bench
            .controller
            .watch(&a(), &id())
            .unwrap()
            .borrow()
            .is_some()
    );
}

#[test]
fn the_stream_of_a_removed_workload_ends() {
    let bench = Bench::new();
    let watching = bench.controller.watch(&a(), &id()).unwrap();
    assert!(bench.controller.status().proxies[0].connected);
    bench.add(
        "mesh.yaml",
        &GOOD.replace("{name: a, command: [x], labels: {app: a}}, ", ""),
    );
    bench.controller.reload();
    assert!(watching.has_changed().is_err(), "the sender is gone");
}

#[test]
fn acknowledgements_are_shown_per_proxy() {
    let bench = Bench::new();
    let report = |error: Option<&str>| AckReport {
        generation: Generation(1),
        policy_hash: "h".to_owned(),
        error: error.map(str::to_owned),
    };
    bench.controller.report(&a(), report(None));
    bench.controller.report(&a(), report(Some("no port")));
    let proxy = bench.controller.status().proxies[0].clone();
    assert_eq!(
        (proxy.generation, proxy.policy_hash.as_str()),
        (Generation(1), "h")
    );
    assert_eq!(proxy.nack.as_deref(), Some("generation 1: no port"));
    assert!(bench.heard().contains(&"nacked a-0 1 no port".to_owned()));
    bench.controller.report(&a(), report(None));
    assert_eq!(bench.controller.status().proxies[0].nack, None);
}

#[tokio::test]
async fn an_edit_is_noticed_without_being_told() {
    let bench = Bench::new();
    let mut mesh = bench.controller.mesh();
    mesh.mark_unchanged();
    let running = bench.controller.clone().run();
    let edited = async {
        bench.add("mesh.yaml", &GOOD.replace("port: 80", "port: 81"));
        mesh.changed().await.unwrap();
    };
    let bounded = tokio::time::timeout(std::time::Duration::from_secs(10), edited);
    tokio::select! {
        // Not cancel safe, and need not be: the test ends here.
        () = running => panic!("it runs for ever"),
        found = bounded => found.expect("the edit is seen"),
    }
    assert_eq!(bench.generation(), 2);
}

#[test]
fn faults_are_told_end_by_themselves_and_go_off_as_a_whole_over_restarts() {
    let bench = Bench::new();
    let routed = |annotations: &str| {
        format!(
            "{GOOD}---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: a, annotations: {{{annotations}}}}}
spec:
  hosts: [a]
  http:
    - fault: {{abort: {{httpStatus: 500, percentage: {{value: 100}}}}}}
      route: [{{destination: {{host: a}}}}]
"
        )
    };
    let has_fault = |controller: &Controller| {
        let config = controller.proxy_config(&"a-0".parse().unwrap()).unwrap();
        let mut hosts = config
            .routes
            .values()
            .flat_map(|t| t.virtual_hosts.values());
        hosts.any(|host| host.routes.iter().any(|route| route.fault.is_some()))
    };
    let heard = || std::mem::take(&mut *bench.heard.0.lock().unwrap());
    heard();
    fs::write(bench.folder.path().join("mesh.yaml"), routed("")).unwrap();
    bench.controller.reload();
    assert!(has_fault(&bench.controller));
    let what = "abort with status 500 for 100 %";
    assert!(heard().contains(&format!("in: {what}")));

    bench.controller.switch_chaos(true).unwrap();
    assert!(!has_fault(&bench.controller));
    assert!(heard().contains(&format!("out: {what}")));
    let chaos = bench.controller.chaos();
    assert!(chaos.off && chaos.faults[0].state == FaultState::Off);
    let again = start(bench.folder.path(), bench.state.path(), &bench.heard);
    assert!(!has_fault(&again) && again.chaos().off);
    again.switch_chaos(false).unwrap();
    assert!(has_fault(&again));

    // The clock stands at the first second.
    let over = routed("reeve.dev/fault-until: '1970-01-01T00:00:01Z'");
    fs::write(bench.folder.path().join("mesh.yaml"), over).unwrap();
    again.reload();
    assert!(!has_fault(&again));
    assert_eq!(again.chaos().faults[0].state, FaultState::Over);
}

/// What differs between two configurations: resources by kind and name, and whether the rest is the very same.
fn changed(before: &ProxyConfig, after: &ProxyConfig) -> (Vec<String>, bool) {
    let known = before.resources();
    let new = |resource: &Resource| !known.contains(resource);
    let resources = after.resources();
    let named = |r: Resource| format!("{} {}", r.kind().as_str(), r.name());
    let same = after.services.iter().all(|(name, service)| {
        let known = before.services.get(name);
        known.is_none_or(|known| Arc::ptr_eq(known, service) == (known == service))
    });
    let hosts = after.routes.iter().flat_map(|(table, now)| {
        let known = before.routes.get(table);
        now.virtual_hosts.iter().map(move |(name, host)| {
            let known = known.and_then(|known| known.virtual_hosts.get(name));
            known.is_none_or(|known| Arc::ptr_eq(known, host) == (known == host))
        })
    });
    let same_hosts = hosts.filter(|same| !same).count() == 0;
    let new = resources.into_iter().filter(new).map(named);
    (new.collect(), same && same_hosts)
}

#[test]
fn a_change_of_one_route_moves_one_virtual_host() {
    let routed = |a: &str, b: &str| {
        let route = |host: &str, path: &str| {
            format!(
                "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {host}}}\nspec: {{hosts: [{host}], http: [{{match: [{{uri: {{prefix: {path}}}}}], route: [{{destination: {{host: a}}}}]}}]}}\n"
            )
        };
        format!("{GOOD}{}{}", route("x.org", a), route("y.org", b))
    };
    let bench = Bench::new();
    let write = |text: &str| {
        fs::write(bench.folder.path().join("mesh.yaml"), text).unwrap();
        bench.controller.reload();
        bench
            .controller
            .proxy_config(&"b-0".parse().unwrap())
            .unwrap()
    };
    let before = write(&routed("/a", "/b"));
    let after = write(&routed("/a", "/other"));
    let (resources, same) = changed(&before, &after);
    let table = |port: u16| format!("VirtualHost {port}/default/y.org:y.org");
    assert_eq!(
        resources,
        [table(15001), table(80), "Generation generation".to_owned()]
    );
    assert!(same, "what did not change is the same object");
    // A comment changes nothing.
    let again = write(&format!("# a comment\n{}", routed("/a", "/other")));
    assert!(Arc::ptr_eq(&again, &after));
}

#[test]
fn a_flipped_mode_is_told_even_if_it_was_flipped_while_nobody_looked() {
    let bench = Bench::new();
    let mesh = GOOD.replace(
        "name: a, command: [x],",
        "name: a, command: [x], ports: [{port: 80, name: http}, {port: 90, name: tcp}],",
    );
    bench.add("mesh.yaml", &mesh);
    bench.controller.reload();
    assert_eq!(
        bench.heard(),
        ["applied 1", "applied 2"],
        "a new port has flipped nothing"
    );
    let mode = |mode: &str| {
        format!(
            "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: m}}\n\
             spec: {{selector: {{matchLabels: {{app: a}}}}, mtls: {{mode: {mode}}}, portLevelMtls: {{90: {{mode: PERMISSIVE}}}}}}\n"
        )
    };
    bench.add("mode.yaml", &mode("STRICT"));
    bench.controller.reload();
    let flipped = "3: Permissive to Strict: default/a:80";
    assert_eq!(bench.heard(), ["applied 3", flipped]);
    bench.controller.reload();
    assert_eq!(bench.heard(), [""; 0], "told once");
    bench.add("mode.yaml", &mode("DISABLE"));
    let after = start(bench.folder.path(), bench.state.path(), &bench.heard);
    assert_eq!(after.status().generation.0, 4);
    let flipped = "4: Strict to Disable: default/a:80";
    assert_eq!(bench.heard(), ["applied 4", flipped]);
}

#[test]
fn a_locked_namespace_stays_strict_until_an_approver_signed_otherwise() {
    let (bench, key) = (Bench::new(), SigningKey::generate().unwrap());
    let default: Namespace = "default".parse().unwrap();
    let lock = || {
        bench
            .controller
            .lock(&default, "alice".into(), vec![key.public()])
    };
    assert!(matches!(lock(), Err(LockRefused::NotStrict { .. })));
    let mode = |mode: &str| {
        format!(
            "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: m}}\nspec: {{mtls: {{mode: {mode}}}}}\n"
        )
    };
    bench.add("mode.yaml", &mode("STRICT"));
    assert!(matches!(lock(), Err(LockRefused::NotInForce)));
    bench.controller.reload();
    let locked = lock().unwrap();
    drop(bench.heard());

    // Neither a weaker mode, nor its object's end, nor another start of the process lets plaintext in.
    bench.add("mode.yaml", &mode("PERMISSIVE"));
    bench.controller.reload();
    assert_eq!(bench.heard(), ["refused .:1"]);
    fs::remove_file(bench.folder.path().join("mode.yaml")).unwrap();
    bench.controller.reload();
    assert_eq!(bench.generation(), 2);
    let again = start(bench.folder.path(), bench.state.path(), &bench.heard);
    assert!(again.status().faults[0].code == Code::Locked && again.mesh().borrow().is_none());
    drop(bench.heard());

    let approval = |signer: &SigningKey| {
        let until = UnixTime::from_secs(60);
        let (mesh, why) = ("mesh.local".parse().unwrap(), "4711".to_owned());
        let approval = Approval::new((default.clone(), locked.id.clone()), mesh, why, until);
        approval.sign(signer).unwrap()
    };
    let other = SigningKey::generate().unwrap();
    let refused = bench.controller.unlock(&approval(&other));
    assert!(matches!(refused, Err(UnlockRefused::Approval(_))));
    assert_eq!(bench.controller.unlock(&approval(&key)).unwrap(), locked);
    assert_eq!(bench.heard(), ["applied 3"], "what waited is in force");
    let spent = bench.controller.unlock(&approval(&key));
    assert!(matches!(spent, Err(UnlockRefused::NotLocked(_))));
    let kept = start(bench.folder.path(), bench.state.path(), &bench.heard);
    assert!(kept.locks().is_empty());

    fs::write(bench.state.path().join("mtls-locks.json"), "{").unwrap();
    let unreadable = Controller::start(ControllerOptions {
        folder: bench.folder.path().to_owned(),
        state: bench.state.path().to_owned(),
        clock: Arc::new(ManualClock::at(UnixTime::from_secs(1))),
        events: bench.heard.clone(),
    });
    assert!(matches!(unreadable, Err(StartError::Locks(_))));
}

/// A bundle in a file beside the folder is followed, and one that is none leaves the last good in force.
#[test]
fn a_bundle_in_a_file_is_followed() {
    let bench = Bench::new();
    let file = bench.state.path().join("other.json");
    let spec = format!(
        "spec: {{trustDomain: other.org, trustDomainBundleFile: {}}}",
        file.display()
    );
    let object = format!(
        "apiVersion: spire.spiffe.io/v1alpha1\nkind: ClusterFederatedTrustDomain\nmetadata: {{name: other}}\n{spec}\n"
    );
    bench.add("other.yaml", &object);
    let bundle = || {
        let mesh = bench.controller.mesh().borrow().clone().unwrap();
        let domains = mesh.federation().domains;
        domains.first().and_then(|domain| domain.bundle.clone())
    };
    bench.controller.reload();
    assert_eq!(bench.controller.status().faults[0].line, 4);
    assert_eq!(bundle(), None);
    let text = crate::resolve::tests::bundle_text;
    for id in ["one", "two"] {
        fs::write(&file, text(id)).unwrap();
        bench.controller.reload();
        assert!(bench.controller.status().faults.is_empty());
        assert_eq!(bundle().as_deref(), Some(&*text(id)));
    }
    fs::write(&file, "half a bun").unwrap();
    bench.controller.reload();
    assert_eq!(bench.controller.status().faults.len(), 1);
    assert_eq!(bundle().as_deref(), Some(&*text("two")));
}

#[test]
fn keys_of_trust_domains_are_a_generation_where_a_rule_names_the_domain() {
    let bundle = |id| {
        let text = crate::resolve::tests::bundle_text(id);
        let domain = "mesh.local".parse().unwrap();
        reeve_svid::BundleDocument::parse(domain, &text)
            .unwrap()
            .bundle
    };
    let bench = Bench::new();
    bench.controller.take_bundle(&bundle("one"));
    assert_eq!(bench.generation(), 1, "nobody asks for them");
    bench.add("rule.yaml", "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {name: r}\nspec: {jwtRules: [{issuer: 'spiffe://mesh.local', audiences: [a]}]}\n");
    bench.controller.reload();
    let keys = || {
        let config = bench.controller.proxy_config(&a()).unwrap();
        let jwks = config.workload.jwt_rules[0].jwks.clone();
        jwks.unwrap().json
    };
    assert!(keys().contains("\"one\""));
    assert_eq!(bench.generation(), 2);
    bench.controller.take_bundle(&bundle("two"));
    assert!(keys().contains("\"two\"") && !keys().contains("\"one\""));
    assert_eq!(bench.generation(), 3);
    bench.controller.take_bundle(&bundle("two"));
    assert_eq!(bench.generation(), 3);
}
