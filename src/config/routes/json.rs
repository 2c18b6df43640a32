//! Routes as JSON, in the shape of the file.

use http::{HeaderName, HeaderValue};
use serde_json::{Map, Value, json};

use super::{
    FixedResponse, Forward, HeaderChanges, PathChange, PathMatch, Redirect, RouteAction, RouteConfig,
    RouteMatch, RoutingConfig, UpstreamHost, ValueMatch,
};
use crate::path::EscapedSlashes;

impl RoutingConfig {
    pub(in crate::config) fn to_json(self) -> Value {
        let slashes = match self.escaped_slashes {
            EscapedSlashes::Refuse => "refuse",
            EscapedSlashes::Pass => "pass",
        };
        json!({ "escaped_slashes": slashes })
    }
}

impl RouteConfig {
    pub(in crate::config) fn to_json(&self) -> Value {
        let mut json = json!({
            "name": self.name,
            "hosts": self.hosts.iter().map(ToString::to_string).collect::<Value>(),
            "matches": self.matches.iter().map(route_match).collect::<Value>(),
            "response_headers": header_changes(&self.response_headers),
        });
        match &self.action {
            RouteAction::Forward(forward) => add_forward(&mut json, forward),
            RouteAction::Redirect(to) => json["redirect"] = redirect(to),
            RouteAction::Respond(response) => json["respond"] = respond(response),
        }
        json
    }
}

fn route_match(one: &RouteMatch) -> Value {
    let headers = one
        .headers
        .iter()
        .map(|header| (header.name.as_str(), &header.value));
    let query = one
        .query
        .iter()
        .map(|parameter| (parameter.name.as_str(), &parameter.value));
    let mut json = json!({
        "methods": one.methods.iter().map(|method| method.as_str()).collect::<Value>(),
        "headers": conditions(headers),
        "query": conditions(query),
    });
    match &one.path {
        PathMatch::Exact(path) => json["path"] = path.as_str().into(),
        PathMatch::Prefix(path) => json["path_prefix"] = path.as_str().into(),
        PathMatch::Regex(pattern) => json["path_regex"] = pattern.as_str().into(),
    }
    json
}

fn conditions<'c>(conditions: impl Iterator<Item = (&'c str, &'c ValueMatch)>) -> Value {
    let value = |value: &ValueMatch| match value {
        ValueMatch::Present => json!({ "present": true }),
        ValueMatch::Exact(text) => text.as_str().into(),
        ValueMatch::Regex(pattern) => json!({ "regex": pattern.as_str() }),
    };
    conditions
        .map(|(name, condition)| (name.to_owned(), value(condition)))
        .collect::<Map<_, _>>()
        .into()
}

fn add_forward(json: &mut Value, forward: &Forward) {
    json["upstream"] = forward.upstream.as_str().into();
    json["request_headers"] = header_changes(&forward.headers);
    let mut rewrite = Map::new();
    add_path_change(&mut rewrite, forward.path.as_ref());
    match &forward.host {
        UpstreamHost::Preserved => {}
        UpstreamHost::Target => json["preserve_host"] = false.into(),
        UpstreamHost::Fixed(host) => {
            rewrite.insert("host".to_owned(), shown(host));
        }
    }
    if !rewrite.is_empty() {
        json["rewrite"] = rewrite.into();
    }
}

fn add_path_change(json: &mut Map<String, Value>, change: Option<&PathChange>) {
    let mut put = |key: &str, text: &str| json.insert(key.to_owned(), text.into());
    match change {
        None => {}
        Some(PathChange::Prefix(prefix)) => {
            put("prefix", if prefix.is_empty() { "/" } else { prefix });
        }
        Some(PathChange::Full(path)) => {
            put("path", path);
        }
        Some(PathChange::Regex(pattern, replacement)) => {
            put("regex", pattern.as_str());
            put("replacement", replacement.as_str());
        }
    }
}

fn redirect(redirect: &Redirect) -> Value {
    let mut json = Map::new();
    json.insert("status".to_owned(), redirect.status.as_u16().into());
    json.insert(
        "scheme".to_owned(),
        redirect.scheme.map(|scheme| scheme.as_str()).into(),
    );
    json.insert("host".to_owned(), redirect.host.as_deref().into());
    json.insert("port".to_owned(), redirect.port.into());
    add_path_change(&mut json, redirect.path.as_ref());
    json.into()
}

fn respond(response: &FixedResponse) -> Value {
    json!({
        "status": response.status.as_u16(),
        "body": response.body,
        "content_type": shown(&response.content_type),
    })
}

fn header_changes(changes: &HeaderChanges) -> Value {
    let set = changes
        .set
        .iter()
        .map(|(name, value)| (name.to_string(), shown(value)));
    let mut add = Map::new();
    for (name, value) in &changes.add {
        let lines = add.entry(name.as_str()).or_insert_with(|| json!([]));
        lines
            .as_array_mut()
            .into_iter()
            .for_each(|lines| lines.push(shown(value)));
    }
    json!({
        "set": set.collect::<Map<_, _>>(),
        "add": add,
        "remove": changes.remove.iter().map(HeaderName::as_str).collect::<Value>(),
    })
}

/// Configured values are visible ASCII.
fn shown(value: &HeaderValue) -> Value {
    value.to_str().unwrap_or_default().into()
}
