//! Tests of the whole request path.
