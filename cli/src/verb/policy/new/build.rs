//! The policy and the cases of each intent.

use jiff::Timestamp;
use reeve_core::decision::Action;
use serde_json::{Value, json};

use super::{
    draft::{Case, Draft},
    given::{Caller, Given, Role, quoted, wrong},
    parts::{
        Path, actions, claim_condition, http, label, members, merge_path, policy, principals,
        request, stranger, stranger_from, token_twins, unauthenticated, unlisted, user,
    },
};
use crate::problem::Problem;

pub(super) fn allow_callers(given: &Given<'_>) -> Result<Draft, Problem> {
    let target = given.service(given.text("service"))?;
    let callers = given.callers("callers", &target.namespace)?;
    let methods = given.methods(&target)?;
    let connect = methods.contains(&Action::Connect);
    if connect && methods.len() > 1 {
        return Err(wrong(
            "connect stands alone: TCP and HTTP need a policy each",
        ));
    }
    let path = given.value("path").map(Path::parse).transpose()?;
    if connect && path.is_some() {
        return Err(wrong("a TCP connection has no path"));
    }
    let (principal, among) = principals(&callers, &wrong("callers names nobody"))?;
    let mut conditions = among;
    conditions.extend(path.as_ref().map(Path::condition));
    let action = actions(&methods);
    let about = format!("{} may call {}", given.text("callers"), target.name);
    let first = methods.first().copied().unwrap_or(Action::Get);
    let mut twins = vec![
        json!({"principal": stranger(given, &target)?}),
        unauthenticated(),
    ];
    let other = if connect {
        Action::Get
    } else {
        unlisted(&methods)
    };
    twins.push(json!({"action": other}));
    let elsewhere = path.as_ref().and_then(Path::elsewhere);
    twins.extend(elsewhere.map(|path| json!({"context": {"http": {"path": path}}})));
    let case = |(number, caller): (usize, &Caller)| Case {
        name: format!("{} may", caller.shown),
        change: json!({"principal": caller.sample}),
        allowed: true,
        twins: if number == 0 {
            twins.clone()
        } else {
            Vec::new()
        },
    };
    let mut request = request(&target, first);
    if let Some(path) = &path {
        merge_path(&mut request, &path.inside());
    }
    Ok(Draft {
        name: format!("allow-callers-{}", target.name),
        cedar: policy(
            "permit",
            &about,
            &principal,
            &action,
            &target.scope,
            &conditions,
            &[],
        )?,
        on_open_ground: false,
        cases: callers.iter().enumerate().map(case).collect(),
        namespace: target.namespace,
        request,
    })
}

pub(super) fn allow_grpc(given: &Given<'_>) -> Result<Draft, Problem> {
    let target = http(given.service(given.text("service"))?)?;
    let callers = given.callers("callers", &target.namespace)?;
    let (principal, mut conditions) = principals(&callers, &wrong("callers names nobody"))?;
    let methods: Vec<(&str, Option<&str>)> = given
        .list("methods")
        .into_iter()
        .map(|name| match name.trim_start_matches('/').split_once('/') {
            Some((service, method)) => (service, Some(method)),
            None => (name.trim_start_matches('/'), None),
        })
        .collect();
    let Some((service, method)) = methods.first().copied() else {
        return Err(wrong("methods names none"));
    };
    let each = methods.iter().map(|(service, method)| {
        let service = quoted(service)?;
        Ok(match method {
            Some(method) => format!(
                "context.grpc == {{service: {service}, method: {}}}",
                quoted(method)?
            ),
            None => format!("context.grpc.service == {service}"),
        })
    });
    let each: Vec<String> = each.collect::<Result<_, Problem>>()?;
    let any = match each.as_slice() {
        [one] => one.clone(),
        several => format!("({})", several.join(" || ")),
    };
    conditions.push(format!("context has grpc && {any}"));
    let caller = callers.first().map(|c| c.sample.clone());
    let mut request = request(&target, Action::Post);
    let sample = json!({"service": service, "method": method.unwrap_or("Get")});
    if let Some(http) = request
        .pointer_mut("/context/http")
        .and_then(Value::as_object_mut)
    {
        http.insert("grpc".to_owned(), sample);
    }
    let about = format!("{} may call {} by gRPC", given.text("callers"), target.name);
    Ok(Draft {
        name: format!("allow-grpc-{}", target.name),
        cedar: policy(
            "permit",
            &about,
            &principal,
            "action == Action::\"POST\"",
            &target.scope,
            &conditions,
            &[],
        )?,
        on_open_ground: false,
        cases: vec![Case {
            name: "a caller may".to_owned(),
            change: json!({"principal": caller}),
            allowed: true,
            twins: vec![
                json!({"context": {"http": {"grpc": {"service": "other.Service"}}}}),
                json!({"context": {"http": {"grpc": null}}}),
                json!({"principal": stranger(given, &target)?}),
            ],
        }],
        namespace: target.namespace,
        request,
    })
}

pub(super) fn only_role_may_write(given: &Given<'_>) -> Result<Draft, Problem> {
    let target = http(given.target()?)?;
    let Role {
        claim,
        issuer,
        value: role,
        condition: unless,
    } = given.role()?;
    let about = format!("only {role} may write to {}", target.name);
    let user = user(&issuer, &claim, &role);
    Ok(Draft {
        name: format!("only-{}-may-write-{}", label(&role), target.name),
        cedar: policy(
            "forbid",
            &about,
            "principal",
            "action in Action::\"write\"",
            &target.scope,
            &[],
            &[unless],
        )?,
        on_open_ground: true,
        request: request(&target, Action::Post),
        cases: vec![
            Case {
                name: format!("{role} writes"),
                change: json!({"user": user}),
                allowed: true,
                twins: token_twins(&claim, "visitor"),
            },
            Case {
                name: "anybody reads".to_owned(),
                change: json!({"action": "GET"}),
                allowed: true,
                twins: Vec::new(),
            },
        ],
        namespace: target.namespace,
    })
}

pub(super) fn require_scope(given: &Given<'_>) -> Result<Draft, Problem> {
    let target = http(given.target()?)?;
    let scope = given.text("scope");
    let about = format!("{} is for tokens with scope {scope}", target.name);
    let unless = claim_condition(given.text("issuer"), "scope", scope)?;
    Ok(Draft {
        name: format!("require-scope-{}", target.name),
        cedar: policy(
            "forbid",
            &about,
            "principal",
            "action in Action::\"http\"",
            &target.scope,
            &[],
            &[unless],
        )?,
        on_open_ground: true,
        request: request(&target, Action::Get),
        cases: vec![Case {
            name: format!("a token with scope {scope} is let in"),
            change: json!({"user": user(given.text("issuer"), "scope", scope)}),
            allowed: true,
            twins: token_twins("scope", "other"),
        }],
        namespace: target.namespace,
    })
}

pub(super) fn block_path(given: &Given<'_>) -> Result<Draft, Problem> {
    let target = http(given.target()?)?;
    let path = given.text("path");
    let path = path
        .strip_suffix("/*")
        .unwrap_or(path)
        .trim_end_matches('/');
    if !path.starts_with('/') || path.contains('*') {
        return Err(wrong(format!("path: {} is no path", given.text("path"))).fix("write /admin"));
    }
    let below = Path::parse(&format!("{path}/*"))?;
    let when = format!("context.path == {} || {}", quoted(path)?, below.condition());
    let except = given.callers("except", &target.namespace)?;
    let unless: Vec<String> = members(&except).into_iter().collect();
    let about = format!("nobody asks {} for {path}", target.name);
    let mut blocked = request(&target, Action::Get);
    merge_path(&mut blocked, path);
    let exceptions = except.iter().map(|caller| Case {
        name: format!("{} may ask for {path}", caller.shown),
        change: json!({"principal": caller.sample}),
        allowed: true,
        twins: Vec::new(),
    });
    let mut cases = vec![
        Case {
            name: format!("{path} is blocked"),
            change: json!({"principal": stranger(given, &target)?}),
            allowed: false,
            twins: vec![json!({"context": {"http": {"path": format!("{path}istrators")}}})],
        },
        Case {
            name: "and so is what lies below".to_owned(),
            change: json!({"principal": stranger(given, &target)?, "context": {"http": {"path": below.inside()}}}),
            allowed: false,
            twins: Vec::new(),
        },
    ];
    cases.extend(exceptions);
    Ok(Draft {
        name: format!("block-{}-{}", label(path), target.name),
        cedar: policy(
            "forbid",
            &about,
            "principal",
            "action in Action::\"http\"",
            &target.scope,
            &[when],
            &unless,
        )?,
        on_open_ground: true,
        request: blocked,
        cases,
        namespace: target.namespace,
    })
}

pub(super) fn business_hours(given: &Given<'_>) -> Result<Draft, Problem> {
    let target = given.target()?;
    let (from, to) = (given.time_of_day("from")?, given.time_of_day("to")?);
    let offset = given.utc_offset()?;
    if from % (24 * 60) == to % (24 * 60) {
        return Err(wrong("from and to leave nothing out"));
    }
    let clock = match offset {
        0 => "context.time.toTime()".to_owned(),
        minutes => format!(
            "context.time.offset(duration({:?})).toTime()",
            format!("{minutes}m")
        ),
    };
    let join = if from < to { "&&" } else { "||" };
    let open = format!("{clock} >= duration(\"{from}m\") {join} {clock} < duration(\"{to}m\")");
    // 4 January 2027, a Monday, by the clock that is meant.
    let at = |minute: u16| {
        let midnight: Timestamp = "2027-01-05T00:00:00Z".parse().unwrap_or_default();
        let minute = i64::from(minute) - i64::from(offset);
        json!({"context": {"time": midnight.as_millisecond() + minute * 60_000}})
    };
    let about = format!(
        "{} is open from {} to {}",
        target.name,
        given.text("from"),
        given.text("to")
    );
    Ok(Draft {
        name: format!("business-hours-{}", target.name),
        cedar: policy(
            "forbid",
            &about,
            "principal",
            "action",
            &target.scope,
            &[],
            &[open],
        )?,
        on_open_ground: true,
        request: request(&target, target.action()),
        cases: vec![Case {
            name: "in the first minute it is open".to_owned(),
            change: at(from),
            allowed: true,
            twins: vec![at((from + 24 * 60 - 1) % (24 * 60)), at(to % (24 * 60))],
        }],
        namespace: target.namespace,
    })
}

pub(super) fn isolate_namespace(given: &Given<'_>) -> Result<Draft, Problem> {
    let target = given.target()?;
    let mut inside = given.callers("allow", &target.namespace)?;
    let own = Given {
        values: [("own", format!("namespace:{}", target.namespace))].into(),
        mesh: given.mesh,
        domain: given.domain.clone(),
        namespace: given.namespace.clone(),
    };
    inside.splice(0..0, own.callers("own", &target.namespace)?);
    let unless: Vec<String> = members(&inside).into_iter().collect();
    let about = format!("{} is reached from within only", target.namespace);
    let elsewhere = stranger_from(given, "elsewhere")?;
    let twins = vec![json!({"principal": elsewhere}), unauthenticated()];
    let case = |(number, caller): (usize, &Caller)| Case {
        name: format!("{} may come in", caller.shown),
        change: json!({"principal": caller.sample}),
        allowed: true,
        twins: if number == 0 {
            twins.clone()
        } else {
            Vec::new()
        },
    };
    Ok(Draft {
        name: format!("isolate-{}", target.namespace),
        cedar: policy(
            "forbid",
            &about,
            "principal",
            "action",
            &target.scope,
            &[],
            &unless,
        )?,
        on_open_ground: true,
        request: request(&target, Action::Get),
        cases: inside.iter().enumerate().map(case).collect(),
        namespace: target.namespace,
    })
}

pub(super) fn require_mtls(given: &Given<'_>) -> Result<Draft, Problem> {
    let target = given.target()?;
    let about = format!("{} is for callers with a mesh certificate", target.name);
    Ok(Draft {
        name: format!("require-mtls-{}", target.name),
        cedar: policy(
            "forbid",
            &about,
            "principal is Unauthenticated",
            "action",
            &target.scope,
            &[],
            &[],
        )?,
        on_open_ground: true,
        request: request(&target, target.action()),
        cases: vec![Case {
            name: "a workload of the mesh is let in".to_owned(),
            change: json!({"principal": stranger(given, &target)?}),
            allowed: true,
            twins: vec![unauthenticated()],
        }],
        namespace: target.namespace,
    })
}

pub(super) fn freeze(given: &Given<'_>) -> Result<Draft, Problem> {
    let target = http(given.target()?)?;
    let (until, end) = given.until()?;
    let about = format!("no changes to {} for now", target.name);
    let text = policy(
        "forbid",
        &about,
        "principal",
        "action in Action::\"write\"",
        &target.scope,
        &[],
        &[],
    )?;
    let at = |millis: i64| json!({"context": {"time": millis}});
    let end = end.as_millisecond();
    Ok(Draft {
        name: format!("freeze-{}", target.name),
        cedar: format!("@until({})\n{text}", quoted(&until)?),
        on_open_ground: true,
        request: request(&target, Action::Post),
        cases: vec![Case {
            name: "nothing is changed before the end".to_owned(),
            change: at(end - 1),
            allowed: false,
            twins: vec![at(end), json!({"action": "GET"})],
        }],
        namespace: target.namespace,
    })
}

pub(super) fn break_glass(given: &Given<'_>) -> Result<Draft, Problem> {
    let target = given.target()?;
    let callers = given.callers("callers", &target.namespace)?;
    let methods = given.methods(&target)?;
    let path = given.value("path").map(Path::parse).transpose()?;
    if path.is_some() && methods.contains(&Action::Connect) {
        return Err(wrong("a TCP connection has no path"));
    }
    let (principal, among) = principals(&callers, &wrong("callers names nobody"))?;
    let mut conditions = among;
    conditions.extend(path.as_ref().map(Path::condition));
    let about = format!(
        "in an emergency, {} may call {}",
        given.text("callers"),
        target.name
    );
    let first = methods.first().copied().unwrap_or(Action::Get);
    let mut request = request(&target, first);
    if let Some(path) = &path {
        merge_path(&mut request, &path.inside());
    }
    let caller = callers.first().map(|caller| caller.sample.clone());
    Ok(Draft {
        name: format!("break-glass-{}", target.name),
        cedar: policy(
            "permit",
            &about,
            &principal,
            &actions(&methods),
            &target.scope,
            &conditions,
            &[],
        )?,
        on_open_ground: false,
        cases: vec![Case {
            name: "who has the grant may".to_owned(),
            change: json!({"principal": caller}),
            allowed: true,
            twins: vec![
                json!({"principal": stranger(given, &target)?}),
                unauthenticated(),
            ],
        }],
        namespace: target.namespace,
        request,
    })
}
