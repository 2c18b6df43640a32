//! `/v1/check`: the same questions over plain HTTP, for nginx's `auth_request` and for programs. The reading is pure.
//!
//! What a client can write stands in `X-Weir-Key` or in the body, never beside the parameters of the query: a value with
//! `&hits=0` in it must not become a parameter, and a header that a client sends must not change what is asked.

use http::{HeaderMap, Response, StatusCode};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tonic::body::Body;

use super::answer::Answer;
use super::grpc::outcome;
use super::judge::Judge;
use super::metrics::{Api, Outcome};
use super::question::{Asked, Unanswerable};
use super::server::json;
use crate::limit::Period;

/// Carries the key of a question by query.
const X_WEIR_KEY: &str = "x-weir-key";

/// One question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckRequest {
    about: About,
    hits: Option<u64>,
    denied_status: StatusCode,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum About {
    Rule { name: String, key: Option<Vec<u8>> },
    Descriptors { domain: String, asked: Vec<Asked> },
}

/// Why a question cannot be read, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Malformed {
    /// A parameter that does not exist.
    #[error("unknown parameter `{0}`: there are rule, key, hits, domain, entry and denied_status")]
    Unknown(String),
    /// A parameter that is given twice.
    #[error("the parameter `{0}` is given twice")]
    Twice(&'static str),
    /// Neither a rule nor a domain, or both.
    #[error("give either `rule` or `domain`")]
    Which,
    /// A domain without entries.
    #[error(
        "give the descriptor's entries, as `entry=KEY:VALUE`, or `entry=KEY` with the value in `X-Weir-Key`"
    )]
    NoEntries,
    /// Entries without a value, and no header, or several.
    #[error("`X-Weir-Key` has to be given once, in UTF-8, for `entry={0}`")]
    NoValue(String),
    /// What is no number.
    #[error("`hits` is a whole number")]
    Hits,
    /// What is no status of a denial.
    #[error("`denied_status` is a number from 400 to 499")]
    DeniedStatus,
    /// A body that cannot be read.
    #[error(
        "{0}: expected {{\"rule\":NAME,\"key\":KEY}} or {{\"domain\":NAME,\"descriptors\":[{{\"entries\":[{{\"key\":KEY,\"value\":VALUE}}]}}]}}"
    )]
    Json(String),
}

impl CheckRequest {
    /// Reads a question from the query of a GET and its headers.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn from_query(query: &str, headers: &HeaderMap) -> Result<Self, Malformed> {
        let mut rule = None;
        let mut key = None;
        let mut hits = None;
        let mut domain = None;
        let mut denied_status = None;
        let mut entries = Vec::new();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let (slot, name): (&mut Option<String>, &'static str) = match name.as_ref() {
                "rule" => (&mut rule, "rule"),
                "key" => (&mut key, "key"),
                "hits" => (&mut hits, "hits"),
                "domain" => (&mut domain, "domain"),
                "denied_status" => (&mut denied_status, "denied_status"),
                "entry" => {
                    entries.push(value.into_owned());
                    continue;
                }
                other => return Err(Malformed::Unknown(other.chars().take(64).collect())),
            };
            if slot.replace(value.into_owned()).is_some() {
                return Err(Malformed::Twice(name));
            }
        }
        let hits = hits
            .map(|text| text.parse().map_err(|_| Malformed::Hits))
            .transpose()?;
        let denied_status =
            denied_status.map(|text| text.parse::<u16>().map_err(|_| Malformed::DeniedStatus));
        let about = match (rule, domain) {
            (Some(name), None) if entries.is_empty() => {
                let header = || sole(headers).map(<[u8]>::to_vec);
                let key = key.map(String::into_bytes).or_else(header);
                About::Rule { name, key }
            }
            (None, Some(domain)) if key.is_none() => {
                let entries = entries.into_iter().map(|text| entry(text, headers));
                let entries = entries.collect::<Result<Vec<_>, _>>()?;
                if entries.is_empty() {
                    return Err(Malformed::NoEntries);
                }
                let hits = hits.unwrap_or(1);
                let asked = vec![Asked { entries, hits }];
                About::Descriptors { domain, asked }
            }
            _ => return Err(Malformed::Which),
        };
        Ok(Self {
            about,
            hits,
            denied_status: status(denied_status.transpose()?)?,
        })
    }

    /// Reads a question from the body of a POST.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn from_json(body: &[u8]) -> Result<Self, Malformed> {
        let question: Question =
            serde_json::from_slice(body).map_err(|error| Malformed::Json(error.to_string()))?;
        let hits = question.hits;
        let about = match (question.rule, question.domain) {
            (Some(name), None) if question.descriptors.is_empty() => About::Rule {
                name,
                key: question.key.map(String::into_bytes),
            },
            (None, Some(domain)) if question.key.is_none() => {
                let asked = |one: Descriptor| Asked {
                    hits: one.hits.or(hits).unwrap_or(1),
                    entries: one
                        .entries
                        .into_iter()
                        .map(|entry| (entry.key, entry.value))
                        .collect(),
                };
                let asked = question.descriptors.into_iter().map(asked).collect();
                About::Descriptors { domain, asked }
            }
            _ => return Err(Malformed::Which),
        };
        Ok(Self {
            about,
            hits,
            denied_status: status(question.denied_status)?,
        })
    }

    /// Decides it.
    pub(super) async fn answer(&self, judge: &Judge) -> Response<Body> {
        let answer = match &self.about {
            About::Rule { name, key } => judge.ask_rule(name, key.as_deref(), self.hits).await,
            About::Descriptors { domain, asked } => judge.ask(domain, asked).await,
        };
        match answer {
            Ok(answer) => {
                judge.metrics().asked(Api::Check, outcome(&answer));
                self.respond(&answer)
            }
            Err(why) => {
                judge.metrics().asked(Api::Check, Outcome::Malformed);
                let status = match why {
                    Unanswerable::NoRule(_) => StatusCode::NOT_FOUND,
                    _ => StatusCode::BAD_REQUEST,
                };
                refuse(status, &why.to_string())
            }
        }
    }

    fn respond(&self, answer: &Answer) -> Response<Body> {
        let status = if answer.is_denied {
            self.denied_status
        } else {
            StatusCode::OK
        };
        let limited = answer.statuses.iter().filter(|status| status.window.is_some());
        let tightest = limited.min_by_key(|status| {
            (
                !status.is_over,
                status.window.map_or(u64::MAX, |window| window.remaining),
            )
        });
        let window = tightest.and_then(|status| status.window);
        let view = AnswerView {
            allowed: !answer.is_denied,
            rule: tightest
                .map(|status| status.rule.as_str())
                .filter(|rule| !rule.is_empty()),
            limit: window.map(|window| window.limit),
            remaining: window.map(|window| window.remaining),
            reset: window.map(|window| window.reset_seconds),
            period: window.map(|window| window.period),
            reason: answer.is_denied.then_some(answer.reason),
        };
        let mut response = json(status, &view);
        response.headers_mut().extend(answer.headers.clone());
        response
    }
}

/// A refusal in words.
pub(super) fn refuse(status: StatusCode, message: &str) -> Response<Body> {
    #[derive(Serialize)]
    struct ErrorView<'a> {
        message: &'a str,
    }
    json(status, &ErrorView { message })
}

#[derive(Serialize)]
struct AnswerView<'a> {
    allowed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    remaining: Option<u64>,
    /// Seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    reset: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "display")]
    period: Option<Period>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
}

fn display<S: serde::Serializer>(period: &Option<Period>, serializer: S) -> Result<S::Ok, S::Error> {
    match period {
        Some(period) => serializer.collect_str(period),
        None => serializer.serialize_none(),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Question {
    rule: Option<String>,
    key: Option<String>,
    #[serde(alias = "hits_addend", alias = "hitsAddend")]
    hits: Option<u64>,
    domain: Option<String>,
    #[serde(default)]
    descriptors: Vec<Descriptor>,
    denied_status: Option<u16>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Descriptor {
    entries: Vec<EntryBody>,
    #[serde(alias = "hits_addend", alias = "hitsAddend")]
    hits: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EntryBody {
    key: String,
    #[serde(default)]
    value: String,
}

/// The value of `X-Weir-Key`, if there is exactly one.
fn sole(headers: &HeaderMap) -> Option<&[u8]> {
    let mut values = headers.get_all(X_WEIR_KEY).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => Some(value.as_bytes()),
        _ => None,
    }
}

/// `KEY:VALUE`, or `KEY` whose value is in the header.
fn entry(text: String, headers: &HeaderMap) -> Result<(String, String), Malformed> {
    if let Some((key, value)) = text.split_once(':') {
        return Ok((key.to_owned(), value.to_owned()));
    }
    let value = sole(headers).and_then(|value| std::str::from_utf8(value).ok());
    match value {
        Some(value) => Ok((text, value.to_owned())),
        None => Err(Malformed::NoValue(text.chars().take(64).collect())),
    }
}

fn status(number: Option<u16>) -> Result<StatusCode, Malformed> {
    let number = number.unwrap_or(429);
    let status = StatusCode::from_u16(number)
        .ok()
        .filter(StatusCode::is_client_error);
    status.ok_or(Malformed::DeniedStatus)
}
