//! Answers that need no upstream: redirects and fixed responses.

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Response, StatusCode};

use crate::config::FixedResponse;
use crate::proxy::body::ResponseBody;
use crate::proxy::connection::InFlight;

/// A fixed response, ready to be sent any number of times without a copy.
pub(super) struct Prepared {
    status: StatusCode,
    content_type: HeaderValue,
    body: Bytes,
}

impl Prepared {
    pub(super) fn new(response: &FixedResponse) -> Self {
        Self {
            status: response.status,
            content_type: response.content_type.clone(),
            body: Bytes::from(response.body.clone()),
        }
    }

    pub(super) fn answer(&self) -> OwnAnswer {
        let content_type = self.content_type.clone();
        OwnAnswer {
            status: self.status,
            content_type: Some(content_type).filter(|_| !self.body.is_empty()),
            location: None,
            body: self.body.clone(),
        }
    }
}

/// What a route answers by itself.
pub(in crate::proxy) struct OwnAnswer {
    status: StatusCode,
    content_type: Option<HeaderValue>,
    location: Option<HeaderValue>,
    body: Bytes,
}

impl OwnAnswer {
    pub(super) fn redirect(status: StatusCode, location: HeaderValue) -> Self {
        Self {
            status,
            content_type: None,
            location: Some(location),
            body: Bytes::new(),
        }
    }

    /// Where a redirect leads.
    #[cfg(test)]
    pub(super) fn location(&self) -> Option<&str> {
        self.location.as_ref().and_then(|location| location.to_str().ok())
    }

    /// The response, without its body where the request was a HEAD.
    pub(in crate::proxy) fn into_response(
        self,
        is_head: bool,
        in_flight: InFlight,
    ) -> Response<ResponseBody> {
        let length = HeaderValue::from(self.body.len());
        // RFC 9110 §8.6, §15.3.6: no length for what never has content; 205 says that it has none.
        let has_length = !matches!(self.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        let body = if is_head { Bytes::new() } else { self.body };
        let mut response = Response::new(ResponseBody::text(body, in_flight));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        let fields = [
            (header::CONTENT_TYPE, self.content_type),
            (header::LOCATION, self.location),
            (header::CONTENT_LENGTH, Some(length).filter(|_| has_length)),
        ];
        for (name, value) in fields {
            if let Some(value) = value {
                headers.insert(name, value);
            }
        }
        response
    }
}
