//! Starts and stops real Weir processes for scenarios.
