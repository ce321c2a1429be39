//! PostgreSQL, whose clients negotiate TLS in a way of their own, and MariaDB, whose server speaks first.

use std::net::SocketAddr;

use reeve_tests::{Mesh, Outcome, Scratch, eventually, run, test_tools};

use super::{LIMIT, Talk, folder, kill_sidecar, server, test_tool, told_of};
use crate::edge::authority::Authority;

const POSTGRES: u16 = 5432;
const MARIA: u16 = 3306;
const USERS: &str = "CREATE DATABASE IF NOT EXISTS shop;\n\
    CREATE USER IF NOT EXISTS 'shop'@'%' IDENTIFIED BY 'books';\n\
    GRANT ALL ON shop.* TO 'shop'@'%';\n";

/// A cluster of PostgreSQL with a certificate of its own, and the command that runs it.
async fn postgres(files: &Scratch, authority: &Authority) -> String {
    let shown = authority.issue(&["postgres"]);
    files.write("server.crt", &shown.chain, 0o600);
    files.write("server.key", &shown.key, 0o600);
    files.write("ca.crt", &authority.pem(), 0o644);
    let data = files.path().join("data").display().to_string();
    let initdb = test_tool("initdb").display().to_string();
    let words = [
        &initdb,
        "-D",
        &data,
        "-U",
        "shop",
        "--auth=trust",
        "--locale=C",
        "-E",
        "UTF8",
        "--no-sync",
    ];
    as_user(&words).await;
    // Who comes in over loopback addresses is known to the mesh.
    let rules = "host all shop 127.0.0.0/8 trust\n";
    files.write("data/pg_hba.conf", rules, 0o600);
    let settings = [
        "jit=off",
        "fsync=off",
        "timezone=GMT",
        "log_timezone=GMT",
        "log_connections=on",
        "ssl=on",
        "ssl_cert_file=../server.crt",
        "ssl_key_file=../server.key",
    ];
    let settings: String = settings.iter().map(|s| format!(" -c {s}")).collect();
    let program = test_tool("postgres").display().to_string();
    format!("exec {program} -D {data} -h $HOST -p $PORT -k ''{settings}")
}

async fn maria(files: &Scratch) -> String {
    let base = test_tool("mariadbd");
    let base = base
        .parent()
        .and_then(|bin| bin.parent())
        .expect("usr")
        .display()
        .to_string();
    files.write("users.sql", USERS, 0o644);
    let path = files.path().display().to_string();
    let install = test_tool("mariadb-install-db").display().to_string();
    let (base_dir, data_dir) = (
        format!("--basedir={base}"),
        format!("--datadir={path}/data"),
    );
    let words = [
        &install,
        "--no-defaults",
        &base_dir,
        "--srcdir=",
        &data_dir,
        "--force",
        "--skip-test-db",
        "--auth-root-authentication-method=normal",
    ];
    as_user(&words).await;
    format!(
        "exec {base}/sbin/mariadbd --no-defaults {base_dir} {data_dir} --bind-address=$HOST --port=$PORT \
         --socket={path}/s --pid-file={path}/pid --skip-name-resolve --init-file={path}/users.sql \
         --innodb-flush-log-at-trx-commit=0 --innodb-buffer-pool-size=16M"
    )
}

async fn as_user(words: &[&str]) {
    let mut all = reeve_tests::as_ordinary_user();
    all.extend(words.iter().map(|word| (*word).to_owned()));
    let args: Vec<&str> = all.iter().skip(1).map(String::as_str).collect();
    let outcome = run(all[0].as_ref(), &args, &[], LIMIT).await;
    assert_eq!(outcome.code, Some(0), "{words:?}: {}", outcome.text());
}

/// psql's words for a server at `to`.
fn session(to: SocketAddr, more: &str) -> String {
    format!(
        "host=postgres hostaddr={} port={} user=shop dbname=postgres connect_timeout=20 {more}",
        to.ip(),
        to.port()
    )
}

async fn psql(to: SocketAddr, more: &str, sql: &str) -> Outcome {
    let session = session(to, more);
    let args = [
        "-X",
        "-A",
        "-t",
        "-q",
        "-v",
        "ON_ERROR_STOP=1",
        "-d",
        &session,
        "-c",
        sql,
    ];
    run(&test_tool("psql"), &args, &[], LIMIT).await
}

async fn mariadb(to: SocketAddr, sql: &str) -> Outcome {
    let (host, port) = (
        format!("--host={}", to.ip()),
        format!("--port={}", to.port()),
    );
    let args = [
        "--no-defaults",
        &host,
        &port,
        "--user=shop",
        "--password=books",
        "-N",
        "-B",
        "shop",
        "-e",
        sql,
    ];
    run(&test_tool("mariadb"), &args, &[], LIMIT).await
}

fn said(outcome: &Outcome) -> &str {
    assert_eq!(outcome.code, Some(0), "{}", outcome.text());
    outcome.stdout.trim()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn databases_work_through_sidecars_and_only_for_those_who_may_connect() {
    test_tools();
    let authority = Authority::new("databases");
    let (files, other_files) = (Scratch::new("pg"), Scratch::new("maria"));
    let servers = [
        (
            postgres(&files, &authority).await,
            "postgres",
            POSTGRES,
            "tcp-postgres",
        ),
        // A port whose name says nothing: what is spoken on it must be found out.
        (maria(&other_files).await, "maria", MARIA, "data"),
    ];
    let servers = servers.map(|(script, name, port, port_name)| {
        (server(name, port, port_name, &script), port, port_name)
    });
    let mut mesh = Mesh::start(folder(&servers)).await;
    let to = |caller: &str, name: &str, port| mesh.outbound(caller, name, port);

    queries(to("client-0", "postgres", POSTGRES), &files).await;
    server_first(to("client-0", "maria", MARIA)).await;
    refused(&mesh).await;
    for name in ["postgres", "maria"] {
        told_of(&mesh, name).await;
    }
    sessions_outlive_restarts(&mesh, to("client-0", "postgres", POSTGRES)).await;
    mesh.verify_audit().await;
    mesh.stop().await;
}

/// Each of these opens a connection by asking for TLS, and goes on without or with it as the server answers.
async fn queries(to: SocketAddr, files: &Scratch) {
    let made = "create table books (id serial primary key, title text not null);";
    said(&psql(to, "sslmode=disable", made).await);
    let sql = "insert into books (title) values ('The Comedy of Errors'), ('Hamlet') returning id";
    assert_eq!(said(&psql(to, "sslmode=disable", sql).await), "1\n2");
    // The database's own TLS, inside the mesh's.
    let ca = files.path().join("ca.crt").display().to_string();
    let verified = format!("sslmode=verify-full sslrootcert={ca}");
    let sql = "select ssl, version from pg_stat_ssl where pid = pg_backend_pid()";
    assert_eq!(said(&psql(to, &verified, sql).await), "t|TLSv1.3");
    let sql = "select ssl from pg_stat_ssl where pid = pg_backend_pid()";
    assert_eq!(said(&psql(to, "sslmode=disable", sql).await), "f");
    // More than any buffer holds, both ways.
    let sql = "select length(string_agg(md5(n::text), '')) from generate_series(1, 200000) n";
    assert_eq!(said(&psql(to, "", sql).await), "6400000");
    let all = psql(
        to,
        "",
        "select md5(n::text) from generate_series(1, 100000) n",
    )
    .await;
    assert_eq!(said(&all).lines().count(), 100_000);
}

async fn server_first(to: SocketAddr) {
    let sql = "create table stock (book int primary key, count int) engine=innodb; \
               insert into stock values (1, 12), (2, 7); select sum(count) from stock";
    assert_eq!(said(&mariadb(to, sql).await), "19");
    let sql = "start transaction; update stock set count = count - 1 where book = 1; commit; \
               select count from stock where book = 1";
    assert_eq!(said(&mariadb(to, sql).await), "11");
}

/// Without a permit there is no connection: the database has never heard of it.
async fn refused(mesh: &Mesh) {
    let before = mesh
        .log("postgres-0.app.log")
        .matches("connection authorized")
        .count();
    let to = mesh.outbound("other-0", "postgres", POSTGRES);
    let outcome = psql(to, "sslmode=disable", "select 1").await;
    assert_eq!(outcome.code, Some(2), "{}", outcome.text());
    let outcome = mariadb(mesh.outbound("other-0", "maria", MARIA), "select 1").await;
    assert_eq!(outcome.code, Some(1), "{}", outcome.text());
    let after = mesh
        .log("postgres-0.app.log")
        .matches("connection authorized")
        .count();
    assert!(before > 0 && after == before, "{before}, then {after}");
}

/// A session goes on while its sidecars are replaced; when one is killed it ends, and the next one works. Without its permit
/// it ends, too.
async fn sessions_outlive_restarts(mesh: &Mesh, to: SocketAddr) {
    let words = session(to, "sslmode=disable");
    let args = ["-X", "-A", "-t", "-q", "-d", &words];
    let mut open = Talk::start(&test_tool("psql"), &args);
    assert_eq!(open.answer("select 1;").await.as_deref(), Some("1"));
    for workload in ["client", "postgres"] {
        mesh.reeve_ok(&["proxy", "restart", workload]).await;
        assert_eq!(
            open.answer("select 2;").await.as_deref(),
            Some("2"),
            "{workload}"
        );
        assert_eq!(said(&psql(to, "", "select 3").await), "3", "{workload}");
    }
    // Both old processes still carry it; the server's application sees one session all the while.
    assert_eq!(open.answer("select 4;").await.as_deref(), Some("4"));
    assert_eq!(open.end().await, Some(0));

    let mut open = Talk::start(&test_tool("psql"), &args);
    assert_eq!(open.answer("select 1;").await.as_deref(), Some("1"));
    kill_sidecar(mesh, "postgres-0").await;
    assert_eq!(
        open.answer("select 2;").await,
        None,
        "psql has lost its server"
    );
    assert_eq!(open.end().await, Some(2));
    eventually("the next session works", LIMIT, async || {
        let outcome = psql(to, "", "select 3").await;
        (outcome.stdout.trim() == "3")
            .then_some(())
            .ok_or_else(|| outcome.text())
    })
    .await;

    let mut open = Talk::start(&test_tool("psql"), &args);
    assert_eq!(open.answer("select 1;").await.as_deref(), Some("1"));
    mesh.withdraw("access.yaml").await;
    lost(open).await;
}

/// psql has lost its server.
async fn lost(mut open: Talk) {
    assert_eq!(open.answer("select 2;").await, None);
    assert_eq!(open.end().await, Some(2));
}
