//! Membership, discovery and the sealed UDP transport; drives [`crate::replication`].

pub mod fragment;
pub mod keyring;
pub mod seal;
