//! The simulator: N real cores (limiter and replication) on a virtual network under a virtual clock.
//!
//! Deterministic: one seed decides every delay, loss, fault and request, so a run can be repeated to the
//! event. Owns the virtual world; the code under test is the code that production runs.

mod bounded;
mod converge;
mod fault;
mod flood;
mod judge;
mod network;
mod node;
mod operator;
mod oracle;
mod plan;
mod promise;
mod rumours;
mod sabotage;
mod schedule;
mod steward;
mod waits;
mod watch;
mod world;

pub use bounded::{Arrival, BoundedReport, BoundedSchedule, Spread, run_bounded};
pub use fault::{Fault, FaultReport};
pub use flood::Flood;
pub use network::{Link, Network};
pub use oracle::{Oracle, Violation};
pub use plan::{Convergence, Pattern, Plan, PlanError, PlanReport, Waits};
pub use rumours::BoundedWorld;
pub use sabotage::Sabotage;
pub use schedule::{Schedule, ScheduleReport, run_schedule};
pub use waits::{Request, WaitReport};
pub use world::{World, WorldConfig};
