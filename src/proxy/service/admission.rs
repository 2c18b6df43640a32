//! Whether a request may pass: it has a route, and its limits have room.

use http::{Request, header::HeaderValue};
use hyper::body::Incoming;

use super::Turn;
use crate::limit::{Charge, Decision, Due, Outcome};
use crate::path::{PathError, normalize};
use crate::proxy::charge::Subject;
use crate::proxy::forwarding::client_scheme;
use crate::proxy::respond::Refusal;
use crate::proxy::route::{Asked, RouteState, Step, Wanted};
use crate::proxy::wait::{wait_for_rights, wall_clock};

impl<'c> Turn<'c> {
    /// Finds the route and charges the limits. Answers what becomes of the request then.
    pub(super) async fn admit(
        &mut self,
        request: &Request<Incoming>,
        host: Option<&HeaderValue>,
    ) -> Result<(&'c RouteState, Step<'c>), Refusal> {
        let config = self.shared().config();
        let slashes = config.routing.escaped_slashes;
        let path = &normalize(request.uri().path(), slashes).map_err(bad_path)?;
        let host = host.and_then(|host| host.to_str().ok()).unwrap_or_default();
        let wanted = Wanted {
            host,
            path,
            method: request.method(),
            headers: request.headers(),
            query: request.uri().query().unwrap_or_default(),
        };
        let (route, hit) = self.shared().route(&wanted).ok_or(Refusal::NoRoute)?;
        self.route = Some(route);
        let asked = Asked {
            scheme: client_scheme(request.headers(), self.connection.peer()),
            host,
            path,
            sent: request.uri().path_and_query(),
        };
        if route.plan.is_empty() {
            return Ok((route, route.step(hit.path, &asked, slashes).map_err(bad_path)?));
        }
        let limiter = self.shared().limiter();
        let subject = Subject {
            client: self.client_ip(request.headers()),
            headers: request.headers(),
            path,
            route: &route.config,
        };
        let charges = route.plan.charges(&subject, self.shared().hasher());
        let now = wall_clock();
        limiter.prefetch(&charges, now);
        // Worked out while the counters are on their way. What cannot be passed on is not counted.
        let step = route.step(hit.path, &asked, slashes).map_err(bad_path)?;
        let mut decision = limiter.check(&charges, now);
        if !decision.short.is_empty() {
            let shard = self.connection.worker().shard();
            // Boxed, so that requests that wait for nothing carry none of it.
            decision = Box::pin(wait_for_rights(self.shared(), shard, &charges, decision)).await;
        }
        self.apply(decision, &charges, &subject, route)?;
        Ok((route, step))
    }

    /// Does what a decision says.
    fn apply(
        &mut self,
        decision: Decision,
        charges: &[Charge],
        subject: &Subject<'_>,
        route: &RouteState,
    ) -> Result<(), Refusal> {
        let shared = self.shared();
        match decision.due {
            Due::No => {}
            Due::Wake => drop(shared.announce()),
            Due::Await => self.announced = Some(shared.announce()),
        }
        if decision.created {
            let identities = route.plan.identities(subject);
            for (charge, identity) in charges.iter().zip(identities) {
                shared.limiter().names().record(charge.key, &identity);
            }
        }
        let outcome = decision.outcome;
        let is_short = !decision.short.is_empty();
        let without_share = decision.without_share;
        self.decision = Some(decision);
        let shard = self.connection.worker().shard();
        match outcome {
            Outcome::Admitted => shard.admitted.add(1),
            Outcome::Denied { .. } => {
                shard.denied.add(1);
                shard.denied_short.add(u64::from(is_short));
                shard.denied_without_share.add(u64::from(without_share));
                return Err(Refusal::Denied);
            }
        }
        Ok(())
    }
}

fn bad_path(error: PathError) -> Refusal {
    Refusal::BadRequest(error.message())
}
