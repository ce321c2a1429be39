use super::{findings, mesh};

fn entry(namespace: &str, name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: reeve.dev/v1alpha1\nkind: RegistrationEntry\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec:\n{spec}\n"
    )
}

const JOB: &str = "  spiffeID: spiffe://mesh.local/ns/batch/sa/job\n  selectors: ['unix:uid:1000']";

#[test]
fn an_entry_says_who_gets_what_on_which_terms() {
    let spec = "  spiffeID: spiffe://mesh.local/ns/batch/sa/job
  parentID: spiffe://mesh.local/agent/a
  selectors: ['unix:uid:1000', 'unix:path:/usr/bin/job']
  x509SVIDTTL: 10m
  jwtSVIDTTL: 1m
  dnsNames: [job.batch.svc, job.batch.svc.cluster.local]
  jwtAudiences: [ledger]
  hint: nightly";
    let mesh = mesh(&entry("batch", "job", spec));
    let [found] = mesh.registrations.as_slice() else {
        panic!("one entry");
    };
    assert_eq!(found.name.to_string(), "batch/job");
    assert_eq!(found.id.as_str(), "spiffe://mesh.local/ns/batch/sa/job");
    assert_eq!(found.parent.as_str(), "spiffe://mesh.local/agent/a");
    assert_eq!(found.selectors.len(), 2);
    assert_eq!(found.x509_ttl.unwrap().as_secs(), 600);
    assert_eq!(found.jwt_ttl.unwrap().as_secs(), 60);
    assert_eq!(found.dns_names.len(), 2);
    assert_eq!(found.jwt_audiences, ["ledger"]);
    assert_eq!(found.hint, "nightly");
}

#[test]
fn the_mesh_process_is_the_agent_unless_one_is_named_and_what_asks_most_comes_first() {
    let special = JOB.replace("'unix:uid:1000'", "'unix:uid:1000', 'unix:gid:1'");
    let other = JOB.replace("sa/job", "sa/other");
    let all = [
        entry("batch", "b", JOB),
        entry("batch", "z", &special),
        entry("batch", "a", &other),
    ];
    let mesh = mesh(&all.concat());
    let names: Vec<_> = mesh
        .registrations
        .iter()
        .map(|e| e.name.name.as_str())
        .collect();
    assert_eq!(names, ["z", "a", "b"]);
    let control = "spiffe://mesh.local/ns/reeve-system/sa/control";
    assert!(
        mesh.registrations
            .iter()
            .all(|e| e.parent.as_str() == control)
    );
}

#[test]
fn a_namespace_gives_out_its_own_names_and_the_root_namespace_any_that_is_free() {
    let id = "6 spec.spiffeID invalid";
    let dns = "8 spec.dnsNames[0] invalid";
    for (namespace, spec, expected) in [
        ("batch", JOB.to_owned(), &[][..]),
        ("pay", JOB.to_owned(), &[id]),
        ("bat", JOB.to_owned(), &[id]),
        ("reeve-system", JOB.to_owned(), &[]),
        ("batch", format!("{JOB}\n  dnsNames: [a.batch.svc]"), &[]),
        ("batch", format!("{JOB}\n  dnsNames: [a.pay.svc]"), &[dns]),
        (
            "batch",
            format!("{JOB}\n  dnsNames: [bank.example]"),
            &[dns],
        ),
        (
            "reeve-system",
            format!("{JOB}\n  dnsNames: [bank.example]"),
            &[],
        ),
    ] {
        assert_eq!(
            findings(&entry(namespace, "job", &spec)),
            expected,
            "{namespace} {spec}"
        );
    }
}

#[test]
fn nobody_is_given_an_identity_that_is_held_elsewhere() {
    let workloads = "apiVersion: reeve.dev/v1alpha1\nkind: LocalMesh\nmetadata: {name: m}\nspec:\n  workloads:\n    - {name: echo, serviceAccount: echo, command: [echo]}\n";
    let echo = JOB.replace("ns/batch/sa/job", "ns/default/sa/echo");
    let taken = format!("{workloads}{}", entry("default", "echo", &echo));
    assert_eq!(findings(&taken), ["12 spec.spiffeID conflict"]);
    let free = format!(
        "{workloads}{}",
        entry("default", "echo", &echo.replace("sa/echo", "sa/job"))
    );
    assert!(findings(&free).is_empty());
    let control = JOB.replace("ns/batch/sa/job", "ns/reeve-system/sa/control");
    let mesh_itself = entry("reeve-system", "control", &control);
    assert_eq!(findings(&mesh_itself), ["6 spec.spiffeID conflict"]);
}

#[test]
fn each_fault_has_its_place() {
    for (spec, expected) in [
        ("  selectors: ['unix:uid:1']", "5 spec.spiffeID missing"),
        (
            "  spiffeID: job\n  selectors: ['unix:uid:1']",
            "6 spec.spiffeID invalid",
        ),
        (
            "  spiffeID: spiffe://other.org/ns/batch/sa/job\n  selectors: ['unix:uid:1']",
            "6 spec.spiffeID invalid",
        ),
        (
            "  spiffeID: spiffe://mesh.local/ns/batch/sa/job",
            "5 spec.selectors missing",
        ),
        (
            "  spiffeID: spiffe://mesh.local/ns/batch/sa/job\n  selectors: ['unix:uid:1', 'docker:label:a']",
            "7 spec.selectors[1] invalid",
        ),
        (
            &format!("{JOB}\n  x509SVIDTTL: 1s"),
            "8 spec.x509SVIDTTL invalid",
        ),
        (
            &format!("{JOB}\n  x509SVIDTTL: 5h"),
            "8 spec.x509SVIDTTL invalid",
        ),
        (
            &format!("{JOB}\n  jwtSVIDTTL: 6m"),
            "8 spec.jwtSVIDTTL invalid",
        ),
        (
            &format!("{JOB}\n  parentID: agent"),
            "8 spec.parentID invalid",
        ),
        (
            &format!("{JOB}\n  dnsNames: ['*.batch.svc']"),
            "8 spec.dnsNames[0] invalid",
        ),
        (
            &format!("{JOB}\n  dnsNames: [A.batch.svc]"),
            "8 spec.dnsNames[0] invalid",
        ),
        (
            &format!("{JOB}\n  jwtAudiences: ['']"),
            "8 spec.jwtAudiences[0] invalid",
        ),
        (
            &format!("{JOB}\n  admin: true"),
            "8 spec.admin unknown-field",
        ),
        (
            "  spiffeID: spiffe://mesh.local/ns/batch/sa/job\n  selectors: ['unix:path:/bin/job']",
            "7 spec.selectors invalid?",
        ),
    ] {
        assert_eq!(findings(&entry("batch", "job", spec)), [expected], "{spec}");
    }
}
