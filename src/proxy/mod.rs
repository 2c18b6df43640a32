//! Listeners, routing, upstream pools, headers, the response to every error.
