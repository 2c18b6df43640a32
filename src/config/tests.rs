//! Tests of the whole way from texts to a configuration.
