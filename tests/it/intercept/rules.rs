//! `reeve intercept` by itself, between two network namespaces and without any proxy: what is captured has nobody to go
//! to and is refused, what is excluded arrives.

use std::{
    path::Path,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use reeve_tests::{Folder, Outcome, binary, eventually, run};

use super::{CALL_LIMIT, LIMIT, need_root, tool_ok};

static COUNT: AtomicU32 = AtomicU32::new(0);
/// Sends back what it gets, over TCP and, on the port given second, over UDP.
const SERVER: &str = r#"
import socket, sys, threading
def tcp(family, host, port):
    with socket.socket(family, socket.SOCK_STREAM) as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6: s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        s.bind((host, port)); s.listen(16)
        while True:
            c, _ = s.accept()
            try:
                with c:
                    while data := c.recv(4096): c.sendall(data)
            except OSError: pass
def udp(port):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.bind(("0.0.0.0", port))
        while True:
            data, peer = s.recvfrom(4096); s.sendto(data, peer)
for port in (9000, 9001):
    threading.Thread(target=tcp, args=(socket.AF_INET, "0.0.0.0", port), daemon=True).start()
    threading.Thread(target=tcp, args=(socket.AF_INET6, "::", port), daemon=True).start()
for port in (443, 444):
    threading.Thread(target=udp, args=(port,), daemon=True).start()
threading.Event().wait()
"#;

async fn ip(words: &str) {
    let words: Vec<&str> = ["ip"].into_iter().chain(words.split(' ')).collect();
    tool_ok(&words).await;
}

/// Two namespaces with a cable between: `near`, where the rules are, and `far`. Both run the server.
struct Pair {
    near: String,
    far: String,
    servers: Vec<Child>,
    folder: Folder,
}

impl Pair {
    async fn new() -> Self {
        need_root();
        let id = format!(
            "{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let mut pair = Self {
            near: format!("reeve-near-{id}"),
            far: format!("reeve-far-{id}"),
            servers: Vec::new(),
            folder: Folder::new().with("client.py", include_str!("client.py")),
        };
        let (near, far) = (pair.near.clone(), pair.far.clone());
        ip(&format!("netns add {near}")).await;
        ip(&format!("netns add {far}")).await;
        ip(&format!(
            "-n {near} link add eth0 type veth peer name eth0 netns {far}"
        ))
        .await;
        for (name, host) in [(&near, "1"), (&far, "2")] {
            ip(&format!("-n {name} link set lo up")).await;
            ip(&format!("-n {name} link set eth0 up")).await;
            ip(&format!("-n {name} addr add 10.9.0.{host}/24 dev eth0")).await;
            ip(&format!(
                "-n {name} addr add fd09::{host}/64 dev eth0 nodad"
            ))
            .await;
            let server = Command::new("ip")
                .args(["netns", "exec", name, "python3", "-c", SERVER])
                .stdin(Stdio::null())
                .spawn();
            pair.servers.push(server.expect("a server"));
        }
        ip(&format!("-n {far} addr add 10.9.0.3/24 dev eth0")).await;
        for (from, to) in [(&near, "10.9.0.2"), (&far, "10.9.0.1")] {
            eventually("the servers serve", LIMIT, async || {
                let served = pair.call(from, &[], "echo", to, "9000").await;
                served.then_some(()).ok_or_else(|| "no answer".to_owned())
            })
            .await;
        }
        pair
    }

    /// Whether a call from a namespace, by a command such as setpriv, is answered.
    async fn call(&self, from: &str, by: &[&str], kind: &str, to: &str, port: &str) -> bool {
        let script = self.folder.path().join("client.py").display().to_string();
        let words = [
            &["netns", "exec", from],
            by,
            &["python3", &script, kind, to, port],
        ]
        .concat();
        let outcome = run(Path::new("ip"), &words, &[], CALL_LIMIT * 2).await;
        outcome.code == Some(0) && !outcome.stdout.trim().is_empty()
    }

    async fn out(&self, to: &str, port: &str) -> bool {
        self.call(&self.near, &[], "echo", to, port).await
    }

    async fn inward(&self, to: &str, port: &str) -> bool {
        self.call(&self.far, &[], "echo", to, port).await
    }

    async fn reeve(&self, words: &[&str]) -> Outcome {
        let reeve = binary("reeve").display().to_string();
        let all = [&["netns", "exec", &self.near, &reeve, "intercept"], words].concat();
        run(Path::new("ip"), &all, &[], LIMIT).await
    }

    async fn up(&self, words: &[&str]) {
        let outcome = self.reeve(&[&["up"], words].concat()).await;
        assert_eq!(outcome.code, Some(0), "{words:?}: {}", outcome.text());
    }

    async fn ruleset(&self) -> String {
        tool_ok(&["ip", "netns", "exec", &self.near, "nft", "list", "ruleset"])
            .await
            .stdout
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        for server in &mut self.servers {
            drop(server.kill());
            drop(server.wait());
        }
        for name in [&self.near, &self.far] {
            drop(Command::new("ip").args(["netns", "del", name]).status());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn putting_rules_twice_is_putting_them_once_and_taking_them_away_leaves_what_others_made() {
    let pair = Pair::new().await;
    let table = "add table inet others; add chain inet others theirs";
    tool_ok(&["ip", "netns", "exec", &pair.near, "nft", table]).await;
    let before = pair.ruleset().await;
    assert_eq!(
        pair.reeve(&["show"]).await.code,
        Some(1),
        "nothing is there yet"
    );
    pair.up(&[]).await;
    let once = pair.ruleset().await;
    pair.up(&[]).await;
    assert_eq!(pair.ruleset().await, once);
    let shown = pair.reeve(&["show", "-o", "json"]).await.json();
    assert_eq!(
        (&shown["installed"], &shown["mode"]),
        (&true.into(), &"redirect".into()),
        "{shown}"
    );
    pair.up(&["--mode", "tproxy"]).await;
    let shown = pair.reeve(&["show", "-o", "json"]).await.json();
    assert_eq!(shown["mode"], "tproxy", "{shown}");
    for _ in 0..2 {
        let down = pair.reeve(&["down"]).await;
        assert_eq!(down.code, Some(0), "{}", down.text());
    }
    assert_eq!(pair.ruleset().await, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_captured_needs_the_proxy_and_what_is_excluded_does_not() {
    let pair = Pair::new().await;
    for mode in ["redirect", "tproxy"] {
        pair.up(&["--mode", mode]).await;
        for (near, far) in [("10.9.0.1", "10.9.0.2"), ("fd09::1", "fd09::2")] {
            assert!(
                !pair.out(far, "9000").await,
                "{mode}: {far} is reached around the proxy"
            );
            assert!(
                !pair.inward(near, "9000").await,
                "{mode}: {near} is reached around the proxy"
            );
        }
        pair.up(&[
            "--mode",
            mode,
            "--exclude-inbound-port",
            "9001",
            "--exclude-outbound-port",
            "9001",
            "--exclude-outbound-range",
            "10.9.0.3",
        ])
        .await;
        for (near, far) in [("10.9.0.1", "10.9.0.2"), ("fd09::1", "fd09::2")] {
            assert!(
                pair.out(far, "9001").await && pair.inward(near, "9001").await,
                "{mode}: an excluded port"
            );
            assert!(
                !pair.out(far, "9000").await && !pair.inward(near, "9000").await,
                "{mode}: {far}"
            );
        }
        assert!(
            pair.out("10.9.0.3", "9000").await,
            "{mode}: an excluded range"
        );
        pair.up(&[
            "--mode",
            mode,
            "--include-inbound-port",
            "9001",
            "--include-outbound-port",
            "9001",
            "--include-outbound-range",
            "10.9.0.2/32",
        ])
        .await;
        assert!(
            pair.out("10.9.0.2", "9000").await && pair.inward("10.9.0.1", "9000").await,
            "{mode}: not included"
        );
        assert!(
            !pair.out("10.9.0.2", "9001").await && !pair.inward("10.9.0.1", "9001").await,
            "{mode}: included"
        );
        assert!(
            pair.out("10.9.0.3", "9001").await,
            "{mode}: a range that is not included"
        );
    }
    assert_eq!(pair.reeve(&["down"]).await.code, Some(0));
    assert!(
        pair.out("10.9.0.2", "9000").await && pair.inward("10.9.0.1", "9000").await,
        "after the end"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_proxys_user_is_let_past_and_quic_is_refused() {
    let pair = Pair::new().await;
    pair.up(&["--proxy-uid", "1337"]).await;
    let user = async |uid: &str| {
        let talk = "exec 3<>/dev/tcp/10.9.0.2/9000 && echo across >&3 && head -c 6 <&3";
        let by = [
            "setpriv",
            "--reuid",
            uid,
            "--clear-groups",
            "bash",
            "-c",
            talk,
        ];
        let words = [&["netns", "exec", &pair.near][..], &by].concat();
        run(Path::new("ip"), &words, &[], LIMIT).await
    };
    let own = user("1337").await;
    assert_eq!(own.stdout, "across", "the proxy's: {}", own.text());
    assert_eq!(user("1338").await.stdout, "", "another's");
    assert!(
        !pair.call(&pair.near, &[], "udp", "10.9.0.2", "443").await,
        "QUIC"
    );
    assert!(
        pair.call(&pair.near, &[], "udp", "10.9.0.2", "444").await,
        "other datagrams"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_privilege_it_is_said_what_is_missing() {
    let pair = Pair::new().await;
    let reeve = binary("reeve").display().to_string();
    let words = [
        "netns",
        "exec",
        &pair.near,
        "setpriv",
        "--reuid",
        "65534",
        "--clear-groups",
        "--",
        &reeve,
        "intercept",
        "up",
    ];
    let outcome = run(Path::new("ip"), &words, &[], LIMIT).await;
    assert_eq!(outcome.code, Some(2), "{}", outcome.text());
    assert!(
        outcome.stderr.contains("CAP_NET_ADMIN"),
        "{}",
        outcome.text()
    );
}
