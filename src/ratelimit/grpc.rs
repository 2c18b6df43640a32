//! The gRPC side: `ShouldRateLimit` of Envoy's rate limit service, and the health service. Messages are framed and
//! coded by tonic.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use http::{HeaderMap, Request, Response};
use hyper::body::Incoming;
use tonic::body::Body;
use tonic::server::{Grpc, UnaryService};
use tonic::{Code as GrpcCode, Status as GrpcStatus};
use tonic_prost::ProstCodec;

use super::answer::{Answer, Status};
use super::judge::Judge;
use super::messages::{
    Code, DescriptorStatus, Duration, HeaderValue, HealthCheckRequest, HealthCheckResponse, RateLimit,
    RateLimitDescriptor, RateLimitRequest, RateLimitResponse, Serving, Unit,
};
use super::metrics::{Api, Outcome};
use super::question::{Asked, Unanswerable};
use crate::limit::Period;

/// Where Envoy asks.
pub(super) const SHOULD_RATE_LIMIT: &str = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit";
/// Where health checks ask.
pub(super) const HEALTH_CHECK: &str = "/grpc.health.v1.Health/Check";
/// The service that [`SHOULD_RATE_LIMIT`] is a method of.
const SERVICE: &str = "envoy.service.ratelimit.v3.RateLimitService";

/// Largest message; those that Envoy sends have some hundred bytes.
pub(super) const MESSAGE_BYTES_MAX: usize = 64 * 1024;

type Reply<T> = Pin<Box<dyn Future<Output = Result<tonic::Response<T>, GrpcStatus>> + Send>>;

/// Answers a call of `ShouldRateLimit`.
pub(super) async fn should_rate_limit(judge: &Arc<Judge>, request: Request<Incoming>) -> Response<Body> {
    let codec = ProstCodec::<RateLimitResponse, RateLimitRequest>::new();
    let mut grpc = Grpc::new(codec).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let response = grpc.unary(ShouldRateLimit(Arc::clone(judge)), request).await;
    // What could not even be read never came to the judge.
    if GrpcStatus::from_header_map(response.headers()).is_some_and(|status| status.code() != GrpcCode::Ok) {
        judge.metrics().asked(Api::Envoy, Outcome::Malformed);
    }
    response
}

/// Answers a health check: whether the node takes requests.
pub(super) async fn health(is_ready: bool, request: Request<Incoming>) -> Response<Body> {
    let codec = ProstCodec::<HealthCheckResponse, HealthCheckRequest>::new();
    let mut grpc = Grpc::new(codec).max_decoding_message_size(MESSAGE_BYTES_MAX);
    grpc.unary(Health(is_ready), request).await
}

/// A response of nothing but a status.
pub(super) fn refuse(code: GrpcCode, message: &str) -> Response<Body> {
    GrpcStatus::new(code, message).into_http()
}

struct ShouldRateLimit(Arc<Judge>);

impl UnaryService<RateLimitRequest> for ShouldRateLimit {
    type Response = RateLimitResponse;
    type Future = Reply<RateLimitResponse>;

    fn call(&mut self, request: tonic::Request<RateLimitRequest>) -> Self::Future {
        let judge = Arc::clone(&self.0);
        Box::pin(async move {
            let answer = answer(&judge, request.into_inner()).await;
            let answer = answer.map_err(|why| GrpcStatus::invalid_argument(why.to_string()))?;
            judge.metrics().asked(Api::Envoy, outcome(&answer));
            Ok(tonic::Response::new(response(&answer)))
        })
    }
}

struct Health(bool);

impl UnaryService<HealthCheckRequest> for Health {
    type Response = HealthCheckResponse;
    type Future = Reply<HealthCheckResponse>;

    fn call(&mut self, request: tonic::Request<HealthCheckRequest>) -> Self::Future {
        let service = request.into_inner().service;
        let status = if self.0 {
            Serving::Serving
        } else {
            Serving::NotServing
        };
        Box::pin(async move {
            if !service.is_empty() && service != SERVICE {
                return Err(GrpcStatus::not_found(format!("the service here is `{SERVICE}`")));
            }
            Ok(tonic::Response::new(HealthCheckResponse {
                status: status.into(),
            }))
        })
    }
}

/// What became of a question that was answered.
pub(super) fn outcome(answer: &Answer) -> Outcome {
    match answer {
        Answer { is_denied: true, .. } => Outcome::Denied,
        Answer { is_limited: true, .. } => Outcome::Admitted,
        _ => Outcome::Unlimited,
    }
}

async fn answer(judge: &Judge, request: RateLimitRequest) -> Result<Answer, Unanswerable> {
    if request
        .descriptors
        .iter()
        .any(|descriptor| descriptor.limit.is_some())
    {
        return Err(Unanswerable::Override);
    }
    let default = u64::from(request.hits_addend.max(1));
    let asked = |descriptor: RateLimitDescriptor| Asked {
        hits: descriptor.hits_addend.map_or(default, |hits| hits.value),
        entries: descriptor
            .entries
            .into_iter()
            .map(|entry| (entry.key, entry.value))
            .collect(),
    };
    let asked: Vec<_> = request.descriptors.into_iter().map(asked).collect();
    judge.ask(&request.domain, &asked).await
}

fn response(answer: &Answer) -> RateLimitResponse {
    RateLimitResponse {
        overall_code: code(answer.is_denied).into(),
        statuses: answer.statuses.iter().map(descriptor_status).collect(),
        response_headers_to_add: response_headers(&answer.headers),
    }
}

fn code(is_over: bool) -> Code {
    if is_over { Code::OverLimit } else { Code::Ok }
}

fn descriptor_status(status: &Status) -> DescriptorStatus {
    let Some(window) = status.window else {
        return DescriptorStatus {
            code: code(status.is_over).into(),
            current_limit: None,
            limit_remaining: if status.is_unlimited { u32::MAX } else { 0 },
            duration_until_reset: None,
        };
    };
    DescriptorStatus {
        code: code(status.is_over).into(),
        current_limit: Some(RateLimit {
            requests_per_unit: saturated(window.limit),
            unit: unit(window.period).into(),
            name: status.name.clone(),
        }),
        limit_remaining: saturated(window.remaining),
        duration_until_reset: Some(Duration {
            seconds: i64::try_from(window.reset_seconds).unwrap_or(i64::MAX),
        }),
    }
}

fn saturated(count: u64) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn unit(period: Period) -> Unit {
    match period {
        Period::Second => Unit::Second,
        Period::Minute => Unit::Minute,
        Period::Hour => Unit::Hour,
        Period::Day => Unit::Day,
        Period::Month => Unit::Month,
        Period::Year => Unit::Year,
        Period::Every(_) => Unit::Unknown,
    }
}

fn response_headers(headers: &HeaderMap) -> Vec<HeaderValue> {
    let text = |(name, value): (&http::HeaderName, &http::HeaderValue)| HeaderValue {
        key: name.as_str().to_owned(),
        value: value.to_str().unwrap_or_default().to_owned(),
    };
    headers.iter().map(text).collect()
}
