//! The simulator: N real cores (limiter and replication) on a virtual network under a virtual clock.
//!
//! Deterministic: one seed decides every delay, loss, fault and request, so a run can be repeated to the
//! event. Owns the virtual world; the code under test is the code that production runs.

mod converge;
mod fault;
mod flood;
mod judge;
mod network;
mod node;
mod oracle;
mod plan;
mod schedule;
mod watch;
mod world;

pub use fault::{Fault, FaultReport};
pub use flood::Flood;
pub use network::{Link, Network};
pub use oracle::{Oracle, Violation};
pub use plan::{Convergence, Pattern, Plan, PlanError, PlanReport};
pub use schedule::{Schedule, ScheduleReport, run_schedule};
pub use world::{World, WorldConfig};
