//! How the question of a decision is written, for [`super::line`].

use reeve_core::{
    ServiceName,
    decision::{
        AccessRequest, GrpcMethod, HttpContext, Principal, RequestContext, ResourceRef, User,
    },
};

use super::text::{Text, Written};

pub(super) fn question(to: &mut Text<'_>, request: &AccessRequest) -> Written {
    let AccessRequest {
        action,
        context,
        principal,
        resource,
        user,
    } = request;
    to.raw("{\"action\":\"");
    to.raw(action.as_str());
    to.raw("\",\"context\":");
    circumstances(to, context)?;
    match principal {
        Principal::Workload(id) => {
            to.raw(",\"principal\":{\"workload\":");
            to.text(id.as_str())?;
            to.raw("}");
        }
        Principal::Unauthenticated => to.raw(",\"principal\":\"unauthenticated\""),
    }
    to.raw(",\"resource\":");
    asked_for(to, resource)?;
    if let Some(user) = user {
        to.raw(",\"user\":");
        claims(to, user)?;
    }
    to.raw("}");
    Ok(())
}

fn circumstances(to: &mut Text<'_>, context: &RequestContext) -> Written {
    let RequestContext {
        destination_ip,
        http: over_http,
        mtls,
        port,
        remote_ip,
        sni,
        source_ip,
        time,
    } = context;
    to.raw("{");
    if let Some(address) = destination_ip {
        to.raw("\"destination_ip\":");
        to.address(*address)?;
        to.raw(",");
    }
    if let Some(over_http) = over_http {
        to.raw("\"http\":");
        http(to, over_http)?;
        to.raw(",");
    }
    to.raw("\"mtls\":");
    to.flag(*mtls);
    to.raw(",\"port\":");
    to.number(*port)?;
    if let Some(address) = remote_ip {
        to.raw(",\"remote_ip\":");
        to.address(*address)?;
    }
    to.optional(",\"sni\":", sni.as_deref())?;
    to.raw(",\"source_ip\":");
    to.address(*source_ip)?;
    to.raw(",\"time\":");
    to.number(time.as_millis())?;
    to.raw("}");
    Ok(())
}

fn http(to: &mut Text<'_>, context: &HttpContext) -> Written {
    let HttpContext {
        grpc,
        headers,
        host,
        method,
        path,
        query,
    } = context;
    to.raw("{");
    if let Some(GrpcMethod { service, method }) = grpc {
        to.raw("\"grpc\":{\"method\":");
        to.text(method)?;
        to.raw(",\"service\":");
        to.text(service)?;
        to.raw("},");
    }
    if !headers.is_empty() {
        to.raw("\"headers\":");
        to.lists(headers)?;
        to.raw(",");
    }
    to.raw("\"host\":");
    to.text(host)?;
    to.raw(",\"method\":");
    to.text(method)?;
    to.raw(",\"path\":");
    to.text(path)?;
    if !query.is_empty() {
        to.raw(",\"query\":");
        to.lists(query)?;
    }
    to.raw("}");
    Ok(())
}

fn asked_for(to: &mut Text<'_>, resource: &ResourceRef) -> Written {
    let ResourceRef {
        address,
        namespace,
        services,
        workload,
    } = resource;
    to.raw("{");
    if let Some(address) = address {
        to.raw("\"address\":");
        to.value(address)?;
        to.raw(",");
    }
    to.raw("\"namespace\":");
    to.text(namespace.as_str())?;
    to.raw(",\"services\":");
    to.texts(services.iter().map(ServiceName::as_str))?;
    let workload = workload.as_ref().map(|id| id.as_str());
    to.optional(",\"workload\":", workload)?;
    to.raw("}");
    Ok(())
}

fn claims(to: &mut Text<'_>, user: &User) -> Written {
    let User {
        claims,
        expires_at,
        issuer,
        subject,
    } = user;
    to.raw("{\"claims\":");
    to.lists(claims)?;
    to.raw(",\"expires_at\":");
    match expires_at {
        Some(time) => to.number(time.as_millis())?,
        None => to.raw("null"),
    }
    to.raw(",\"issuer\":");
    to.text(issuer)?;
    to.raw(",\"subject\":");
    to.text(subject)?;
    to.raw("}");
    Ok(())
}
