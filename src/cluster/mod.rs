//! Membership, discovery and the sealed UDP transport; drives [`crate::replication`].
