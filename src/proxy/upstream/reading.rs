//! What operators see of upstreams.

/// One upstream at about one time; counts are totals since it was configured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UpstreamReading {
    /// Its name.
    pub name: String,
    /// Its endpoints, in the order of the configuration.
    pub endpoints: Vec<EndpointReading>,
    /// No endpoint is healthy and in, so all are used.
    pub is_panic: bool,
    /// Requests in flight to it.
    pub in_flight: u64,
    /// Times that an endpoint was left out for failing requests.
    pub ejections: u64,
    /// Requests that were tried again.
    pub retries: u64,
    /// Requests that would have been, had the retry budget allowed it.
    pub retries_refused: u64,
    /// Requests that found too many waiting for a connection.
    pub pending_refused: u64,
    /// Requests that waited too long for a connection.
    pub pending_timed_out: u64,
}

/// One endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointReading {
    /// Address, with the name that it was found by.
    pub name: String,
    /// Its checks pass, or there are none.
    pub is_healthy: bool,
    /// It is left out for failing requests.
    pub is_ejected: bool,
}
