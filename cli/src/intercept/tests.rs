use super::*;

fn chain(text: &str, name: &str) -> Vec<String> {
    let (_, rest) = text.split_once(&format!("chain {name} {{")).unwrap();
    let rules = rest.lines().skip(1);
    let rules = rules.take_while(|line| line.trim() != "}");
    rules.map(|line| line.trim().to_owned()).collect()
}

#[test]
fn a_table_replaces_the_one_before_it() {
    let text = Rules::default().to_nft();
    assert!(
        text.starts_with("add table inet reeve\ndelete table inet reeve\ntable inet reeve {\n")
    );
}

#[test]
fn everything_is_captured_unless_excluded() {
    let text = Rules::default().to_nft();
    let inbound = chain(&text, "inbound");
    assert_eq!(
        inbound.last().unwrap(),
        "meta l4proto tcp redirect to :15006"
    );
    assert!(inbound.contains(&"tcp dport { 15020, 15021 } return".to_owned()));
    let outbound = chain(&text, "outbound");
    assert_eq!(
        outbound.last().unwrap(),
        "meta l4proto tcp redirect to :15001"
    );
    assert!(outbound.contains(&"meta skuid 1337 return".to_owned()));
    assert!(chain(&text, "datagrams").contains(&"udp dport 443 reject".to_owned()));
}

#[test]
fn exclusions_and_inclusions_stand_before_the_capture() {
    let rules = Rules {
        exclude_inbound_ports: vec![22, 8080, 22],
        include_outbound_ports: Some(vec![443, 80]),
        exclude_outbound_ports: vec![5432],
        exclude_outbound_ranges: vec!["10.1.0.0/16".parse().unwrap(), "fd01::/16".parse().unwrap()],
        include_outbound_ranges: Some(vec!["10.0.0.0/8".parse().unwrap()]),
        proxy_gid: Some(7),
        ..Rules::default()
    };
    let text = rules.to_nft();
    let past = "tcp dport { 22, 8080, 15020, 15021 } return";
    assert!(chain(&text, "inbound").contains(&past.to_owned()));
    let outbound = chain(&text, "outbound");
    let at = |rule: &str| {
        let found = outbound.iter().position(|r| r == rule);
        found.unwrap_or_else(|| panic!("no {rule} in {outbound:#?}"))
    };
    let capture = at("ip daddr 10.0.0.0/8 meta l4proto tcp redirect to :15001");
    for rule in [
        "meta skgid 7 return",
        "tcp dport { 5432 } return",
        "ip daddr 10.1.0.0/16 return",
        "ip6 daddr fd01::/16 return",
        "tcp dport != { 80, 443 } return",
    ] {
        assert!(at(rule) < capture, "{rule}");
    }
    assert_eq!(
        capture,
        outbound.len() - 1,
        "what is not included goes its own way"
    );
}

#[test]
fn including_no_port_captures_nothing() {
    let rules = Rules {
        include_inbound_ports: Some(Vec::new()),
        ..Rules::default()
    };
    assert!(chain(&rules.to_nft(), "inbound").contains(&"return".to_owned()));
}

#[test]
fn without_ipv6_no_rule_is_about_it() {
    for mode in [CaptureMode::Redirect, CaptureMode::Tproxy] {
        let rules = Rules {
            mode,
            ipv6: false,
            exclude_outbound_ranges: vec!["fd01::/16".parse().unwrap()],
            ..Rules::default()
        };
        let text = rules.to_nft();
        assert!(text.contains("table ip reeve {"), "{text}");
        assert!(!text.contains("ip6") && !text.contains("ipv6"), "{text}");
    }
}

#[test]
fn tproxy_leaves_inbound_destinations_alone() {
    let rules = Rules {
        mode: CaptureMode::Tproxy,
        ..Rules::default()
    };
    let inbound = chain(&rules.to_nft(), "inbound");
    assert!(
        inbound
            .iter()
            .any(|rule| rule == "meta l4proto tcp meta nfproto ipv4 tproxy ip to :15006 accept")
    );
    assert!(
        inbound
            .iter()
            .any(|rule| rule == "meta l4proto tcp meta nfproto ipv6 tproxy ip6 to :15006 accept")
    );
    assert!(!inbound.iter().any(|rule| rule.contains("redirect")));
}

#[test]
fn ranges_are_read_as_they_are_shown() {
    for text in ["10.0.0.0/8", "fd00::/8", "0.0.0.0/0"] {
        assert_eq!(text.parse::<Range>().unwrap().to_string(), text);
    }
    assert_eq!("::1".parse::<Range>().unwrap().to_string(), "::1/128");
    for text in [
        "",
        "10.0.0.0/33",
        "::/129",
        "10.0.0.0/-1",
        "a/8",
        "10.0.0.0/8/8",
        "10.0.0.0/8; drop",
    ] {
        assert!(text.parse::<Range>().is_err(), "{text}");
    }
}
