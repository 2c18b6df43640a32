//! The child processes of the demo: started, listened to, and never left behind.

use std::collections::VecDeque;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;

/// Longest wait for a child to say that it listens: starting takes milliseconds, on a loaded machine a
/// second or two.
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// Lines kept of what each child wrote, to be shown if the demo fails.
const LOG_LINES_MAX: usize = 30;

/// Every child of the demo. They are killed by handle, at the latest when this is dropped.
#[derive(Debug, Default)]
pub(super) struct Processes {
    children: Vec<Process>,
}

#[derive(Debug)]
struct Process {
    name: String,
    child: Child,
    log: Log,
}

type Log = Arc<Mutex<VecDeque<String>>>;

impl Processes {
    /// Starts this very executable with `args`, and waits for the line of its output that begins with
    /// `announcement`: what follows on that line.
    pub(super) async fn start(
        &mut self,
        name: &str,
        args: &[String],
        announcement: &'static str,
    ) -> anyhow::Result<String> {
        let (log, mut lines) = self.spawn(name, args)?;
        let announced = async {
            while let Some(line) = lines.recv().await {
                if let Some(rest) = line.strip_prefix(announcement) {
                    return Some(rest.to_owned());
                }
            }
            None
        };
        match tokio::time::timeout(START_TIMEOUT, announced).await {
            Ok(Some(rest)) => Ok(rest),
            Ok(None) => bail!("{name} ended before it was listening:\n{}", text(&log)),
            Err(_) => bail!(
                "{name} was not listening after {START_TIMEOUT:?}:\n{}",
                text(&log)
            ),
        }
    }

    fn spawn(&mut self, name: &str, args: &[String]) -> anyhow::Result<(Log, mpsc::Receiver<String>)> {
        let executable = std::env::current_exe().context("where is this executable?")?;
        let mut command = Command::new(executable);
        command
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        // The flags say it all: no setting meant for another node may reach these.
        for (variable, _) in std::env::vars_os() {
            let name = variable.to_string_lossy();
            if name.starts_with("WEIR_") || name.starts_with("POD_") {
                command.env_remove(&variable);
            }
        }
        let mut child = command.spawn().with_context(|| format!("starting {name}"))?;
        let log = Log::default();
        let (sender, lines) = mpsc::channel(LOG_LINES_MAX);
        if let Some(stdout) = child.stdout.take() {
            tokio::spawn(keep(stdout, Arc::clone(&log), Some(sender)));
        }
        if let Some(stderr) = child.stderr.take() {
            tokio::spawn(keep(stderr, Arc::clone(&log), None));
        }
        self.children.push(Process {
            name: name.to_owned(),
            child,
            log: Arc::clone(&log),
        });
        Ok((log, lines))
    }

    /// Fails if a child has ended: nobody told it to.
    pub(super) fn check(&mut self) -> anyhow::Result<()> {
        for process in &mut self.children {
            if let Some(status) = process.child.try_wait()? {
                bail!("{} ended ({status}):\n{}", process.name, text(&process.log));
            }
        }
        Ok(())
    }

    /// Kills every child and waits until it is gone.
    pub(super) async fn kill(&mut self) {
        // Both fail only for a child that has ended by itself.
        for process in &mut self.children {
            let _ = process.child.start_kill();
        }
        for process in &mut self.children {
            let _ = process.child.wait().await;
        }
    }
}

/// Reads `stream` to its end, so that the child never blocks on it: keeps the last lines, and passes
/// each on to `listener` as long as one listens.
async fn keep(stream: impl AsyncRead + Unpin, log: Log, mut listener: Option<mpsc::Sender<String>>) {
    let mut lines = BufReader::new(stream).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        if let Some(sender) = &listener
            && sender.send(line.clone()).await.is_err()
        {
            listener = None;
        }
        let mut log = log.lock().expect("no holder of this lock panics");
        if log.len() == LOG_LINES_MAX {
            log.pop_front();
        }
        log.push_back(line);
    }
}

fn text(log: &Log) -> String {
    let log = log.lock().expect("no holder of this lock panics");
    log.iter().map(|line| format!("  {line}\n")).collect()
}
