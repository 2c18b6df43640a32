//! The thread that looks up the names of upstreams and checks their health, one for the node: workers find what
//! it learns, and wait for nothing.

use std::io;
use std::rc::Rc;
use std::sync::Arc;

use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::oneshot;

use super::{Upstreams, check, resolve};

/// A running thread, which ends when this is dropped.
pub(in crate::proxy) struct Attendance {
    _stop: oneshot::Sender<()>,
}

impl Attendance {
    /// Starts to attend to `upstreams`; `None` when there is nothing to look up or to check.
    ///
    /// # Errors
    /// When a thread cannot be made.
    pub(in crate::proxy) fn start(upstreams: &Arc<Upstreams>) -> io::Result<Option<Self>> {
        let needs_any = upstreams
            .states()
            .iter()
            .any(|state| state.config.health.is_some() || resolve::names(&state.config).next().is_some());
        if !needs_any {
            return Ok(None);
        }
        let (stop, stopped) = oneshot::channel();
        let upstreams = Arc::clone(upstreams);
        std::thread::Builder::new()
            .name("weir-upstreams".to_owned())
            .spawn(move || attend(&upstreams, stopped))?;
        Ok(Some(Self { _stop: stop }))
    }
}

fn attend(upstreams: &Upstreams, stopped: oneshot::Receiver<()>) {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default());
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "names of upstreams are not looked up, and their health not checked");
            return;
        }
    };
    runtime.block_on(async {
        let resolver = Rc::new(resolve::resolver(&upstreams.dns));
        for state in upstreams.states() {
            for (target, name) in resolve::names(&state.config) {
                let keep_up = resolve::keep_up(
                    Rc::clone(&resolver),
                    Arc::clone(state),
                    target,
                    name.to_owned(),
                    upstreams.dns.clone(),
                );
                tokio::task::spawn_local(keep_up);
            }
            if state.config.health.is_some() {
                tokio::task::spawn_local(check::keep_up(Arc::clone(state)));
            }
        }
        // Ends with an error when the sender is dropped, which is all that it does.
        let _ = stopped.await;
    });
    runtime.shutdown_background();
}
